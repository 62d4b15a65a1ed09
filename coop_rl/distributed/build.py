"""From a config to a started team of actors."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from coop_rl.config import RunConfig
from coop_rl.config.roles import RoleResources
from coop_rl.config.schema import ServingConfig
from coop_rl.config.sizes import has_shadow
from coop_rl.distributed.actors import (
    LearnerActor,
    MetaControllerActor,
    RewardActor,
    RolloutActor,
)
from coop_rl.distributed.team import Member, Team
from coop_rl.types import Branch

if TYPE_CHECKING:  # imports vllm, which the driver has no use for
    from coop_rl.weights.publisher import SyncBackend

MANY_CALLS = 4096
"""Groups one rollout actor may hold at once; its engine queues them itself."""
SHUTDOWN_GRACE_S = 10.0
"""How long an engine gets to end its own processes."""


def weight_backend(config: ServingConfig) -> "SyncBackend":
    """Return `nccl` where rollout actors and learners have whole devices of their own, else `gloo`.

    NCCL refuses two ranks on one device.
    """
    if config.sync.backend != "auto":
        return config.sync.backend
    place = config.placement
    own_devices = all(role.gpus >= 1 for role in (place.rollout, place.learner))
    return "nccl" if own_devices else "gloo"


@contextmanager
def team_of(config: ServingConfig, log_dir: Path) -> Iterator[Team]:
    """Create the actors of a run; on leaving, end engines and pools before the actors go.

    A config that is no `RunConfig` gets rollout actors and a reward actor only.
    """
    team = _create(config, log_dir)
    try:
        yield team
    finally:
        ending = [m.handle.shutdown.remote() for m in (*team.engines, team.reward)]
        # Dead or hanging already: the session kills what is left by process id.
        with suppress(RayError, GetTimeoutError):
            ray.get(ending, timeout=SHUTDOWN_GRACE_S)
        for member in team.all:
            ray.kill(member.handle, no_restart=True)


def _create(config: ServingConfig, log_dir: Path) -> Team:
    backend, place = weight_backend(config), config.placement

    def actor(name: str, shell: type, need: RoleResources, *arguments: Any, **more: Any) -> Member:
        remote: Any = ray.remote(shell)
        chosen = remote.options(name=name, num_cpus=need.cpus, num_gpus=need.gpus, **more)
        return Member(name, chosen.remote(config, *arguments, log_dir / f"{name}.log"))

    def learners(branch: Branch, need: RoleResources, count: int) -> tuple[Member, ...]:
        return tuple(
            actor(f"learner-{branch}-{rank}", LearnerActor, need, branch, rank, backend)
            for rank in range(count)
        )

    def engines(name: str, count: int) -> tuple[Member, ...]:
        return tuple(
            actor(f"{name}-{i}", RolloutActor, place.rollout, backend, max_concurrency=MANY_CALLS)
            for i in range(count)
        )

    serving = Team(
        rollouts=engines("rollout", config.rollout.num_actors),
        # One thread a worker and one for shutting down: a slow group holds up no other.
        reward=actor(
            "reward", RewardActor, place.reward, max_concurrency=config.reward.num_workers + 1
        ),
    )
    if not isinstance(config, RunConfig):
        return serving
    ranks, with_shadow = config.learner.num_ranks, has_shadow(config)
    return replace(
        serving,
        shadow_rollouts=engines(
            "rollout-rl_only", config.shadow.num_rollout_actors if with_shadow else 0
        ),
        joint=learners("joint", place.learner, ranks),
        shadow=learners("rl_only", place.shadow, ranks if with_shadow else 0),
        meta=actor("meta-controller", MetaControllerActor, place.meta)
        if config.method.kind == "bridge"
        else None,
    )
