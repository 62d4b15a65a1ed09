"""Terms of the reward besides correctness: form and length; `worker` adds them up.

value = weight * verifier's value + sum over terms of weight * term
"""

import re
from functools import lru_cache

from coop_rl.rewards.final_answer import last_boxed
from coop_rl.rewards.user import result_of
from coop_rl.rewards.verdict import Answer, TermSettings
from coop_rl.types import Reward


def evaluate_term(term: TermSettings, answer: Answer) -> float:
    """Return a term's value before its weight."""
    if term.kind == "format":
        return float(has_form(answer.text, term.style, term.pattern))
    if term.kind == "length":
        return length_penalty(answer.num_tokens, term.free_tokens, term.max_tokens)
    result = result_of(term.function, answer)
    return result.value if isinstance(result, Reward) else result


def length_penalty(num_tokens: int, free_tokens: int, max_tokens: int) -> float:
    """Return 0 up to `free_tokens`, falling to -1 at `max_tokens` (arXiv 2503.14476, eq. 13)."""
    over = (num_tokens - free_tokens) / (max_tokens - free_tokens)
    return -min(1.0, max(0.0, over))


def has_form(text: str, style: str, pattern: str = "") -> bool:
    """Whether a response has the form that `style` names (`config.reward.FormatTerm`)."""
    if style == "boxed":
        return bool(last_boxed(text))
    if style == "pattern":
        return _compiled(pattern).fullmatch(text) is not None
    after = _after_thinking(text)
    if style == "think":
        return after is not None
    if style == "think_boxed":
        return after is not None and bool(last_boxed(after))
    return after is not None and _is_one_pair(after.strip(), "<answer>", "</answer>")


def _after_thinking(text: str) -> str | None:
    """Return what follows one <think>...</think> at the start; None without, empty or with more.

    A chat template may open the tag itself, so the response need not.
    """
    thought, end, after = text.strip().removeprefix("<think>").partition("</think>")
    tags = ("<think>", "</think>")
    is_one = bool(end) and not any(tag in thought or tag in after for tag in tags)
    return after if is_one and thought.strip() and after.strip() else None


def _is_one_pair(text: str, start: str, end: str) -> bool:
    is_wrapped = text.startswith(start) and text.endswith(end)
    is_filled = bool(text.removeprefix(start).removesuffix(end).strip())
    return is_wrapped and is_filled and text.count(start) == text.count(end) == 1


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.DOTALL)
