"""Rollout and reward actors die, and the run ends as if nobody had (real stack)."""

import json
import re
from pathlib import Path

import psutil
import pytest
import ray

import coop_rl
from coop_rl.distributed import build
from coop_rl.driver.checkpoint_store import CheckpointStore
from coop_rl.errors import ActorLostError
from tests.main_job.conftest import WHOLE_STEPS
from tests.main_job.harness import DEMO, SMALL, metrics
from tests.main_job.mortal_actors import (
    Deaths,
    mortal_reward,
    mortal_rollouts,
    run_among_deaths,
)

NOT_COMPARED = ("time/", "recovered/", "ledger/", "sync/", "perf/", "tokens/per")
"""What depends on the clock, or counts what was done twice."""


def rows_of(run_dir: Path) -> list[dict]:
    return [
        {name: value for name, value in row.items() if not name.startswith(NOT_COMPARED)}
        for row in metrics(run_dir)
    ]


ALONE: Deaths = {"rollout-0": [("generate", 4 + 32 + 8 + 3), ("receive_weights", 2)]}
"""In the second step; its replacement after the one that it comes back in. An engine alone gets 4
prompts of the canary, 16 of the evaluation twice, and 8 a step."""
BOTH: Deaths = {
    "rollout-0": [("receive_weights", 3)],
    "rollout-1": [("generate", 4 + 16 + 4 + 4 + 8 + 3)],
}
"""After the second step, and in the fourth one, which the other one by itself begins."""


@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("deaths", "num_losses"), [(ALONE, 2), (BOTH, 2)], ids=["alone", "both"])
def test_a_run_whose_actors_are_killed_is_bit_for_bit_the_undisturbed_one(
    deaths: Deaths,
    num_losses: int,
    tmp_path: Path,
    whole_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """SIGKILL of rollout actors that generate and in a sync, and of the reward actor."""
    run_among_deaths(
        monkeypatch,
        tmp_path / "run",
        mortal_rollouts(deaths),
        mortal_reward(32 + 5 * 8 + 4),
        f"run.num_steps={WHOLE_STEPS}",
        f"rollout.num_actors={len(deaths)}",
        "placement.rollout.cpus=0.5",
        "sync.timeout_s=60",
        "checkpoint.every=4",
        "checkpoint.beside_training=true",
    )
    assert rows_of(tmp_path / "run") == rows_of(whole_run)
    store = CheckpointStore(tmp_path / "run/checkpoints", keep=2, roles=("joint", "shadow", "meta"))
    assert [path.name for path in store.all()] == ["step-000004", f"step-{WHOLE_STEPS:06d}"]
    assert store.find().damaged == ()
    out = " ".join(capsys.readouterr().out.split())
    for loss in ("died in generate", "died in receive weights"):
        assert re.search(rf"lost rollout-\d, which is replaced: rollout-\d {loss}", out)
    assert out.count("lost rollout-") == num_losses
    assert "lost reward, which is replaced: reward died in score" in out
    counts = [
        sum(row.get(f"recovered/{role}", 0) for row in metrics(tmp_path / "run"))
        for role in ("rollouts", "reward_actors")
    ]
    # Of two, one may come back too late for the last step.
    assert counts in ([num_losses, 1], [num_losses - (len(deaths) == 2), 1])
    places = json.loads((tmp_path / "run/actors.json").read_text())
    assert len({place["pid"] for place in places.values()}) == len(places)


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_after_a_loss_the_same_call_of_the_api_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one process, which is the driver of both attempts; in the third step (see `ALONE`)."""
    deaths: Deaths = {"rollout-0": [("generate", 4 + 32 + 16 + 3)]}
    monkeypatch.setattr(build, "RolloutActor", mortal_rollouts(deaths))
    few = ("run.num_steps=4", "checkpoint.every=2", "recovery.rollout_restarts=0")

    def train() -> coop_rl.Result:
        return coop_rl.train(DEMO, overrides=[*SMALL, *few], run_dir=tmp_path / "run")

    with pytest.raises(ActorLostError, match=r"^rollout-0 died in generate"):
        train()
    assert not ray.is_initialized()
    assert psutil.Process().children(recursive=True) == []
    result = train()
    assert list(result.metrics.index) == [0, 1, 2, 3]
    (loss,) = result.status["losses"]
    assert (loss["who"], loss["resumed_from"]) == (["rollout-0"], 2)
    assert result.status["status"] == "finished"
