"""reasoning-gym's own scorers, held to a whole score of 1."""

import json

import pytest

from coop_rl.rewards.task_score import verify_task_score
from coop_rl.rewards.verdict import Answer, VerifierSettings

SETTINGS = VerifierSettings("#")
TASKS = ("chain_sum", "countdown", "prime_factorization", "word_sorting", "propositional_logic")


def entry(task: str) -> dict:
    import reasoning_gym

    return reasoning_gym.create_dataset(task, seed=3, size=1)[0]


def is_right(task: str, item: dict, text: str) -> bool:
    details = json.dumps({"task": task, "entry": item}, default=str)
    return verify_task_score(Answer(text, str(item["answer"]), details), SETTINGS).is_correct


@pytest.mark.parametrize("task", TASKS[:4])
def test_golds_are_right_in_every_form(task: str) -> None:
    item = entry(task)
    gold = str(item["answer"])
    for text in (f"<answer>{gold}</answer>", f"\\boxed{{{gold}}}", f"First, ...\n\n{gold}"):
        assert is_right(task, item, text)
    assert not is_right(task, item, f"perhaps {gold} or 987654, who knows")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("text", ["", "junk", "<answer>junk</answer>", "9" * 5000, "\x00", "-"])
def test_junk_is_wrong_and_never_raises(task: str, text: str) -> None:
    assert not is_right(task, entry(task), text)
