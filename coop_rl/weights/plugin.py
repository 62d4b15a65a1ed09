"""Registers the gloo backend with vLLM, in every process that needs it.

vLLM runs its engine core and workers as processes of their own, which see our backend only through
the entry point `coop_rl_gloo` of the group `vllm.general_plugins` (pyproject.toml). The learner,
which is not a vLLM process, calls `register` itself.
"""

from importlib.metadata import entry_points

from coop_rl.weights.lifeline import follow_parent

ENTRY_POINT_GROUP = "vllm.general_plugins"
ENTRY_POINT_NAME = "coop_rl_gloo"
BACKEND_NAME = "coop_gloo"


def register() -> None:
    """Register both sides of the backend; calling it again does nothing.

    In the processes of an engine of ours it also ties their lives to the rollout actor's.
    """
    follow_parent()
    from vllm.distributed.weight_transfer.factory import (
        WeightTransferEngineFactory,
        WeightTransferTrainerFactory,
    )

    module = "coop_rl.weights.gloo_engine"
    if BACKEND_NAME not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND_NAME, module, "GlooWeightTransferEngine"
        )
    if BACKEND_NAME not in WeightTransferTrainerFactory._registry:
        WeightTransferTrainerFactory.register_engine(
            BACKEND_NAME, module, "GlooTrainerWeightTransferEngine"
        )


def is_installed() -> bool:
    """Whether vLLM's processes will find the entry point."""
    return any(point.name == ENTRY_POINT_NAME for point in entry_points(group=ENTRY_POINT_GROUP))
