"""What stands below the lines on a terminal."""

import io

import pytest
from rich.console import Console

from coop_rl.observability.console import RunConsole
from coop_rl.observability.live_view import (
    LiveView,
    guidance_text,
    health_text,
    sparkline,
    time_text,
)
from coop_rl.observability.metrics import step_metrics
from tests.observability.records import bridge, sft

WEIGHTS = {"guidance/weight/good": 0.875, "guidance/weight/careless": 0.125}


def lines(width: int, *rows: dict) -> list[str]:
    """Return what stands there after these steps, the bar last."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    view = LiveView(console, 50, 0)
    for i, row in enumerate(rows):
        view.step(row, i + 1, 125.0)
    with console.capture() as shown:
        console.print(*view.get_renderables(), sep="\n")
    return shown.get().splitlines()


def bridge_row(step: int = 3) -> dict:
    times = {"time/step_s": 10.0, "time/generate_s": 4.0, "time/train_s": 5.0, "time/push_s": 0.01}
    return {**step_metrics(bridge(step), times), **WEIGHTS}


@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_guided_step_shows_all_of_it_in_any_width(width: int) -> None:
    shown = lines(width, bridge_row(3), bridge_row(4))
    assert all(len(line) <= width for line in shown)
    text = "\n".join(shown)
    for expected in (
        "reward ▁▁ 0.750",
        "accuracy ▁▁ 0.750",
        "gain +0.0110 ± 0.0020, shadow age 3",
        "guidance λ 0.50  good 0.88  careless 0.12",
        "time train 50%  generate 40%  other 10%  1 tokens/s",
    ):
        assert expected in text
    assert shown[-1].startswith("step")
    assert shown[-1].rstrip().endswith("2/50 0:02:05 left")
    assert len(shown) == (5 if width == 60 else 4)


def test_what_the_method_has_not_takes_no_line() -> None:
    shown = lines(80, dict(step_metrics(sft(0), {"time/step_s": 2.0})))
    assert shown[-1].startswith("step")
    text = " ".join(shown)
    for absent in ("gain", "reward", "n/a", "shadow", "guidance", "None", "nan"):
        assert absent not in text


def test_nothing_is_known_before_the_first_step() -> None:
    (bar,) = lines(80)
    assert "0/50" in bar


@pytest.mark.parametrize(
    ("values", "columns", "curve"),
    [
        ([], 8, ""),
        ([1.0], 8, "▁"),
        ([0.0, 0.5, 1.0], 8, "▁▅█"),
        ([2.0] * 5, 4, "▁▁▁▁"),
        ([0.0] * 50 + [1.0] * 50, 2, "▁█"),
        ([3, 2, 1], 3, "█▅▁"),
    ],
)
def test_a_curve_goes_from_its_lowest_to_its_highest(values, columns, curve) -> None:
    assert sparkline(values, columns) in (curve, curve.replace("▅", "▄"))
    assert sparkline(values, columns, "_^").isascii()


def test_texts_are_empty_without_figures() -> None:
    assert guidance_text({}) == time_text({}) == time_text({"time/step_s": 0.0}) == ""


WELL = {"silent_s": 4.9, "children": [{"name": "VLLM::EngineCore", "state": "sleeping"}]}
SILENT = {"silent_s": 12.3, "children": []}
HALTED = {"silent_s": 0.0, "children": [{"name": "VLLM::EngineCore", "state": "stopped"}]}


@pytest.mark.parametrize(
    ("actors", "text"),
    [
        ({}, ""),
        ({"rollout-0": WELL}, "1 actor, answers"),
        ({f"rollout-{i}": WELL for i in range(7)}, "7 actors, all answer"),
        (
            {"meta": WELL, "rollout-0": SILENT, "rollout-1": HALTED},
            "1 of 3 actors answer  rollout-0 silent 12 s  rollout-1 has VLLM::EngineCore stopped",
        ),
    ],
)
def test_who_does_not_answer_is_named(actors: dict, text: str) -> None:
    assert health_text({"actors": actors}) == text


@pytest.mark.parametrize("is_terminal", [True, False])
def test_actors_show_on_a_terminal_alone(is_terminal: bool) -> None:
    file = io.StringIO()
    console = RunConsole(Console(file=file, width=80, force_terminal=is_terminal))
    console.health({"actors": {"meta": SILENT}})  # before the first step
    console.begin(0, 10)
    console.health({"actors": {"meta": WELL, "rollout-0": SILENT}})
    console.close()
    assert ("rollout-0 silent 12 s" in file.getvalue()) == is_terminal


def test_a_run_shows_it_on_a_terminal_and_nowhere_else() -> None:
    for is_terminal in (True, False):
        file = io.StringIO()
        console = RunConsole(
            Console(file=file, width=200, force_terminal=is_terminal, highlight=False)
        )
        console.begin(0, 10)
        console.step(bridge_row())
        console.close()
        assert ("shadow age 3" in file.getvalue()) == is_terminal
