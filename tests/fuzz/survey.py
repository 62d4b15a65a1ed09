"""Many seeded cases, of which each must be accepted or end in an error of ours.

`COOP_RL_FUZZ_CASES=10000` as `make fuzz` sets it; otherwise as many as `make check` has time for. A
case is told by its number: the same number gives the same case.
"""

import os
import random
import re
import signal
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from coop_rl.errors import UserError

NUM_CASES = int(os.environ.get("COOP_RL_FUZZ_CASES", "20"))
LIMIT_S = 10.0
"""Of CPU time, for one case."""
MOST_CHARACTERS = 20_000
"""Of an error's text."""
STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class OutOfTime(Exception):  # noqa: N818 - what a case came to
    pass


@contextmanager
def limited() -> Iterator[None]:
    """End what is inside after `LIMIT_S` of CPU time; pytest's own limit ends what waits."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def survey(surface: str, case: Callable[[random.Random], object], num: int = NUM_CASES) -> None:
    """Try `num` cases; fail with one of every kind of fault, the first by number.

    `case` raises a `UserError` or nothing; what else it raises is a fault.
    """
    faults: dict[str, str] = {}
    for number in range(num):
        try:
            with limited():
                case(random.Random(f"{surface} {number}"))
        except UserError as error:
            problem = badly_told(str(error))
        except Exception as error:
            problem = "".join(traceback.format_exception(error)[-3:])
        else:
            continue
        if problem:
            place = re.sub(r"'[^']*'|\d+", "_", problem.splitlines()[-1])[:80]
            faults.setdefault(place, f"{surface}, case {number}: {problem}")
    assert not faults, "\n".join(faults.values())


def badly_told(text: str) -> str | None:
    """Say what is wrong with the text of an error; None where nothing is."""
    if not text.strip() or len(text) > MOST_CHARACTERS or "\n" in text:
        return f"an error should be one line: {text[:200]!r}"
    return None


def require_harmless(text: str) -> None:
    """Refuse what would steer a terminal or break its lines, but for colours and lines of ours."""
    bare = COLOUR.sub("", text)
    bad = {c for c in bare if unicodedata.category(c) in STEERING and c != "\n"}
    assert not bad, f"{sorted(bad)} reach the terminal"
