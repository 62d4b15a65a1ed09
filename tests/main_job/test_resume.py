"""A run that was killed goes on from its last checkpoint, bit for bit as if nothing had been."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.main_job.conftest import WHOLE_STEPS
from tests.main_job.harness import metrics, train, wait_for_step

CHECKPOINT_EVERY = 3
LOST_STEP = 4
"""Recorded, but after the last checkpoint: it is trained again."""
OURS = re.compile("ray::|VLLM|coop_rl")
"""Actors, engines and what they started."""


def figures(run_dir: Path) -> list[dict]:
    """Return all rows without what the clock measured."""
    return [
        {k: v for k, v in row.items() if not k.startswith("time/") and k != "sync/seconds"}
        for row in metrics(run_dir)
    ]


def state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint."""
    return {
        f"{path.relative_to(checkpoint).parent}/{key}": tensor
        for path in checkpoint.rglob("*.safetensors")
        for key, tensor in load_file(path).items()
    }


@pytest.mark.timeout(900)
def test_killed_run_goes_on_bit_for_bit(tmp_path: Path, whole_run: Path) -> None:
    run_dir = tmp_path / "killed"
    overrides = (f"run.num_steps={WHOLE_STEPS}", f"checkpoint.every={CHECKPOINT_EVERY}")
    job = train(run_dir, *overrides).start()
    wait_for_step(run_dir, LOST_STEP)
    assert job.process is not None
    job.process.kill()
    job.process.wait()
    left = job.left_over(within_s=30)
    assert not [line for line in left if OURS.search(line)]
    # Ray's own agents try to report to a control store that died with the driver
    # for gcs_rpc_server_reconnect_timeout_s = 60 s before they leave.
    assert job.left_over(within_s=60) == []
    kept = sorted(p.name for p in (run_dir / "checkpoints").glob("step-*"))
    assert kept == ["step-000003"]

    done = train(run_dir, *overrides).start().finish()
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step-000003" in done.stdout.replace("\n", "")
    assert figures(run_dir) == figures(whole_run)
    last = f"checkpoints/step-{WHOLE_STEPS:06d}"
    resumed, whole = state(run_dir / last), state(whole_run / last)
    assert resumed.keys() == whole.keys()
    assert {name.split("/")[0] for name in whole} == {"joint", "shadow", "meta"}
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
