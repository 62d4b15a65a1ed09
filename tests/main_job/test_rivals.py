"""Every rival runs on the real stack, on the same loop."""

import math
from pathlib import Path

import pytest

from tests.main_job.harness import metrics, train

NUM_STEPS = 10


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["sum", "alternate", "chord"])
def test_ten_steps(tmp_path: Path, kind: str) -> None:
    job = train(tmp_path / "run", f"run.num_steps={NUM_STEPS}", f"method.kind={kind}").start()
    done = job.finish()
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [row for row in metrics(tmp_path / "run") if "grad/norm" in row]
    assert [row["step"] for row in rows] == list(range(NUM_STEPS))
    for row in rows:
        is_rl, is_sft = (
            (row["step"] % 2 == 0, row["step"] % 2 == 1) if kind == "alternate" else (True, True)
        )
        assert (row["loss/rl"] is not None) == is_rl
        assert (row["loss/sft"] is not None) == is_sft
        assert (row["tokens/generated"] > 0) == is_rl
        assert (row["tokens/trained_sft"] > 0) == is_sft
        assert math.isfinite(row["grad/norm"])
        assert row["gain/value"] is None
    shares = [row["guidance/mix"] for row in rows]
    assert (
        shares
        == {
            "sum": [0.5] * NUM_STEPS,
            "alternate": [1.0, 0.0] * (NUM_STEPS // 2),
            "chord": pytest.approx(
                [0.525 - 0.425 * math.cos(math.pi * k / 200) for k in range(NUM_STEPS)]
            ),
        }[kind]
    )
    logs = {path.stem for path in (tmp_path / "run/logs").iterdir()}
    assert not logs & {"meta-controller", "learner-rl_only-0"}
