"""Wrong rewards on purpose: `reward.flip_probability`, for studies of robustness.

Whether a response is flipped depends on the run's seed, the step, the prompt and the sample's index
alone, so a resumed run flips the same ones.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from coop_rl.types import Reward, ScoredGroup


def flip_rewards(
    groups: Sequence[ScoredGroup], probability: float, weight: float, seed: int
) -> list[ScoredGroup]:
    """Return the groups with the verifier's value r as 1 - r where the draw says so.

    What is right, `is_correct`, is left as it is.

    Args:
        groups: Scored groups of one step.
        probability: Probability of a flip.
        weight: Weight of the verifier's value in the reward.
        seed: Seed of the run and step.
    """
    return [
        replace(
            group,
            rewards=tuple(
                _flip(reward, weight)
                if _uniform(seed, group.prompt.id, index) < probability
                else reward
                for index, reward in enumerate(group.rewards)
            ),
        )
        for group in groups
    ]


def _flip(reward: Reward, weight: float) -> Reward:
    correct = dict(reward.parts).get("correct", reward.value)
    return replace(reward, value=reward.value + weight * (1 - 2 * correct), is_flipped=True)


def _uniform(seed: int, prompt_id: str, index: int) -> float:
    """Return a draw from [0, 1), the same on every machine."""
    key = f"flip\0{seed}\0{index}\0{prompt_id}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") / 2.0**64
