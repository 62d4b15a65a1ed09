"""Whether a run fits its devices, and the fewest devices it would fit on."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from coop_rl.config import RunConfig
from coop_rl.config.sizes import has_shadow, role_counts
from coop_rl.planning.memory import (
    ASLEEP_BYTES,
    ENGINE_OVERHEAD_BYTES,
    GIB,
    EnginePlan,
    MemoryPlan,
    checkpoint_bytes,
    engine_memory,
    learner_memory,
    num_checkpoints,
)
from coop_rl.planning.shape import ModelShape
from coop_rl.rollout.capacity import cpu_cache_bytes

USABLE_SHARE = 0.95
"""Share of a device that tensors may take: the rest is the driver's, and lost between blocks."""
MOST_RANKS, MOST_PARALLEL = 1024, 8


@dataclass(frozen=True, slots=True)
class Fit:
    """What one device is asked for and has."""

    what: str
    needed: float
    available: float
    """Bytes, like `needed`."""

    @property
    def is_met(self) -> bool:
        """Whether it fits."""
        return self.needed <= self.available


@dataclass(frozen=True, slots=True)
class SmallestCluster:
    """The fewest devices that hold the run, one role to a device."""

    ranks: int
    parallel: int
    num_devices: int


def fits(
    config: RunConfig,
    shape: ModelShape,
    learner: MemoryPlan,
    engine: EnginePlan,
    device_bytes: float,
) -> list[Fit]:
    """Compare each kind of device, or the one machine whose memory all roles share."""
    counts = role_counts(config)
    num_learners = counts["learner joint"][0] + counts["learner shadow"][0]
    num_engines = sum(_engine_counts(config))
    if not config.placement.learner.gpus:
        values = 2 * shape.num_layers * shape.key
        cache = cpu_cache_bytes(config, values, shape.context, int(device_bytes))
        needed = num_learners * learner.total + num_engines * (engine.weights + cache)
        return [Fit("all roles together", needed, device_bytes * USABLE_SHARE)]
    share = config.rollout.gpu_memory_utilization
    found = [
        Fit(what, needed, device_bytes * USABLE_SHARE)
        for what, needed in _peaks(config, learner, share * device_bytes)
    ]
    # The cache of one sequence at full length: with less vLLM refuses to start.
    needed = engine.weights + ENGINE_OVERHEAD_BYTES + engine.sequence
    return [*found, Fit("rollout engine", needed, device_bytes * share)]


def disk_fit(config: RunConfig, shape: ModelShape) -> Fit:
    """Compare the checkpoints that lie on the disk at once with what is free here."""
    place = Path(config.run.dir).absolute()
    while not place.exists():
        place = place.parent
    needed = num_checkpoints(config) * checkpoint_bytes(config, shape)
    return Fit(f"checkpoints on the disk of {place}", needed, shutil.disk_usage(place).free)


def _peaks(
    config: RunConfig, learner: MemoryPlan, engine_bytes: float
) -> Iterator[tuple[str, float]]:
    """Yield what learners take of a device, and what stands beside them there."""
    place = config.placement
    if place.learner.gpus >= 1:
        yield "learner rank", learner.total
        return
    shares = place.learner.gpus + place.shadow.gpus <= 1
    branches = 2 if has_shadow(config) and shares else 1
    if place.colocated:
        yield "learners at work, engine asleep", branches * learner.total + ASLEEP_BYTES
        yield "learners at rest, engine at work", branches * learner.resting + engine_bytes
    else:
        beside = engine_bytes if place.rollout.gpus < 1 else 0.0
        yield "learners and engine on one device", branches * learner.total + beside


def smallest_cluster(
    config: RunConfig, shape: ModelShape, device_bytes: float
) -> SmallestCluster | None:
    """Return the fewest devices with the config's ZeRO stage; None: none of those tried."""
    ranks = _powers(
        MOST_RANKS, lambda n: learner_memory(config, shape, n).total <= device_bytes * USABLE_SHARE
    )
    limit = device_bytes * config.rollout.gpu_memory_utilization - ENGINE_OVERHEAD_BYTES
    parallel = _powers(MOST_PARALLEL, lambda n: _engine_bytes(config, shape, n) <= limit)
    if ranks is None or parallel is None:
        return None
    branches = 2 if has_shadow(config) else 1
    engines = sum(min(1, count) for count in _engine_counts(config))
    return SmallestCluster(ranks, parallel, branches * ranks + engines * parallel)


def _engine_counts(config: RunConfig) -> list[int]:
    """Return the rollout actors of each role that has some."""
    roles = role_counts(config).items()
    return [count for role, (count, _) in roles if role.startswith("rollout")]


def _engine_bytes(config: RunConfig, shape: ModelShape, parallel: int) -> float:
    engine = engine_memory(config, shape, parallel)
    return engine.weights + engine.sequence


def _powers(most: int, holds: Callable[[int], bool]) -> int | None:
    """Return the first power of two up to `most`, itself one, that holds; None: none does."""
    return next((1 << k for k in range(most.bit_length()) if holds(1 << k)), None)


def describe(fit: Fit) -> str:
    """Return the comparison in words."""
    sign = "fits" if fit.is_met else "DOES NOT FIT"
    return f"{fit.what}: {fit.needed / GIB:,.2f} of {fit.available / GIB:,.2f} GiB, {sign}"
