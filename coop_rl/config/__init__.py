"""The run's configuration: pydantic models, YAML loading, derived sizes; imports no torch.

`cli` calls `load_config` (and for evaluations `load_serving_config`); everyone else receives the
frozen `RunConfig`, or one section of it.
"""

from coop_rl.config.load import apply_overrides, load_config, load_serving_config
from coop_rl.config.schema import RunConfig, ServingConfig
from coop_rl.config.sizes import DerivedSizes, derive_sizes

__all__ = [
    "DerivedSizes",
    "RunConfig",
    "ServingConfig",
    "apply_overrides",
    "derive_sizes",
    "load_config",
    "load_serving_config",
]
