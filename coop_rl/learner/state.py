"""A learner in a checkpoint: masters of theta and AdamW's moments, w flat, and both versions.

    <checkpoint>/<branch>/, <branch>-rank-1/ ...    every rank writes what it holds of them, and
                                                    reads what it needs, whoever has written it

Nothing is gathered. w, which all ranks have, is rank 0's to write.
"""

from pathlib import Path

import torch

from coop_rl.learner.engine import MASTER, NUM_STEPS, TrainingEngine
from coop_rl.learner.state_io import StateReader, StateWriter
from coop_rl.models.adapter import Adapter
from coop_rl.types import PolicyVersion

ADAPTER_KEY = "adapter"
SECOND_OPTIMIZER = "own/"
"""Prefix of the second optimiser state's moments; the masters are the same."""


def write_learner(
    writer: StateWriter,
    engine: TrainingEngine,
    adapter: Adapter | None,
    *,
    has_second_optimizer: bool,
) -> None:
    """Hand `writer` what this rank holds; all ranks call it."""
    for key, shape, start, values in engine.export_parts():
        writer.add(key, values, start, shape)
    if has_second_optimizer:
        engine.swap_optimizer_state()
        for key, shape, start, values in engine.export_parts():
            if not key.startswith(MASTER):
                writer.add(SECOND_OPTIMIZER + key, values, start, shape)
        engine.swap_optimizer_state()
    if adapter is not None and engine.rank == 0:
        writer.add(ADAPTER_KEY, adapter.flatten())


def read_learner(
    folder: Path, engine: TrainingEngine, adapter: Adapter | None
) -> tuple[PolicyVersion, bool]:
    """Overwrite `engine` and `adapter`; return the version, and if a second optimiser was used."""
    reader = StateReader(folder)

    def read_second(key: str, shape: tuple[int, ...], start: int, count: int) -> torch.Tensor:
        stored = key if key.startswith(MASTER) else SECOND_OPTIMIZER + key
        return reader.read_values(stored, shape, start, count)

    has_second_optimizer = reader.has(SECOND_OPTIMIZER + NUM_STEPS)
    if has_second_optimizer:
        engine.import_parts(read_second)
        engine.swap_optimizer_state()
    engine.import_parts(reader.read_values)
    if adapter is not None:
        for _, flat in reader.read([ADAPTER_KEY]):
            adapter.load_flat(flat)
    return PolicyVersion(reader.values["theta"], reader.values["adapter"]), has_second_optimizer
