"""One file per method: which data a step uses and how its loss terms weigh.

The loop knows only `Method`; a plain dict maps `method.kind` to the builder.
"""

from collections.abc import Callable

from coop_rl.algorithm.methods import (
    alternate,
    bridge,
    chord,
    cold_start,
    hpt,
    luffy,
    relift,
    rl,
    sft,
    srft,
    sum,
)
from coop_rl.algorithm.methods.base import Method
from coop_rl.config import RunConfig

METHODS: dict[str, Callable[[RunConfig], Method]] = {
    "bridge": bridge.build,
    "rl": rl.build,
    "sft": sft.build,
    "sum": sum.build,
    "alternate": alternate.build,
    "chord": chord.build,
    "cold_start": cold_start.build,
    "hpt": hpt.build,
    "luffy": luffy.build,
    "srft": srft.build,
    "relift": relift.build,
}


def build_method(config: RunConfig) -> Method:
    """Build the method the config names."""
    return METHODS[config.method.kind](config)


__all__ = ["METHODS", "Method", "build_method"]
