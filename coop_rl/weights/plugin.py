"""Registers the gloo backend with vLLM, in every process that receives weights.

vLLM runs its engine core and workers as processes of their own, which see our backend only through
the entry point `coop_rl_gloo` of the group `vllm.general_plugins` (pyproject.toml). The learner,
which only sends, needs no vLLM for it (`gloo_sender`).
"""

from importlib.metadata import entry_points

from coop_rl.weights.lifeline import follow_parent

ENTRY_POINT_GROUP = "vllm.general_plugins"
ENTRY_POINT_NAME = "coop_rl_gloo"
BACKEND_NAME = "coop_gloo"


def register() -> None:
    """Register the receiving side; calling it again does nothing.

    In the processes of an engine of ours it also ties their lives to the rollout actor's.
    """
    follow_parent()
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND_NAME not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND_NAME, "coop_rl.weights.gloo_engine", "GlooWeightTransferEngine"
        )


def is_installed() -> bool:
    """Whether vLLM's processes will find the entry point."""
    return any(point.name == ENTRY_POINT_NAME for point in entry_points(group=ENTRY_POINT_GROUP))
