"""The run's configuration: pydantic models, YAML loading, derived sizes; imports no torch.

    base -> run, roles, method, data, ... -> rules -> schema -> section_path -> read -> load

`paths` says where they lead, `overrides` reads `--set`, `hints` words errors, `editor_schema` tells
editors.

`cli` calls `load_config` (and for evaluations `load_serving_config`); everyone else receives the
frozen `RunConfig`, or one section of it.
"""

from coop_rl.config.load import load_config, load_serving_config
from coop_rl.config.read import config_files
from coop_rl.config.schema import RunConfig, ServingConfig
from coop_rl.config.sizes import DerivedSizes, derive_sizes

__all__ = [
    "DerivedSizes",
    "RunConfig",
    "ServingConfig",
    "config_files",
    "derive_sizes",
    "load_config",
    "load_serving_config",
]
