"""From a config to the actors of a team; called by `commands.train` and `commands.evaluate`.

config --placement.reserved--> room on nodes --team_of--> Team, whose `start` links the actors
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import GetTimeoutError, RayError

from coop_rl.config import RunConfig
from coop_rl.config.roles import RoleResources
from coop_rl.config.schema import ServingConfig
from coop_rl.config.sizes import role_counts, shadow_backend, weight_backend
from coop_rl.distributed.actors import MetaControllerActor, RewardActor, RolloutActor
from coop_rl.distributed.calls import lost_ray_process
from coop_rl.distributed.heartbeat import BEAT_GROUP
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.member import Member
from coop_rl.distributed.placement import Placement, reserved
from coop_rl.distributed.team import Team
from coop_rl.weights.allocator import ALLOCATOR_VARIABLES, GROWING

A = TypeVar("A")

MANY_CALLS = 4096
"""Groups one rollout actor may hold at once; its engine queues them itself."""
SINGLE = ("reward", "meta-controller")
"""Roles whose actor has no number in its name where it is the only one."""
INDEX = object()
"""Stands, among the arguments of a role's actors, for each one's index."""
SHUTDOWN_GRACE_S = 10.0
"""How long an engine gets to end its own processes."""


@contextmanager
def team_of(config: ServingConfig, log_dir: Path, report: Callable[[str], None]) -> Iterator[Team]:
    """Create the actors of a run; on leaving, end engines and pools before the actors go.

    A config that is no `RunConfig` gets rollout and reward actors only. `report` gets a
    line now and then while the cluster has no room for them.

    Raises:
        ResourceError: The cluster cannot hold them.
    """
    with reserved(config, report) as placement:
        team = _create(config, log_dir, placement)
        try:
            yield team
        finally:
            if lost_ray_process() is None:
                _end(team)


def learner_environment(config: ServingConfig, gpus: float) -> dict[str, Any]:
    """Return Ray's options that let a learner's blocks of GPU memory grow, or nothing on a CPU.

    Micro-batches differ in size, and blocks of fixed size would be lost between them. The engines
    must not inherit it, so it is no setting of the node; one of the user's own comes first.
    """
    given = {*config.placement.environment, *os.environ}
    if not gpus or given.intersection(ALLOCATOR_VARIABLES):
        return {}
    return {"runtime_env": {"env_vars": {ALLOCATOR_VARIABLES[0]: GROWING}}}


def _end(team: Team) -> None:
    ending = [m.handle.shutdown.remote() for m in (*team.engines, *team.rewards)]
    # Dead or hanging already: the session kills what is left by process id.
    with suppress(RayError, GetTimeoutError):
        ray.get(ending, timeout=SHUTDOWN_GRACE_S)
    for member in team.all:
        ray.kill(member.handle, no_restart=True)


def _create(config: ServingConfig, log_dir: Path, placement: Placement) -> Team:
    backend, counts = weight_backend(config), role_counts(config)
    recipes: dict[str, Callable[[], Member[Any]]] = {}

    def actors(
        role: str, shell: type[A], arguments: Sequence[Any], most: int = 0, **more: Any
    ) -> tuple[Member[A], ...]:
        """Create the actors of a role, of which there may be `most` some day.

        Each gets its index, where `arguments` has INDEX.
        """
        count, need = counts.get(role, (0, RoleResources()))
        # The group moves the methods off the main thread, onto one other.
        untyped: Any = ray.remote
        remote = untyped(concurrency_groups={BEAT_GROUP: 1})(shell)

        def make(name: str, index: int) -> Member[A]:
            where = placement.options(role, index)
            chosen = remote.options(
                name=name, num_cpus=need.cpus, num_gpus=need.gpus, **where, **more
            )
            given = [index if argument is INDEX else argument for argument in arguments]
            return Member(name, chosen.remote(config, *given, log_dir / f"{name}.log"))

        is_single = role in SINGLE and count == 1
        indices = range(max(count, most))
        names = [role.replace(" ", "-") + f"-{i}" * (not is_single) for i in indices]
        recipes.update({name: partial(make, name, i) for i, name in enumerate(names)})
        return tuple(make(name, index) for index, name in enumerate(names[:count]))

    def learners(branch: str) -> tuple[Member[LearnerActor], ...]:
        role = f"learner {branch}"
        _, need = counts.get(role, (0, RoleResources()))
        environment = learner_environment(config, need.gpus)
        return actors(role, LearnerActor, (branch, INDEX, backend), **environment)

    # One thread a worker and one for shutting down: a slow group holds up no other.
    threads = {"max_concurrency": config.reward.num_workers + 1}
    engines = {"max_concurrency": MANY_CALLS}
    return Team(
        rollouts=actors("rollout", RolloutActor, (backend,), config.rollout.max_actors, **engines),
        rewards=actors("reward", RewardActor, (), **threads),
        shadow_rollouts=actors("rollout shadow", RolloutActor, (backend,), **engines),
        evaluation_rollouts=actors("rollout evaluation", RolloutActor, (backend,), **engines),
        joint=learners("joint"),
        shadow=learners("shadow"),
        meta=next(iter(actors("meta-controller", MetaControllerActor, ())), None),
        shadow_backend=shadow_backend(config) if isinstance(config, RunConfig) else "gloo",
        engine_gpus=config.placement.rollout.gpus,
        remake=lambda name: recipes[name](),
        room=placement.room,
    )
