"""Reward functions as users write them; loaded by path in the pool's processes."""

import os
import time
from collections.abc import Sequence
from typing import Any

from coop_rl.rewards.user import BatchFunction
from coop_rl.rewards.verdict import Answer
from coop_rl.types import Reward


def shouting(answer: Answer) -> float:
    return float(answer.text.isupper())


def moody(answer: Answer) -> float | Reward:
    if answer.text == "raise":
        raise KeyError("no reason")
    if answer.text == "full":
        return Reward(0.75, True)
    values: dict[str, Any] = {"fine": 1.0, "half": 0.5, "nan": float("nan"), "text": "text"}
    value: float = values[answer.text]
    return value


def odd_types(answer: Answer) -> Any:
    """Values no other process could unpickle, or that are of wrong types."""

    class Mine(float):
        pass

    made: dict[str, Any] = {
        "mine": Reward(Mine(0.5), Mine(1.0), answer=Mine(3.0)),  # type: ignore[arg-type]
        "value": Reward("much", True),  # type: ignore[arg-type]
        "none": None,
        "huge": 10**400,
        "inf": Reward(float("inf"), True),
        "own": Mine(1.0),
    }
    if answer.text == "exit":
        raise SystemExit(0)
    return made[answer.text]


def failing(answer: Answer) -> float:
    nothing: dict[str, float] = {}
    return nothing[answer.text]


def boxed_only(answer: Answer) -> float:
    """Raises on what has no box, which costs those responses alone."""
    return float(answer.text.split("\\boxed{")[1].startswith(answer.gold))


def returning(answer: Answer) -> Any:
    """What the text evaluates to."""
    return eval(answer.text)


def hard_of_level(answer: Answer) -> float:
    """Needs a column, the prompt, and the whole response."""
    assert answer.prompt.startswith("Q")
    return float(answer.row["level"] == "hard" and answer.whole_text.startswith("<think>"))


def text_for_the_right(answer: Answer) -> Any:
    """A wrong type for some, as a slip would be."""
    return "1" if answer.text == answer.gold else 0


def columns_known(answer: Answer) -> float:
    return float(len(answer.row["id"]))


@BatchFunction
def rank(answers: Sequence[Answer]) -> list[float | Reward]:
    """The longest of a prompt's responses is right; some texts make trouble."""
    texts = [answer.text for answer in answers]
    if "short" in texts:
        return [1.0]
    if "raise" in texts:
        raise KeyError("no reason")
    if "sleep" in texts:
        time.sleep(60)
    if "die" in texts:
        os._exit(1)
    longest = max(map(len, texts))
    return [Reward(len(text) / longest, len(text) == longest) for text in texts]
