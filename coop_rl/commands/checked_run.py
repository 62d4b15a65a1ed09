"""What `coop-rl train` knows before anything is started; imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from coop_rl.commands.resume import Start
from coop_rl.config import RunConfig
from coop_rl.data.load import RunData
from coop_rl.driver.checkpoint_mirror import CheckpointMirror
from coop_rl.driver.checkpoint_store import CheckpointStore
from coop_rl.evaluation.sets import EvaluationSet
from coop_rl.observability.console import RunConsole
from coop_rl.observability.run_directory import RunDirectory


@dataclass(frozen=True, slots=True)
class CheckedRun:
    """A run whose input was checked and whose directory was made; nothing was started."""

    config: RunConfig
    data: RunData
    sets: Sequence[EvaluationSet]
    directory: RunDirectory
    store: CheckpointStore
    start: Start
    """The checkpoint to go on from, verified, or that the run begins anew."""
    console: RunConsole
    mirror: CheckpointMirror | None
    """Copies checkpoints elsewhere, where the config says so."""
