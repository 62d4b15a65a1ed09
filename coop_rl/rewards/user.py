"""Rewards of the user's own: a function named in the config, run in the pool like any verifier.

    def reward(answer: Answer) -> float | Reward

A number is the reward, and counts as right from 1 on; a Reward says everything itself.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from coop_rl.errors import ConfigError
from coop_rl.rewards.verdict import Answer, Verifier, VerifierSettings
from coop_rl.types import Reward

if TYPE_CHECKING:
    from coop_rl.config.reward import RewardSection

RewardFunction = Callable[[Answer], float | Reward]


@lru_cache(maxsize=64)
def load_function(location: str) -> RewardFunction:
    """Return the function at `module:function` or `path/to/file.py:function`.

    Raises:
        ConfigError: There is no such module, file or function.
    """
    place, _, name = location.rpartition(":")
    try:
        module = (
            _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        )
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ConfigError(
            f"reward function {location}: cannot import {place}: {type(error).__name__}: {error}; "
            "give module:function (installed, or on PYTHONPATH) or path/to/file.py:function"
        ) from None
    function: RewardFunction | None = vars(module).get(name)
    if not callable(function):
        functions = sorted(n for n, v in vars(module).items() if callable(v) and n[0] != "_")
        raise ConfigError(
            f"reward function {location}: {place} has no function {name}; "
            f"it has {', '.join(functions) or 'none'}"
        )
    return function


def functions_of(section: "RewardSection") -> tuple[str, ...]:
    """Return the locations of the functions a reward section names."""
    named = [section.function, *(t.function for t in section.parts.values() if t.kind == "python")]
    return tuple(location for location in named if location)


def check_functions(section: "RewardSection") -> None:
    """Refuse a reward section whose functions cannot be loaded here.

    Raises:
        ConfigError: Names the function and what is wrong.
    """
    for location in functions_of(section):
        load_function(location)


def verify_user(answer: Answer, settings: VerifierSettings) -> Reward:
    """Call the user's function; what it raises makes the answer `crashed`."""
    result = load_function(settings.function)(answer)
    if not isinstance(result, Reward):
        value = float(result)
        return Reward(value, value >= 1.0)
    # Plain values: what the function put in may be of types the run's processes do not have.
    return Reward(
        float(result.value),
        bool(result.is_correct),
        answer=str(result.answer),
        has_format=bool(result.has_format),
    )


def _load_file(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(f"reward_{path.stem}", path.resolve())
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no such file {path}")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling in it look the module up by its name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


PYTHON_VERIFIER = Verifier(verify_user, None)
