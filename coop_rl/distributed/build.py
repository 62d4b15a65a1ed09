"""From a config to a started team of actors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.exceptions import GetTimeoutError, RayError

from coop_rl.config import RunConfig
from coop_rl.config.roles import RoleResources
from coop_rl.config.sizes import has_shadow
from coop_rl.distributed.actors import (
    LearnerActor,
    MetaControllerActor,
    RewardActor,
    RolloutActor,
)
from coop_rl.distributed.team import Member, Team

if TYPE_CHECKING:  # imports vllm, which the driver has no use for
    from coop_rl.weights.publisher import SyncBackend

MANY_CALLS = 4096
"""Groups one rollout actor may hold at once; its engine queues them itself."""
SHUTDOWN_GRACE_S = 10.0
"""How long an engine gets to end its own processes."""


def weight_backend(config: RunConfig) -> "SyncBackend":
    """Return `nccl` where rollout actors and learners have whole devices of their own, else `gloo`.

    NCCL refuses two ranks on one device.
    """
    if config.sync.backend != "auto":
        return config.sync.backend
    place = config.placement
    own_devices = all(role.gpus >= 1 for role in (place.rollout, place.learner))
    return "nccl" if own_devices else "gloo"


@contextmanager
def team_of(config: RunConfig, log_dir: Path) -> Iterator[Team]:
    """Create the actors of a run; on leaving, end engines and pools before the actors go."""
    team = _create(config, log_dir)
    try:
        yield team
    finally:
        ending = [m.handle.shutdown.remote() for m in (*team.rollouts, team.reward)]
        try:
            ray.get(ending, timeout=SHUTDOWN_GRACE_S)
        except (RayError, GetTimeoutError):
            pass  # dead or hanging already; the session kills what is left by process id
        for member in team.all:
            ray.kill(member.handle, no_restart=True)


def _create(config: RunConfig, log_dir: Path) -> Team:
    backend, place, ranks = (
        weight_backend(config),
        config.placement,
        range(config.learner.num_ranks),
    )

    def options(name: str, need: RoleResources, **more: object) -> dict[str, object]:
        return {"name": name, "num_cpus": need.cpus, "num_gpus": need.gpus, **more}

    def log(name: str) -> Path:
        return log_dir / f"{name}.log"

    rollouts = []
    for i in range(config.rollout.num_actors):
        name = f"rollout-{i}"
        chosen = options(name, place.rollout, max_concurrency=MANY_CALLS)
        handle = RolloutActor.options(**chosen).remote(config, backend, log(name))
        rollouts.append(Member(name, handle))
    learners: dict[str, list[Member]] = {"joint": [], "rl_only": []}
    for branch, need in (("joint", place.learner), ("rl_only", place.shadow)):
        if branch == "rl_only" and not has_shadow(config):
            continue
        for rank in ranks:
            name = f"learner-{branch}-{rank}"
            handle = LearnerActor.options(**options(name, need)).remote(
                config, branch, rank, backend, log(name)
            )
            learners[branch].append(Member(name, handle))
    meta = None
    if config.method.kind == "bridge":
        name = "meta-controller"
        handle = MetaControllerActor.options(**options(name, place.meta)).remote(config, log(name))
        meta = Member(name, handle)
    reward = RewardActor.options(**options("reward", place.reward)).remote(config, log("reward"))
    return Team(
        rollouts=tuple(rollouts),
        joint=tuple(learners["joint"]),
        shadow=tuple(learners["rl_only"]),
        meta=meta,
        reward=Member("reward", reward),
    )
