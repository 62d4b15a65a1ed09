"""Prompts, responses, expert traces and a tabular policy that the tests of methods are about."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from coop_rl.algorithm.methods import Method, build_method
from coop_rl.config import RunConfig, load_config
from coop_rl.types import Demonstration, PolicyVersion, Prompt, Reward, Rollout, ScoredGroup

DEMO = Path("configs/local/demo.yaml")
MAX_TOKENS = 9
MISMATCH_CAP = 1.3
VOCABULARY = 5
SEEDS = range(6)


def config_of(kind: str, *overrides: str) -> RunConfig:
    """The demo's config with the method `kind`; `overrides` are of its section."""
    section = (f"method.{override}" for override in overrides)
    return load_config(DEMO, [f"method.kind={kind}", f"rollout.max_tokens={MAX_TOKENS}", *section])


def method_of(kind: str, *overrides: str) -> Method:
    return build_method(config_of(kind, *overrides))


@dataclass(frozen=True)
class Batch:
    """What the loop hands a method."""

    groups: Sequence[ScoredGroup]
    demonstrations: Sequence[Demonstration]

    def expert(self, group: ScoredGroup) -> Demonstration | None:
        return next((d for d in self.demonstrations if d.id == group.prompt.id), None)


def scored_group(
    index: int,
    rights: Sequence[bool],
    seed: int = 0,
    values: Sequence[float] | None = None,
) -> ScoredGroup:
    """A prompt's responses of random tokens; the first is one token long, the second the longest.

    `values` are the rewards where they are not 1 and 0.
    """
    rng = np.random.default_rng([seed, index])
    lengths = [1, MAX_TOKENS, *rng.integers(1, MAX_TOKENS, size=len(rights) - 2).tolist()]
    return ScoredGroup(
        prompt=Prompt(id=f"p{index}", text="", token_ids=(index,), answer=""),
        rollouts=tuple(
            Rollout(
                token_ids=tuple(rng.integers(VOCABULARY, size=length).tolist()),
                behaviour_log_probs=tuple((-1.0 - rng.random(length)).tolist()),
                text="",
                is_truncated=length == MAX_TOKENS,
                version=PolicyVersion(0, 0),
            )
            for length in lengths
        ),
        rewards=tuple(
            Reward(value, right)
            for value, right in zip(values or map(float, rights), rights, strict=True)
        ),
    )


def demonstration(index: int, seed: int = 0, length: int | None = None) -> Demonstration:
    """The expert trace of prompt `index`."""
    rng = np.random.default_rng([seed, index, 1])
    size = length or int(rng.integers(2, MAX_TOKENS))
    tokens = rng.integers(VOCABULARY, size=size).tolist()
    return Demonstration(f"p{index}", (index,), tuple(tokens), source="expert")


def random_batch(seed: int) -> Batch:
    """All right, all wrong, mixed, rewards other than 1 and 0; the last three have no expert.

    One expert trace is a single token.
    """
    rng = np.random.default_rng(seed)
    mixed = rng.permutation([True, False, False, True]).tolist()
    rights = [[True] * 4, [False] * 4, mixed, mixed, [False] * 4, [True] * 4, mixed]
    shaped = (rng.permutation([0.1, 0.4, -0.5, 0.8])).tolist()
    groups = [scored_group(i, r, seed, shaped if i == 3 else None) for i, r in enumerate(rights)]
    experts = [demonstration(i, seed, length=1 if i == 2 else None) for i in (3, 1, 0, 2)]
    return Batch(groups, experts)


def taught(batch: Batch) -> Batch:
    """The same batch, whose demonstrations bring their teacher's prompts."""
    shown = [replace(d, teacher_prompt_ids=(99, *d.prompt_ids)) for d in batch.demonstrations]
    return Batch(batch.groups, shown)


class Table:
    """pi and pi_old: a row of logits for every context (prompt, response so far)."""

    def __init__(self, batch: Batch, seed: int, spread: float = 1.0) -> None:
        self._index: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
        rows = [(d.prompt_ids, d.response_ids) for d in batch.demonstrations]
        teacher_of = {d.id: d.teacher_prompt_ids for d in batch.demonstrations}
        for group in batch.groups:
            rows += [(group.prompt.context_ids, r.token_ids) for r in group.rollouts]
            if teacher_ids := teacher_of.get(group.prompt.id):
                rows += [(teacher_ids, r.token_ids) for r in group.rollouts]
        for prompt_ids, response_ids in rows:
            for length in range(len(response_ids)):
                self._index.setdefault((prompt_ids, response_ids[:length]), len(self._index))
        rng = np.random.default_rng([seed, 2])
        self.logits_CV = spread * rng.normal(size=(len(self._index), VOCABULARY))
        self.old_logits_CV = self.logits_CV + 0.3 * rng.normal(size=self.logits_CV.shape)

    def contexts(self, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> list[int]:
        """The row of logits behind each token of a response."""
        prompt, response = tuple(prompt_ids), tuple(response_ids)
        return [self._index[prompt, response[:t]] for t in range(len(response))]
