"""One file per method: which data a step uses and how its loss terms weigh.

The loop knows only `Method`; `METHODS` names the class of each `method.kind`.
"""

from typing import Any

from coop_rl.algorithm.methods.alternate import Alternate
from coop_rl.algorithm.methods.base import Method
from coop_rl.algorithm.methods.bridge import Bridge
from coop_rl.algorithm.methods.chord import Chord
from coop_rl.algorithm.methods.cold_start import ColdStart
from coop_rl.algorithm.methods.hpt import Hpt
from coop_rl.algorithm.methods.lspo import Lspo
from coop_rl.algorithm.methods.luffy import Luffy
from coop_rl.algorithm.methods.prefix import Prefix
from coop_rl.algorithm.methods.relift import Relift
from coop_rl.algorithm.methods.rl import Rl
from coop_rl.algorithm.methods.self_distil import SelfDistil
from coop_rl.algorithm.methods.sft import Sft
from coop_rl.algorithm.methods.srft import Srft
from coop_rl.algorithm.methods.sum import Sum
from coop_rl.config import RunConfig

AnyMethod = Method[Any]
METHODS: dict[str, type[AnyMethod]] = {
    "bridge": Bridge,
    "rl": Rl,
    "sft": Sft,
    "sum": Sum,
    "alternate": Alternate,
    "chord": Chord,
    "cold_start": ColdStart,
    "hpt": Hpt,
    "luffy": Luffy,
    "srft": Srft,
    "relift": Relift,
    "prefix": Prefix,
    "self_distil": SelfDistil,
    "lspo": Lspo,
}


def build_method(config: RunConfig) -> AnyMethod:
    """Build the method the config names."""
    return METHODS[config.method.kind](config)


__all__ = ["METHODS", "AnyMethod", "Method", "build_method"]
