"""What has to hold between the roles and where they lie; applied as `rules` are."""

from coop_rl.config.roles import LearnerSection, PlacementSection, RolloutSection, SyncSection


def check_engines(rollout: RolloutSection, placement: PlacementSection) -> None:
    """Refuse an engine that has not exactly one device for each of its workers."""
    gpus, workers = placement.rollout.gpus, rollout.tensor_parallel_size
    if workers > 1 and gpus not in (0, workers):
        raise ValueError(
            f"rollout.tensor_parallel_size {workers} needs as many devices for every engine; set "
            f"placement.rollout.gpus {workers}, got {gpus:g}"
        )


def check_elastic(rollout: RolloutSection, placement: PlacementSection) -> None:
    """Refuse rollout actors that come and go where no node does, or where others depend on them."""
    if not rollout.is_elastic:
        return
    given, need = f"rollout.num_actors {rollout.num_actors}", placement.rollout
    reasons = {
        "placement.address null starts a Ray on this machine, which never grows; set "
        "placement.address": placement.address is None,
        "placement.colocated has engines and learners take turns on the same devices; set it "
        "false": placement.colocated,
        f"placement.rollout.gpus {need.gpus:g} lets engines share a device, which vLLM measures "
        "while it starts; give whole devices": 0 < need.gpus < 1,
        "placement.rollout reserves nothing, so every place is free; set its cpus or gpus": not (
            need.cpus or need.gpus
        ),
        f"placement.rollout.strategy {need.strategy} is about all actors together, and each is "
        "placed by itself; set pack or spread": need.strategy.startswith("strict"),
    }
    for reason, is_so in reasons.items():
        if is_so:
            raise ValueError(f"{given}: {reason}, or give one number of actors")


def check_colocated(
    placement: PlacementSection, rollout: RolloutSection, sync: SyncSection
) -> None:
    """Refuse turns on a device that engines and learners do not share, or cannot take."""
    lag = rollout.max_policy_lag
    if not placement.colocated:
        return
    if lag > 0:
        raise ValueError(
            "placement.colocated makes engines rest while learners train; set "
            f"rollout.max_policy_lag 0, got {lag}"
        )
    if placement.rollout.gpus >= 1 or placement.learner.gpus >= 1:
        raise ValueError(
            "placement.colocated shares devices; give placement.rollout.gpus and "
            f"placement.learner.gpus fractions, got {placement.rollout.gpus:g} and "
            f"{placement.learner.gpus:g}"
        )
    if sync.backend == "nccl":
        raise ValueError(
            "sync.backend nccl cannot connect two processes on one device, which "
            "placement.colocated asks for; set auto or gloo"
        )


def check_ranks(placement: PlacementSection, learner: LearnerSection) -> None:
    """Refuse two ranks of a learner group on one device, which NCCL cannot connect."""
    ranks = learner.num_ranks
    for name, role in (("learner", placement.learner), ("shadow", placement.shadow)):
        if ranks > 1 and 0 < role.gpus <= 0.5 and role.strategy != "strict_spread":
            raise ValueError(
                f"placement.{name}.gpus {role.gpus:g} lets two of learner.num_ranks {ranks} lie on "
                "one device, which NCCL cannot connect; give more than 0.5, or one rank, or on "
                "nodes of one GPU strategy strict_spread"
            )
