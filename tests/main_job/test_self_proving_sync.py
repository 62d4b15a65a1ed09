"""What goes wrong on the way to the engines stops the run and names the actor and a tensor.

Stale weights and a stale w: the ends of the runs of test_method_in_full.
"""

import re
from pathlib import Path

import pytest

from tests.main_job.faulty_learners import fault_in_sending, run_until_fault
from tests.main_job.harness import metrics

pytestmark = [pytest.mark.prove, pytest.mark.timeout(300)]  # In parts in tests/weights.


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("damage", r"tensor model\.layers\.\S+\.weight in bucket 1 is damaged"),
        ("skip", r"bucket 1 \(first tensor model\.layers\.\S+\) was skipped"),
    ],
)
def test_a_fault_stops_the_run_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, message: str
) -> None:
    faulty = fault_in_sending(kind, num_good_steps=1)
    overrides = ("run.num_steps=4", "sync.canary_every=1", "sync.timeout_s=30")
    ended = run_until_fault(monkeypatch, tmp_path / "run", faulty, *overrides)
    assert re.search(r"theta2\.adapter2: .*" + message, ended), ended
    rows = [row for row in metrics(tmp_path / "run") if "reward/mean" in row]
    assert len(rows) == 1
    assert all(row["sync/canary_mean"] < 1e-4 for row in rows)
