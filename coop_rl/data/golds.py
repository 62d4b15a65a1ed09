"""Whether gold answers and demonstrations can be right for the verifier; `data.load` asks.

Verifiers that may burn time on a hostile gold answer (`math` and those with heavy imports) judge at
most CHECKED_PROMPTS prompts, in a reward pool with its limits; the others judge all prompts, here.
Of demonstrations CHECKED_TRACES are judged: one that is right is enough.
"""

from collections.abc import Sequence
from typing import TypeVar

from coop_rl.config.reward import RewardSection
from coop_rl.data.jsonl import shortened
from coop_rl.data.rows import RowError, TextRow
from coop_rl.errors import ConfigError
from coop_rl.rewards.pool import RewardPool
from coop_rl.rewards.registry import VERIFIERS, settings_of
from coop_rl.rewards.user import PROBE
from coop_rl.rewards.verdict import Answer
from coop_rl.types import Prompt, Reward

CHECKED_PROMPTS, CHECKED_TRACES = 2_000, 256
"""Most prompts judged in the pool, and most demonstrations judged; evenly spaced ones."""
CALLED_PROMPTS = 4
"""Prompts the user's functions are called on before anything starts."""
MOST_SHOWN = 80
"""Characters of a gold answer that an error quotes."""
RESPONSE_FORMS = (
    "GOLD",
    r"The answer is \boxed{GOLD}.",
    "<think>So.</think><answer>GOLD</answer>\n#### GOLD",
)
T = TypeVar("T")


def unverifiable_prompts(
    rows: Sequence[TextRow], prompts: Sequence[Prompt], section: RewardSection
) -> list[RowError]:
    """Return an error for each prompt no response to which can be right."""
    settings = settings_of(section)
    asked: list[tuple[TextRow, Answer]] = []
    for row, prompt in _spread(list(zip(rows, prompts, strict=True)), section, prompts):
        render = VERIFIERS[prompt.verifier or section.kind].render
        if render is not None:
            right = render(prompt.answer, settings)
            asked.append((row, Answer(right, prompt.answer, prompt.details, prompt.verifier)))
    verdicts = _judge([answer for _, answer in asked], section)
    return [
        RowError(
            row.place,
            "no response can be right, the gold answer "
            f"{shortened(repr(answer.gold), MOST_SHOWN)} itself scores 0 for "
            f"reward.kind {answer.verifier or section.kind} with reward.marker "
            f"{section.marker!r}; change the answer or the marker",
            "gold answer not verifiable",
        )
        for (row, answer), is_right in zip(asked, verdicts, strict=True)
        if not is_right
    ]


def refuse_failing_functions(prompts: Sequence[Prompt], section: RewardSection) -> None:
    """Call the user's functions on a few prompts, with their gold answers in the usual forms.

    Raises:
        ConfigError: Every call of one failed, or returned what can be no reward; names the first.
    """
    answers = [
        Answer(
            form.replace("GOLD", prompt.answer),
            prompt.answer,
            prompt.details,
            prompt=prompt.text,
            columns=prompt.columns,
        )
        for prompt in prompts
        for form in RESPONSE_FORMS
    ]
    for location in section.functions if answers else ():
        alone = {"kind": "python", "function": location, "parts": {}, "weight": 1.0}
        pool = RewardPool(section.model_copy(update=alone), PROBE)
        try:
            verdicts = pool.score(answers)
        finally:
            pool.close()
        failed = [_failure(verdict) for verdict in verdicts if not verdict.is_correct]
        if len(failed) == len(answers):
            raise ConfigError(
                f"reward function {location}: all {len(answers)} calls on prompts failed, the "
                f"first by {failed[0]}; mend it, or every reward would be 0"
            )
        never = [v for v in verdicts if v.status == "scored" and not v.has_format]
        if never:
            raise ConfigError(
                f"reward function {location}: {len(never)} of {len(answers)} calls on prompts "
                f"returned what is no reward, the first by {_failure(never[0])}"
            )


def _failure(verdict: Reward) -> str:
    if verdict.status == "timeout":
        return "reward.time_limit_s"
    return verdict.answer or "the process's end"


def verifiable_share(
    texts: Sequence[str],
    golds: Sequence[str],
    details: Sequence[str],
    verifier: str,
    section: RewardSection,
) -> float:
    """Return the share of demonstrations that are right; 1 where nobody can tell."""
    if VERIFIERS[verifier or section.kind].render is None or not texts:
        return 1.0
    answers = [
        Answer(text, gold, more, verifier)
        for text, gold, more in zip(texts, golds, details, strict=True)
    ]
    verdicts = _judge(_sample(answers, CHECKED_TRACES), section)
    return sum(verdicts) / len(verdicts)


def _spread(pairs: list[T], section: RewardSection, prompts: Sequence[Prompt]) -> list[T]:
    """Return all pairs, or an evenly spaced part where they are judged in the pool."""
    is_heavy = any(VERIFIERS[p.verifier or section.kind].modules for p in prompts[:1])
    return _sample(pairs, CHECKED_PROMPTS) if is_heavy else pairs


def _sample(items: list[T], count: int) -> list[T]:
    return items[:: max(1, -(-len(items) // count))]


def _judge(answers: Sequence[Answer], section: RewardSection) -> list[bool]:
    kinds = {answer.verifier or section.kind for answer in answers}
    if not any(VERIFIERS[kind].modules for kind in kinds):
        settings = settings_of(section)
        return [
            VERIFIERS[a.verifier or section.kind].verify(a, settings).is_correct for a in answers
        ]
    plain = section.model_copy(update={"parts": {}, "weight": 1.0})
    pool = RewardPool(plain, kinds=sorted(kinds))
    try:
        return [verdict.is_correct for verdict in pool.score(answers)]
    finally:
        pool.close()
