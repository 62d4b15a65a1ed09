"""A learner in a checkpoint: masters of theta and AdamW's moments, w flat, and both versions.

<checkpoint>/<branch>/    every rank gathers, rank 0 writes; any number of ranks reads
"""

from pathlib import Path

from coop_rl.learner.engine import MASTER, NUM_STEPS, TrainingEngine, state_layout
from coop_rl.learner.state_io import StateReader, StateWriter
from coop_rl.models.adapter import Adapter
from coop_rl.types import PolicyVersion

ADAPTER_KEY = "adapter"
SECOND_OPTIMIZER = "own/"
"""Prefix of the second optimiser state's moments; the masters are the same."""


def write_learner(
    folder: Path,
    engine: TrainingEngine,
    adapter: Adapter | None,
    version: PolicyVersion,
    *,
    has_second_optimizer: bool,
) -> None:
    """Write `folder`; all ranks call it."""
    writer = StateWriter(folder) if engine.rank == 0 else None
    for key, tensor in engine.export_state():
        if writer:
            writer.add(key, tensor)
    if has_second_optimizer:
        engine.swap_optimizer_state()
        for key, tensor in engine.export_state():
            if writer and not key.startswith(MASTER):
                writer.add(SECOND_OPTIMIZER + key, tensor)
        engine.swap_optimizer_state()
    if writer:
        if adapter is not None:
            writer.add(ADAPTER_KEY, adapter.flatten())
        writer.finish({"theta": version.theta, "adapter": version.adapter})


def read_learner(
    folder: Path, engine: TrainingEngine, adapter: Adapter | None
) -> tuple[PolicyVersion, bool]:
    """Overwrite `engine` and `adapter`; return the version, and if a second optimiser was used."""
    reader = StateReader(folder)
    keys = [key for key, _, _ in state_layout(engine.metadata())]
    has_second_optimizer = reader.has(SECOND_OPTIMIZER + NUM_STEPS)
    if has_second_optimizer:
        stored = [key if key.startswith(MASTER) else SECOND_OPTIMIZER + key for key in keys]
        engine.import_state((k.removeprefix(SECOND_OPTIMIZER), t) for k, t in reader.read(stored))
        engine.swap_optimizer_state()
    engine.import_state(reader.read(keys))
    if adapter is not None:
        for _, flat in reader.read([ADAPTER_KEY]):
            adapter.load_flat(flat)
    return PolicyVersion(reader.values["theta"], reader.values["adapter"]), has_second_optimizer
