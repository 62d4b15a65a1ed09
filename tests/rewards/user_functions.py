"""Reward functions as users write them; loaded by path in the pool's processes."""

from typing import Any

from coop_rl.rewards.verdict import Answer, Verdict


def shouting(answer: Answer) -> float:
    return float(answer.text.isupper())


def moody(answer: Answer) -> float | Verdict:
    if answer.text == "raise":
        raise KeyError("no reason")
    if answer.text == "full":
        return Verdict(0.75, True)
    values: dict[str, Any] = {"fine": 1.0, "half": 0.5, "nan": float("nan"), "text": "text"}
    value: float = values[answer.text]
    return value
