"""Verifiers that misbehave on purpose; at module level, where the pool's processes find them."""

import os
import signal
import sys
import time
from pathlib import Path

from coop_rl.config.reward import RewardSection
from coop_rl.rewards.exact import render_exact, verify_exact
from coop_rl.rewards.verdict import Answer, Verifier, VerifierSettings
from coop_rl.types import Reward


def _fail(answer: Answer, settings: VerifierSettings) -> Reward:
    """Do what the text says, else judge."""
    text, gold = answer.text, answer.gold
    if text == "hang":
        while True:
            pass
    if text == "hang in C":
        sum(range(10**13))
    if text == "slow":
        time.sleep(0.7)
    if text == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if text.startswith("die once "):
        mark = Path(text.removeprefix("die once "))
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    if text == "exit":
        sys.exit(3)
    if text == "raise":
        raise ValueError(text)
    if text == "memory":
        bytearray(4 << 30)
    if text == "recursion":
        return _fail(answer, settings)
    if text == "nan":
        return Reward(float("nan"), True)
    return verify_exact(Answer(text + (gold if text == "slow" else ""), gold), settings)


def _note(answer: Answer, settings: VerifierSettings) -> Reward:
    """Write down each judgement in the file `details` names, then do what the text says."""
    if answer.details:
        with Path(answer.details).open("a") as file:
            file.write(f"{answer.text}\n")
    verdict = _fail(answer, settings)
    return Reward(1.0, True) if answer.details else verdict


def _zero(answer: Answer, settings: VerifierSettings) -> Reward:
    return Reward(0.0, False)


def _one(answer: Answer, settings: VerifierSettings) -> Reward:
    return Reward(1.0, True)


FAILING = Verifier(_fail, render_exact)
NOTING = Verifier(_note, render_exact)
ALWAYS_WRONG = Verifier(_zero, render_exact)
ALWAYS_RIGHT = Verifier(_one, render_exact)


def section(**fields: float) -> RewardSection:
    """Return a reward section; mypy does not know the defaults of pydantic fields."""
    return RewardSection.model_validate(fields)
