"""An engine without a model, for tests of everything around engines.

It samples from a script, deterministic in (prompt, seed, version), and keeps a log of its calls.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from coop_rl.errors import ActorLostError
from coop_rl.types import PolicyVersion, Rollout, SamplingSettings

Script = Callable[[Sequence[int], SamplingSettings, int], Sequence[int]]
"""From prompt, sampling and seed to the response's tokens."""

FIRST_VERSION = PolicyVersion(0, 0)
VOCABULARY_SIZE = 100


def random_tokens(prompt: Sequence[int], sampling: SamplingSettings, seed: int) -> Sequence[int]:
    """Draw 1 to `max_tokens` tokens; greedy draws depend on the prompt only."""
    source = random.Random(f"{list(prompt)} {seed if sampling.temperature else 'greedy'}")
    length = source.randint(1, sampling.max_tokens)
    return [source.randrange(VOCABULARY_SIZE) for _ in range(length)]


class ScriptedEngine:
    """Implements GenerationEngine; `kill` makes it behave like a dead one."""

    def __init__(
        self, script: Script = random_tokens, decode: Callable[[Sequence[int]], str] | None = None
    ) -> None:
        """Answer with `script`; `decode` makes the text (default: the numbers)."""
        self._script = script
        self._decode = decode or (lambda tokens: " ".join(map(str, tokens)))
        self._running = asyncio.Event()
        self._running.set()
        self._is_dead = False
        self.version = FIRST_VERSION
        self.calls: list[str] = []
        """Names of the methods called, in order."""
        self.infos: list[Mapping[str, Any]] = []
        """What the weight methods were called with."""

    def kill(self) -> None:
        """Make every later call, and every frozen one, raise ActorLostError."""
        self._is_dead = True
        self._running.set()

    async def start(self) -> None:
        """Do nothing."""
        self._note("start")

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: SamplingSettings, seed: int
    ) -> Rollout:
        """Return the scripted response, every token with log-probability -1."""
        self._note("generate")
        await asyncio.sleep(0)
        await self._running.wait()
        self._fail_if_dead()
        tokens = tuple(self._script(prompt_token_ids, sampling, seed))
        return Rollout(
            token_ids=tokens,
            behaviour_log_probs=(-1.0,) * len(tokens),
            text=self._decode(tokens),
            is_truncated=len(tokens) == sampling.max_tokens,
            version=self.version,
        )

    async def pause(self) -> None:
        """Freeze requests."""
        self._note("pause")
        self._running.clear()

    async def resume(self) -> None:
        """Unfreeze requests."""
        self._note("resume")
        self._running.set()

    async def sleep(self, *, keeps_weights: bool = False) -> None:
        """Note the call."""
        self._note("sleep")

    async def init_weight_transfer(self, init_info: Mapping[str, Any]) -> None:
        """Note the call."""
        self._note("init_weight_transfer", init_info)

    async def start_weight_update(self) -> None:
        """Pause."""
        self._note("start_weight_update")
        self._running.clear()

    async def update_weights(self, update_info: Mapping[str, Any]) -> None:
        """Note the call."""
        self._note("update_weights", update_info)

    async def finish_weight_update(self, version: str) -> None:
        """Take over the version and resume."""
        self._note("finish_weight_update")
        self.version = PolicyVersion.parse(version)
        self._running.set()

    async def receipt(self) -> Mapping[str, int]:
        """Return none."""
        self._note("receipt")
        return {}

    async def shutdown(self) -> None:
        """Note the call."""
        self.calls.append("shutdown")

    def _note(self, call: str, *infos: Mapping[str, Any]) -> None:
        self.calls.append(call)
        self.infos += infos
        self._fail_if_dead()

    def _fail_if_dead(self) -> None:
        if self._is_dead:
            raise ActorLostError("the scripted engine was killed")
