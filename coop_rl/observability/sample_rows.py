"""Rows of samples.jsonl: a response with its verdict, and what trains each of its tokens.

A token's text is no more than its length in `response`: characters, of which the token of a part
of one has none, but the last of its tokens. Where the tokens do not give the text again, as with
tokenizers that tidy spaces up, there are no lengths, and the log-probs stand without their texts.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from coop_rl.algorithm.roles import StepRecord
from coop_rl.types import Reward, Rollout, ScoredGroup

DIGITS = 2
"""Of a log-prob, nats."""
MOST_PARTS = 8
"""Tokens that one character may take."""
INCOMPLETE = "\ufffd"
"""What a decoder writes for a part of a character, such as a response may be cut off at."""


class SampleRows:
    """Makes the rows of a run's samples."""

    def __init__(
        self, decode: Callable[[Sequence[int]], str] | None, *, mask_truncated: bool
    ) -> None:
        """Tell tokens apart by `decode`, which leaves special ones out; None: not at all.

        `mask_truncated`: `rollout.mask_truncated`.
        """
        self._decode = decode
        self._known: dict[int, str] = {}
        self._mask_truncated = mask_truncated

    def of(self, record: StepRecord, num_samples: int) -> Iterator[dict[str, Any]]:
        """Yield the first sample of every prompt, then the second of every prompt, and so on."""
        groups = record.sampled.groups
        most = max((len(group.rollouts) for group in groups), default=0)
        places = [(g, i) for i in range(most) for g in groups if i < len(g.rollouts)][:num_samples]
        trained = {(s.prompt_ids, s.response_ids): s for s in record.samples} if places else {}
        for group, index in places:
            rollout = group.rollouts[index]
            sample = trained.get((group.prompt.context_ids, rollout.token_ids))
            advantage = None
            if sample is not None and record.objective.rl_weight:
                is_masked = self._mask_truncated and rollout.is_truncated
                advantage = 0.0 if is_masked or not sample.is_valid else round(sample.advantage, 4)
            row = _row(record.step, group, rollout, group.rewards[index])
            yield row | {
                "advantage": advantage,
                "log_probs": [_rounded(value) for value in rollout.behaviour_log_probs],
                "token_lengths": self._lengths(rollout),
            }

    def _lengths(self, rollout: Rollout) -> list[int]:
        """Return how many characters of the text each token stands for; empty: cannot be told."""
        if self._decode is None:
            return []
        text, at = rollout.text, 0
        lengths: list[int] = []
        parts: list[int] = []
        for token in rollout.token_ids:
            parts.append(token)
            piece = self._piece(parts)
            # Some tokenizers write no space before a token that stands alone.
            found = next((p for p in (piece, f" {piece}") if text.startswith(p, at)), None)
            if found is not None:
                lengths += [0] * (len(parts) - 1) + [len(found)]
                at += len(found)
                parts = []
            elif len(parts) > MOST_PARTS:
                return []
        is_cut_off = not parts or self._piece(parts).endswith(INCOMPLETE)
        return [*lengths, *([0] * len(parts))] if at == len(text) and is_cut_off else []

    def _piece(self, tokens: Sequence[int]) -> str:
        assert self._decode
        if len(tokens) > 1:
            return self._decode(tokens)
        if tokens[0] not in self._known:
            self._known[tokens[0]] = self._decode(tokens)
        return self._known[tokens[0]]


def _rounded(value: float) -> float | None:
    return round(value, DIGITS) + 0.0 if math.isfinite(value) else None


def _row(step: int, group: ScoredGroup, rollout: Rollout, reward: Reward) -> dict[str, Any]:
    return {
        "step": step,
        "version": str(rollout.version),
        "version_spans": [[str(version), length] for version, length in rollout.version_spans],
        "prompt_id": group.prompt.id,
        "prompt": group.prompt.text,
        "given": group.prompt.given_text,
        "response": rollout.text,
        "answer": group.prompt.answer,
        "reward": reward.value,
        "is_correct": reward.is_correct,
        "status": reward.status,
        "is_truncated": rollout.is_truncated,
        "num_tokens": len(rollout.token_ids),
    }
