"""From RolloutGroup to ScoredGroup in the reward actor, and the control that shuffles rewards."""

import random
from collections.abc import Sequence
from dataclasses import replace

from coop_rl.rewards.final_answer import THINK
from coop_rl.rewards.pool import RewardPool
from coop_rl.rewards.verdict import Answer
from coop_rl.types import Prompt, Rollout, RolloutGroup, ScoredGroup


def score_group(pool: RewardPool, group: RolloutGroup) -> ScoredGroup:
    """Judge the responses of one group; truncated ones like the others."""
    rewards = pool.score([_to_answer(group.prompt, rollout) for rollout in group.rollouts])
    return ScoredGroup(group.prompt, group.rollouts, tuple(rewards))


def _to_answer(prompt: Prompt, rollout: Rollout) -> Answer:
    return Answer(
        prompt.given_text + rollout.text,
        prompt.answer,
        prompt.details,
        prompt.verifier,
        len(rollout.token_ids),
        rollout.is_truncated,
        prompt.text.rstrip().endswith(THINK),
        prompt.text,
        prompt.columns,
    )


def shuffle_rewards(groups: Sequence[ScoredGroup], seed: int) -> list[ScoredGroup]:
    """Hand each prompt's rewards to another prompt: same rewards, no information.

    The assignment is one random cycle through all groups (Sattolo), so no group keeps its own.

    Raises:
        ValueError: There are fewer than 2 groups, or they differ in size.
    """
    if len(groups) < 2 or len({len(group.rewards) for group in groups}) > 1:
        raise ValueError(f"shuffling needs 2 or more groups of one size, got {len(groups)} groups")
    rng = random.Random(seed)
    giver = list(range(len(groups)))
    for last in range(len(giver) - 1, 0, -1):
        other = rng.randrange(last)
        giver[last], giver[other] = giver[other], giver[last]
    return [
        replace(group, rewards=groups[i].rewards) for group, i in zip(groups, giver, strict=True)
    ]
