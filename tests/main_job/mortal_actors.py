"""Actors that are killed at a chosen moment, for a run in this process that takes them for ours.

The classes are local, so that they travel to Ray's workers by value. Each life of an actor leaves a
line in `<log>.lives`, which tells the next which one it is.
"""

from pathlib import Path
from typing import Any

import pytest

from coop_rl.commands.train import run_training
from coop_rl.config import load_config
from coop_rl.distributed import build
from coop_rl.distributed.actors import RewardActor, RolloutActor
from tests.main_job.harness import DEMO, SMALL

Deaths = dict[str, list[tuple[str, int]]]
"""Actor -> for each of its lives, the method in whose n-th call it ends, and n."""


def mortal_rollouts(deaths: Deaths) -> type:
    """Return rollout actors that are killed so."""

    class MortalRollout(RolloutActor):
        def __init__(self, config: Any, backend: str, log: Path) -> None:
            super().__init__(config, backend, log)
            lives = log.with_suffix(".lives")
            life = len(lives.read_text().splitlines()) if lives.exists() else 0
            lives.write_text("life\n" * (life + 1))
            ends = [*deaths.get(log.stem, []), *[("", 0)] * (life + 1)]
            self._method, self._left = ends[life]

        def _count(self, method: str) -> None:
            import asyncio
            import os
            import signal

            self._left -= method == self._method
            if method == self._method and self._left == 0:
                # The call is under way by then.
                asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGKILL)

        async def generate(self, prompt, sampling):
            self._count("generate")
            return await super().generate(prompt, sampling)

        async def receive_weights(self, update_info):
            self._count("receive_weights")
            await super().receive_weights(update_info)

    return MortalRollout


def mortal_reward(num_scores: int) -> type:
    """Return a reward actor whose first life ends in a call of `score`."""

    class MortalReward(RewardActor):
        def __init__(self, config: Any, log: Path) -> None:
            super().__init__(config, log)
            lives = log.with_suffix(".lives")
            self._left = 0 if lives.exists() else num_scores
            lives.touch()

        def score(self, group):
            import os
            import signal

            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().score(group)

    return MortalReward


def run_among_deaths(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, rollouts: type, reward: type, *overrides: str
) -> None:
    """Run the small demo in this process with mortal actors."""
    monkeypatch.setattr(build, "RolloutActor", rollouts)
    monkeypatch.setattr(build, "RewardActor", reward)
    run_training(load_config(DEMO, [*SMALL, *overrides]), run_dir, "never")
