"""What a check found, which `commands.doctor` prints, and the running of checks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from coop_rl.errors import first_line

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    check: str
    status: Status
    found: str
    fix: str = ""
    """What to change; empty where nothing is wrong."""


def judge(check: str, is_good: bool, found: str, fix: str, otherwise: Status = "fail") -> Finding:
    """Return a finding that names the fix only where it is needed."""
    return Finding(check, "ok", found) if is_good else Finding(check, otherwise, found, fix)


def attempt(check: str, trial: Callable[[], Finding], fix: str) -> Finding:
    """Run a trial; whatever it raises is the finding."""
    try:
        return trial()
    except Exception as error:  # any library's: a doctor must not die of it
        return Finding(check, "fail", f"{type(error).__name__}: {first_line(error)}", fix)
