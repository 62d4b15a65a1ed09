"""Makes groups of rollouts; the plain class inside a rollout actor."""

import asyncio
import hashlib

from coop_rl.rollout.engine import GenerationEngine
from coop_rl.types import Prompt, RolloutGroup, SamplingSettings


def sample_seed(seed: int, prompt_id: str, index: int) -> int:
    """Return the seed of sample `index` of a prompt: 63 bits, the same on every machine.

    Hashed, not counted: neighbouring prompts, steps and samples must not share seeds.
    """
    key = f"{seed}\0{index}\0{prompt_id}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


class RolloutWorker:
    """Turns a prompt into a group; many calls may be under way at once."""

    def __init__(self, engine: GenerationEngine) -> None:
        """Sample with `engine`, which has been started."""
        self._engine = engine

    async def generate_group(self, prompt: Prompt, sampling: SamplingSettings) -> RolloutGroup:
        """Sample `sampling.num_samples` responses to `prompt`.

        The group depends on the weights, the prompt and `sampling` only, not on what else the
        engine is doing.

        Raises:
            ActorLostError: The engine is dead.
        """
        rollouts = await asyncio.gather(
            *(
                self._engine.generate(
                    prompt.context_ids, sampling, sample_seed(sampling.seed, prompt.id, index)
                )
                for index in range(sampling.num_samples)
            )
        )
        return RolloutGroup(prompt, tuple(rollouts))
