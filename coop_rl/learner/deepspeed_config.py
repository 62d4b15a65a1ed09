"""The config DeepSpeed is started with."""

from typing import Any

from coop_rl.learner.engine import EngineSettings

NEVER_STEPS = 10**9
REDUCE_BUCKET_VALUES = 50_000_000
"""Most gradient values reduced at once; DeepSpeed's default, ten times as many, is a buffer of
1 GB."""


def reduce_bucket(num_params: int) -> int:
    """Return the gradient values reduced at once, through a buffer that stage 3 never frees."""
    return min(REDUCE_BUCKET_VALUES, num_params)


def deepspeed_config(
    settings: EngineSettings, num_params: int, *, has_streams: bool = False
) -> dict[str, Any]:
    """Return ZeRO stage, AdamW and clipping; accumulation and rates are ours to manage.

    Args:
        settings: Stage and optimiser.
        num_params: Weights of the module.
        has_streams: Whether a collective can run beside computation: on GPUs.
    """
    is_bfloat16 = settings.is_bfloat16 and settings.zero_stage > 0
    optimizer = {
        "lr": 0.0,  # set at every step
        "betas": list(settings.optimizer.betas),
        "weight_decay": settings.optimizer.weight_decay,
        "torch_adam": True,
        "fused": True,  # one pass over the state: an eighth of the time on a CPU core
    }
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # At stage 0 the engine clips, and has the masters and the optimiser.
        "gradient_clipping": settings.optimizer.max_grad_norm if settings.zero_stage else 0.0,
        "zero_allow_untested_optimizer": True,
        "optimizer": {"type": "AdamW", "params": optimizer},
        "zero_optimization": {
            "stage": settings.zero_stage,
            "reduce_bucket_size": reduce_bucket(num_params),
            # Stages 0 and 1 refuse it with unmanaged accumulation. At 3 weights are gathered on a
            # stream of their own, beside the layer before.
            "overlap_comm": has_streams and settings.zero_stage == 3,
            "stage3_param_persistence_threshold": settings.persistence_threshold_values,
        },
        "bf16": {"enabled": is_bfloat16},
        "steps_per_print": NEVER_STEPS,
    }
    if is_bfloat16:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config
