"""Rollout and reward actors die, and the run ends as if nobody had (real stack)."""

import json
import re
import time
from pathlib import Path

import pytest

from tests.main_job.conftest import WHOLE_STEPS
from tests.main_job.harness import metrics
from tests.main_job.mortal_actors import mortal_reward, mortal_rollouts, run_among_deaths

NOT_COMPARED = ("time/", "recovered/", "ledger/", "sync/", "tokens/per")
"""What depends on the clock, or counts what was done twice."""


def rows_of(run_dir: Path) -> list[dict]:
    return [
        {name: value for name, value in row.items() if not name.startswith(NOT_COMPARED)}
        for row in metrics(run_dir)
    ]


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("num_actors", [1, 2])
def test_a_run_whose_actors_are_killed_is_bit_for_bit_the_undisturbed_one(
    num_actors: int,
    tmp_path: Path,
    whole_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SIGKILL of a rollout actor that generates, of its replacement in a sync, of the reward actor.

    Alone, an engine answers 16 prompts of the evaluation, 4 of the canary, and 8 a step.
    """
    deaths = (("generate", (4 + 16 + 8 + 3) // num_actors), ("receive_weights", 2))
    began = time.monotonic()
    run_among_deaths(
        monkeypatch,
        tmp_path / "run",
        mortal_rollouts(*deaths),
        mortal_reward(16 + 4 * 8),
        f"run.num_steps={WHOLE_STEPS}",
        f"rollout.num_actors={num_actors}",
        "placement.rollout.cpus=0.5",
        "sync.timeout_s=30",
        "checkpoint.every=4",
    )
    seconds = time.monotonic() - began
    assert rows_of(tmp_path / "run") == rows_of(whole_run)
    counts = [
        sum(row.get(f"recovered/{role}", 0) for row in metrics(tmp_path / "run"))
        for role in ("rollouts", "reward_actors")
    ]
    assert counts == [2 if num_actors == 1 else pytest.approx(1.5, abs=0.5), 1]
    out = capsys.readouterr().out.replace("\n", " ")
    assert re.search(r"lost rollout-0, which is replaced: rollout-0 died in generate", out)
    assert re.search(r"lost rollout-0, which is replaced: rollout-0 died in receive weights", out)
    assert re.search(r"lost reward, which is replaced: reward died in score", out)
    places = json.loads((tmp_path / "run/actors.json").read_text())
    assert len({place["pid"] for place in places.values()}) == len(places)
    with capsys.disabled():
        print(f"{num_actors} rollout actors, three killed: {seconds:.0f} s")
