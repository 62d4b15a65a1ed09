"""Reward functions as users write them; loaded by path in the pool's processes."""

from typing import Any

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
