"""A run directory, or one checkpoint of it, as the user names it: for `evaluate` and `export`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from coop_rl.config import RunConfig, load_config
from coop_rl.driver.checkpoint_store import BEST, CheckpointStore, read_progress
from coop_rl.errors import RunDirectoryError

Which = Literal["newest", "best"]


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A run and the checkpoint of it that is meant, verified."""

    path: Path
    config: RunConfig
    checkpoint: Path
    step: int
    """Steps trained before the checkpoint."""

    @classmethod
    def find(
        cls,
        given: Path,
        which: Which,
        overrides: Sequence[str] = (),
        *,
        say: Callable[[str], None],
    ) -> "StoredCheckpoint | None":
        """Return the run that `given` names; None: it is neither a run nor a checkpoint.

        Args:
            given: A run directory, or one of its checkpoints/step-* folders.
            which: The checkpoint, where a run directory is given.
            overrides: Of the run's config.
            say: Told of damaged checkpoints that were passed over.

        Raises:
            UserError: The run has no such checkpoint, or the checkpoint is damaged.
        """
        if (run := run_folder(given)) is None:
            return None
        checkpoint = given if run != given else _checkpoint(run, which, say)
        step = read_progress(checkpoint).next_step
        return cls(run, load_config(run / "config.json", overrides), checkpoint, step)

    @property
    def name(self) -> str:
        """The run's folder and the checkpoint's."""
        return f"{self.path.resolve().name}-{self.checkpoint.name}"


def run_folder(given: Path) -> Path | None:
    """Return the directory of the run that `given` names; None: it names none."""
    run = given.parent.parent if given.parent.name == "checkpoints" else given
    return run if (run / "checkpoints").is_dir() else None


def _checkpoint(run: Path, which: Which, say: Callable[[str], None]) -> Path:
    store = CheckpointStore(run / "checkpoints", keep=1)
    if which == "best":
        if best := store.best():
            return best
        raise RunDirectoryError(
            f"{run} has no best checkpoint (checkpoint.best was null, or {BEST} is damaged); give "
            "a step-* folder"
        )
    found = store.find()
    if found.newest is None:
        why = "; ".join(found.lines()) or "there is none"
        raise RunDirectoryError(f"{run} has no whole checkpoint: {why}; give another run")
    for line in found.lines():
        say(line)
    return found.newest
