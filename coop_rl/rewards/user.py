"""Rewards of the user's own: a function named in the config, run in the pool like any verifier.

    def reward(answer: Answer) -> float | Reward

    @BatchFunction
    def rank(answers: Sequence[Answer]) -> Sequence[float | Reward]    # all responses to a prompt

A number is the reward, and counts as right from 1 on (True is 1, False 0); a Reward says everything
itself. Anything else is refused: the text "1" is no number.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, SupportsFloat, SupportsIndex

from coop_rl.errors import ConfigError, first_line
from coop_rl.rewards.verdict import Answer, Verifier, VerifierSettings
from coop_rl.types import Reward

if TYPE_CHECKING:
    from coop_rl.config.reward import RewardSection

RewardFunction = Callable[[Answer], float | Reward]
LARGEST_REWARD = 1e6
"""Largest absolute value of a reward: sums and squares of larger ones leave the range of floats."""
MOST_SHOWN_CHARACTERS = 40
"""Characters of a wrong result that an error quotes."""


@dataclass(frozen=True, slots=True)
class BatchFunction:
    """A decorator for reward functions that take all responses to one prompt at once."""

    function: Callable[[Sequence[Answer]], Sequence[float | Reward]]


class RewardValueError(TypeError):
    """A function returned what can be no reward, whatever the response was."""


@lru_cache(maxsize=64)
def load_function(location: str) -> RewardFunction | BatchFunction:
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
    function: RewardFunction | BatchFunction | None = vars(module).get(name)
    if not callable(function) and not isinstance(function, BatchFunction):
        functions = sorted(n for n, v in vars(module).items() if callable(v) and n[0] != "_")
        raise ConfigError(
            f"reward function {location}: {place} has no function {name}; "
            f"it has {', '.join(functions) or 'none'}"
        )
    return function


def check_functions(section: "RewardSection") -> None:
    """Refuse a reward section whose functions cannot be loaded here.

    Raises:
        ConfigError: Names the function and what is wrong.
    """
    for location in section.functions:
        load_function(location)


def with_batch_results(answers: Sequence[Answer], settings: VerifierSettings) -> Sequence[Answer]:
    """Return the answers with what functions that take a batch say of them.

    What such a function raises is kept in place of its results, for `result_of` to raise.
    """
    locations = [term.function for term in settings.terms if term.function]
    if settings.function and any(answer.verifier in ("", "python") for answer in answers):
        locations.append(settings.function)
    for location in locations:
        function = load_function(location)
        if isinstance(function, BatchFunction):
            said = _call_batch(location, function, answers)
            answers = [
                replace(answer, batch_results=(*answer.batch_results, (location, result)))
                for answer, result in zip(answers, said, strict=True)
            ]
    return answers


def _call_batch(
    location: str, function: BatchFunction, answers: Sequence[Answer]
) -> Sequence[object]:
    try:
        said = list(function.function(answers))
        if len(said) != len(answers):
            raise RewardValueError(
                f"{location} returned {len(said)} rewards for {len(answers)} responses"
            )
    except BaseException as error:  # the user's code on hostile text: costs these responses only
        return [error] * len(answers)
    return said


def result_of(location: str, answer: Answer) -> float | Reward:
    """Return what the user's function says of an answer: a plain float, or a Reward of plain parts.

    Raises:
        RewardValueError: It is neither a number nor a Reward, or too large.
        BaseException: Whatever the function raises.
    """
    function = load_function(location)
    if isinstance(function, BatchFunction):
        result = dict(answer.batch_results)[location]
        if isinstance(result, BaseException):
            raise result
    else:
        result = function(answer)
    if not isinstance(result, Reward):
        return _as_number(result)
    # Plain values: what the function put in may be of types the run's processes do not have.
    return Reward(
        _as_number(result.value),
        bool(_as_number(result.is_correct)),
        answer=str(result.answer),
        has_format=bool(_as_number(result.has_format)),
    )


def _as_number(value: object) -> float:
    if not isinstance(value, SupportsFloat | SupportsIndex):
        said = repr(value)[:MOST_SHOWN_CHARACTERS]
        raise RewardValueError(
            f"returned {said} ({type(value).__name__}); return a number, True or False, or a Reward"
        )
    number = float(value)
    if LARGEST_REWARD < abs(number) < float("inf"):
        raise RewardValueError(f"returned {number:g}; rewards lie within {LARGEST_REWARD:g} of 0")
    return number


def verify_user(answer: Answer, settings: VerifierSettings) -> Reward:
    """Call the user's function; what it raises makes the answer `crashed`."""
    result = result_of(settings.function, answer)
    return result if isinstance(result, Reward) else Reward(result, result >= 1.0)


def probe_user(answer: Answer, settings: VerifierSettings) -> Reward:
    """Say in `answer` how the user's function fails; `has_format` is False where it always would.

    Empty: it does not.
    """
    try:
        result_of(settings.function, answer)
    except Exception as error:  # the user's code
        said = f"{type(error).__name__}: {first_line(error)}"
        return Reward(0.0, False, answer=said, has_format=not isinstance(error, RewardValueError))
    return Reward(1.0, True)


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
PROBE = Verifier(probe_user, None)
