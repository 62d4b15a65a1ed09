"""What a rollout worker asks of its engine: `VllmEngine`, or a scripted one in tests."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from coop_rl.types import Rollout, SamplingSettings


class GenerationEngine(Protocol):
    """One model that samples, and whose weights are replaced between samples.

    A weight update is init (once), then start, update, finish; generation is paused from start to
    finish, and stays paused if one of them fails: an engine with half its weights must not sample.
    """

    async def start(self) -> None:
        """Load the model; nothing else may be called before."""
        ...

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: SamplingSettings, seed: int
    ) -> Rollout:
        """Sample one response; `seed` decides it (`sampling.seed` and `num_samples` do not count).

        Raises:
            ActorLostError: The engine is dead.
        """
        ...

    async def pause(self) -> None:
        """Freeze requests where they are and drop what was cached for them."""
        ...

    async def resume(self) -> None:
        """Go on with frozen requests."""
        ...

    async def sleep(self, *, keeps_weights: bool = False) -> None:
        """Give up the device's memory until weights are updated, or something is generated.

        Nothing may be under way, and without its weights nothing is generated before an update.
        """
        ...

    async def init_weight_transfer(self, init_info: Mapping[str, Any]) -> None:
        """Join the transfer group."""
        ...

    async def start_weight_update(self) -> None:
        """Pause, and open an update."""
        ...

    async def update_weights(self, update_info: Mapping[str, Any]) -> None:
        """Receive weights; returns when all of them have arrived."""
        ...

    async def finish_weight_update(self, version: str) -> None:
        """Close the update, stamp `version` on what is sampled from now on, and resume."""
        ...

    async def receipt(self) -> Mapping[str, int]:
        """Return {tensor: checksum} of what the last weight update brought."""
        ...

    async def shutdown(self) -> None:
        """End the engine's processes."""
        ...
