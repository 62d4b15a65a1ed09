"""What follows from a role's device, where the config leaves it open."""

import pytest

from coop_rl.config import load_config
from coop_rl.config.sizes import attention, learner_timeout_s
from coop_rl.driver.canary import default_tolerance
from coop_rl.learner.deepspeed_config import deepspeed_config
from coop_rl.learner.engine import EngineSettings
from tests.main_job.harness import DEMO

ON_GPU = ("placement.learner.gpus=1", "placement.rollout.gpus=1", "placement.shadow.gpus=1")
BF16 = ("model.dtype=bfloat16", "rollout.dtype=bfloat16")
FP32 = ("model.dtype=float32", "rollout.dtype=float32")


@pytest.mark.parametrize(
    ("sets", "kind", "timeout_s", "tolerance"),
    [
        (FP32, "sdpa", 120, 1e-3),
        (BF16, "sdpa", 120, 0.1),
        ((*ON_GPU, *FP32), "sdpa", 1800, 0.02),
        ((*ON_GPU, *BF16), "varlen", 1800, 0.1),
        (
            (*ON_GPU, *BF16, "learner.attention=sdpa", "learner.timeout_s=7"),
            "sdpa",
            7,
            0.1,
        ),
        ((*FP32, "learner.attention=varlen"), "varlen", 120, 1e-3),
    ],
)
def test_attention_limits_and_tolerances(sets, kind, timeout_s, tolerance) -> None:
    config = load_config(DEMO, [*sets])
    assert attention(config) == kind
    assert learner_timeout_s(config) == timeout_s
    assert default_tolerance(config) == tolerance


@pytest.mark.parametrize("has_streams", [False, True])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_collectives_run_beside_computation_at_stage_3_on_gpus(stage, has_streams) -> None:
    settings = EngineSettings(load_config(DEMO, []).learner, stage)
    zero = deepspeed_config(settings, 1000, has_streams=has_streams)["zero_optimization"]
    assert zero["overlap_comm"] == (has_streams and stage == 3)
