"""Errors a user can meet, each worded as: what was got, what is allowed, what to change.

`UserError` and its children end the program with exit code 2 and one line, before anything was
started. `RunError` and its children end a run that had started with exit code 1; their text names
the actor that failed.
"""

from collections.abc import Sequence
from typing import Literal


def first_line(error: BaseException) -> str:
    """Return the first line of another library's error, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def printable(text: str) -> str:
    """Return text as one line for a terminal: what would steer it or break the line is escaped."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown)


class UserError(Exception):
    """The user's input is wrong; nothing was started (exit code 2)."""


class ConfigError(UserError):
    """A config field is unknown, of the wrong type, out of range, or contradicts another."""


class DataError(UserError):
    """A data file is missing, empty, or holds a bad row (file and line are named)."""


class ModelError(UserError):
    """A model folder is missing or does not fit the request."""


class ResourceError(UserError):
    """More devices are asked for than the machine or the cluster has."""


class RunDirectoryError(UserError):
    """The run directory can't be written, or belongs to a run with another config."""


class RunError(Exception):
    """A run that had started failed (exit code 1); the text names the actor."""


class ActorLostError(RunError):
    """A process of the run died, or did not answer within its time limit."""

    def __init__(
        self,
        text: str,
        actors: Sequence[str] = (),
        cause: Literal["died", "hung"] = "died",
    ) -> None:
        """Say `text`; `actors` are the names of whoever was lost, as far as that is known."""
        super().__init__(text)
        self.actors, self.cause = tuple(actors), cause


class BudgetSpentError(RunError):
    """More actors of a role were lost than section `recovery` lets a run replace; names them."""


class ResultLostError(RunError):
    """What an actor returned was lost with its node before anybody took it; it can be made anew."""


class RayLostError(ActorLostError):
    """A process of Ray's own died; whatever is asked of Ray now may end this process."""


class DivergedError(RunError):
    """Weights or moments are no longer finite; nothing that follows could mend them."""


class UnscoredError(RunError):
    """Most responses of a step could not be scored; nothing was learned from it."""


class WeightSyncError(RunError):
    """Weights did not reach the rollout actors; says who was lost, or which tensor differs."""


class VersionError(RunError):
    """Two results that must stem from the same (theta, adapter) version do not."""


class Interrupted(Exception):  # noqa: N818 - not a failure: the user asked for it
    """The user stopped the run; the text says what was saved (exit code 130)."""
