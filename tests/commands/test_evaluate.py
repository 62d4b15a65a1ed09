"""The command line becomes a config, and bad input is refused before anything starts."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from coop_rl.commands import evaluate
from coop_rl.commands.evaluate import EvaluationRequest, run_evaluation
from coop_rl.commands.options import spread_option
from coop_rl.config import load_config
from coop_rl.errors import RunError, UserError

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs/local/demo.yaml"
MODEL = str(ROOT / "configs/local/demo/model")


def config(request: EvaluationRequest, path: Path | None = None):
    return evaluate._config(request, path, MODEL)


def test_a_model_alone_is_judged_by_math_on_all_rows() -> None:
    found = config(EvaluationRequest((MODEL,), ("gsm8k", "aime24"), num_samples=8))
    assert found.reward.kind == "math"
    assert found.evaluation.set_names == ("gsm8k", "aime24")
    assert found.evaluation.num_items is None
    assert found.evaluation.benchmark_items is None
    assert (found.evaluation.num_samples, found.evaluation.pass_ks) == (8, (2, 4, 8))
    assert found.model.path == MODEL


def test_options_and_overrides_beat_the_file() -> None:
    request = EvaluationRequest(
        (MODEL,), num_items=7, max_tokens=9, temperature=0.5, overrides=("evaluation.num_items=3",)
    )
    found = config(request, DEMO)
    assert found.reward.kind == "exact"
    assert found.evaluation.set_names == ("sums",)
    assert found.evaluation.num_items == 3
    assert (found.evaluation.max_tokens, found.evaluation.temperature) == (9, 0.5)


@pytest.mark.parametrize(
    ("benchmarks", "names"),
    [((), ("sums",)), (("gsm8k",), ("gsm8k",)), (("gsm8k", "sums"), ("sums", "gsm8k"))],
)
def test_named_sets_take_the_place_of_the_files(
    benchmarks: tuple[str, ...], names: tuple[str, ...]
) -> None:
    found = config(EvaluationRequest((MODEL,), benchmarks), DEMO)
    assert found.evaluation.set_names == names


def with_harder(folder: Path) -> Path:
    """Write a config that has one set more than the demo's."""
    harder = {"path": "harder.jsonl", "template": "{prompt}"}
    values = {
        "extends": os.path.relpath(DEMO, folder),
        "evaluation": {"more_data": {"harder": harder}},
    }
    (folder / "more.yaml").write_text(yaml.safe_dump(values))
    return folder / "more.yaml"


@pytest.mark.parametrize(
    ("benchmarks", "names"),
    [
        ((), ("sums", "harder")),
        (("gsm8k",), ("gsm8k",)),
        (("gsm8k", "harder"), ("harder", "gsm8k")),
        (("harder", "sums"), ("sums", "harder")),
    ],
)
def test_more_sets_of_the_file_are_named_alike(
    tmp_path: Path, benchmarks: tuple[str, ...], names: tuple[str, ...]
) -> None:
    found = config(EvaluationRequest((MODEL,), benchmarks), with_harder(tmp_path))
    assert found.evaluation.set_names == names
    if "harder" in names:
        assert found.evaluation.more_data["harder"].template == "{prompt}"


def test_a_data_file_is_alone(tmp_path: Path) -> None:
    request = EvaluationRequest((MODEL,), data=tmp_path / "mine.jsonl")
    found = config(request, with_harder(tmp_path))
    assert found.evaluation.set_names == ("mine",)


@pytest.mark.parametrize(("base", "template"), [(DEMO, "{prompt}"), (None, None)])
def test_a_data_file_is_asked_as_the_configs_own_set(
    tmp_path: Path, base: Path | None, template: str | None
) -> None:
    path = tmp_path / "mine.jsonl"
    found = config(EvaluationRequest((MODEL,), ("gsm8k",), data=path), base)
    assert found.evaluation.set_names == ("mine", "gsm8k")
    assert found.evaluation.data
    assert (found.evaluation.data.path, found.evaluation.data.template) == (str(path), template)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (EvaluationRequest((MODEL,)), "there is nothing to evaluate on; give --benchmark"),
        (EvaluationRequest((MODEL,), ("gsm9k",)), "unknown benchmark 'gsm9k'; allowed: math500"),
        (
            EvaluationRequest(("./no/model",), ("gsm8k",)),
            f"there is no model folder {ROOT}/no/model",
        ),
        (EvaluationRequest((MODEL,), data=Path("no.jsonl")), "there is no file no.jsonl"),
        (
            EvaluationRequest((MODEL,), ("gsm8k",), data_dir="no"),
            f"there is no {ROOT}/no/gsm8k/test",
        ),
        (EvaluationRequest((MODEL,), config=Path("no.yaml")), "cannot read config no.yaml"),
        (
            EvaluationRequest((MODEL,), ("gsm8k",), overrides=("learner.lr=1",)),
            "an evaluation has no section learner; it has model, reward",
        ),
        (EvaluationRequest((MODEL,), ("gsm8k",), num_samples=0), "greater than or equal to 1"),
        (
            EvaluationRequest(
                (MODEL,), config=DEMO, overrides=("rollout.num_actors=64", "evaluation.num_items=2")
            ),
            "CPUs are asked for",
        ),
    ],
)
def test_bad_input_is_refused_at_the_door(
    request_: EvaluationRequest, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(evaluate, "ray_session", None)
    with pytest.raises(UserError, match=re.escape(expected)):
        run_evaluation(request_, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_checkpoints_and_a_used_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    for which in ("newest", "best"):
        with pytest.raises(UserError, match="checkpoint"):
            run_evaluation(EvaluationRequest((str(tmp_path / "run"),), checkpoint=which), None)
    with pytest.raises(UserError, match="holds files; give an empty or new folder to --out"):
        run_evaluation(EvaluationRequest((MODEL,), config=DEMO, num_items=2), tmp_path)


def test_the_code_a_runs_own_config_names_is_not_run_unasked(tmp_path: Path) -> None:
    """A run directory may come from anybody: the module below would say that it was imported."""
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    function = f"reward.function={tmp_path / 'mine.py'}:judge"
    config = load_config(DEMO, ["reward.kind=python", function])
    (tmp_path / "run/config.json").write_text(config.model_dump_json())
    request = EvaluationRequest((str(tmp_path / "run"),))
    with pytest.raises(UserError, match=r"mine\.py:judge, whose code would run .*--allow-code"):
        run_evaluation(request, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    for asked in (replace(request, may_run_code=True), replace(request, config=DEMO)):
        with pytest.raises(UserError, match="has no whole checkpoint: there is none"):
            run_evaluation(asked, tmp_path / "out")


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        ("evaluate m --benchmark a", "evaluate m --benchmark a"),
        (
            "evaluate m n --benchmark a b c --out o",
            "evaluate m n --benchmark a --benchmark b --benchmark c --out o",
        ),
        ("train c --set a=1", "train c --set a=1"),
    ],
)
def test_one_option_takes_several_benchmarks(given: str, spread: str) -> None:
    assert spread_option(given.split(), "--benchmark") == spread.split()


def test_a_failure_leaves_no_empty_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RunError("an actor was lost")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(evaluate, "_evaluate", fail)
    with pytest.raises(RunError):
        run_evaluation(EvaluationRequest((MODEL, MODEL), config=DEMO), tmp_path / "out")
    assert not list(tmp_path.iterdir())
