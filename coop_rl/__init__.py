"""coop-rl: cooperative SFT and RL (BRIDGE, arXiv 2509.06948) on Ray, vLLM and DeepSpeed.

    import coop_rl

    result = coop_rl.train("configs/local/demo.yaml", overrides=["run.num_steps=10"])
    result.metrics["reward/mean"].plot()

The functions stand in `coop_rl.api`, which is imported when the first of them is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from coop_rl.version import __version__

if TYPE_CHECKING:
    from coop_rl.api import Result, compare, evaluate, load_run, train

__all__ = ["Result", "__version__", "compare", "evaluate", "load_run", "train"]


def __getattr__(name: str) -> Any:
    """Import the functions only when they are used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module("coop_rl.api"), name)
