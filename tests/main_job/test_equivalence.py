"""`rl` is bridge at mix = 1 with w frozen, `sft` at mix = 0: step for step, on the whole stack."""

from pathlib import Path

import pytest

from tests.main_job.harness import metrics, train

FROZEN = "meta.w_objective=frozen"
NUM_STEPS = 3


@pytest.mark.prove  # Without engines: tests/whole_loop/test_methods.py.
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("kind", "mix", "fields"),
    [
        ("rl", 1, ("reward/mean", "loss/rl", "grad/norm", "policy/entropy", "tokens/generated")),
        ("sft", 0, ("loss/sft", "grad/norm")),
    ],
)
def test_the_ends_of_mix(tmp_path: Path, kind: str, mix: int, fields: tuple[str, ...]) -> None:
    rows = {}
    for name, overrides in (
        ("alone", (f"method.kind={kind}",)),
        ("bridge", (f"method.mix={mix}", FROZEN)),
    ):
        job = train(tmp_path / name, f"run.num_steps={NUM_STEPS}", *overrides).start()
        done = job.finish()
        assert done.returncode == 0, done.stderr[-2000:]
        rows[name] = [r for r in metrics(tmp_path / name) if "grad/norm" in r]
        assert len(rows[name]) == NUM_STEPS
    for alone, bridge in zip(rows["alone"], rows["bridge"], strict=True):
        for field in fields:
            assert alone[field] == bridge[field], (field, alone["step"])
    last = [metrics(tmp_path / name)[-1] for name in rows]
    assert last[0]["eval/sums/avg@2"] == last[1]["eval/sums/avg@2"]
