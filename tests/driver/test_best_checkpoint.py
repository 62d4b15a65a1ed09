"""The best checkpoint by validation survives the pruning of older ones."""

from pathlib import Path

import pytest

from coop_rl.driver.checkpoint_check import Inputs
from coop_rl.driver.checkpoint_store import CheckpointStore, read_progress
from tests.driver.tiny_checkpoints import progress, save, write_roles

ACCURACY, NLL = "eval/sums/pass@1", "eval/demonstrations/nll"


def test_the_best_is_kept_beside_the_newest(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    for step, value in ((1, 0.3), (2, 0.7), (3, 0.5), (4, 0.6)):
        save(store, step)
        if store.is_better(ACCURACY, value):
            store.mark_best(step, ACCURACY, value)
    assert [p.name for p in store.all()] == ["step-000002", "step-000004"]
    assert store.best() == tmp_path / "step-000002"
    again = CheckpointStore(tmp_path, keep=1)
    again.go_on_from(again.latest(), Inputs())
    assert not again.is_better(ACCURACY, 0.7)
    again.mark_best(4, ACCURACY, 0.8)
    assert [p.name for p in again.all()] == ["step-000004"]


@pytest.mark.parametrize(("metric", "better", "worse"), [(ACCURACY, 0.6, 0.4), (NLL, 0.4, 0.6)])
def test_accuracies_are_better_high_and_nlls_low(
    tmp_path: Path, metric: str, better: float, worse: float
) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    save(store, 1)
    store.mark_best(1, metric, 0.5)
    assert store.is_better(metric, better)
    assert not store.is_better(metric, worse)


def test_the_methods_state_comes_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    folder = store.begin(3)
    write_roles(folder, 3)
    store.commit(folder, progress(3, {"seen": 3}))
    latest = store.latest()
    assert latest is not None
    assert read_progress(latest).method == {"seen": 3}
