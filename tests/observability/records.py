"""A step's record as the loop would make it."""

import math

from coop_rl.algorithm.roles import StepRecord
from coop_rl.types import (
    Branch,
    CooperativeGain,
    GuidanceUpdate,
    Objective,
    PackedBatch,
    PolicyVersion,
    Prompt,
    Reward,
    Rollout,
    ScoredGroup,
    StepResult,
)

MIXED, SFT = Objective(0.5, 0.5), Objective(0.0, 1.0)
RIGHT, WRONG = Reward(1.0, True), Reward(0.0, False)
TIMEOUT, CRASHED = Reward(0.0, False, "timeout"), Reward(0.0, False, "crashed")


def group(name: str, *rewards: Reward, text: str = "#4", version: int = 3) -> ScoredGroup:
    rollouts = tuple(
        Rollout((1,) * (i + 1), (0.0,) * (i + 1), text, i == 0, PolicyVersion(version, version))
        for i in range(len(rewards))
    )
    return ScoredGroup(Prompt(name, "2+2=?\n", (1, 2), "4"), rollouts, rewards)


def result(branch: Branch) -> StepResult:
    return StepResult(
        branch=branch,
        version=PolicyVersion(3, 3),
        rl_loss=-0.1,
        sft_loss=0.7 if branch == "joint" else math.nan,
        entropy=0.5,
        mismatch_kl=1e-6,
        log_ratio_N=(0.0,) * 6,
        grad_norm=2.0,
        rl_grad_norm=math.nan,
        sft_grad_norm=math.nan,
        grad_cosine=math.nan,
        is_step_applied=True,
        duration_s=1.0,
    )


GROUPS = (
    group("a", RIGHT, RIGHT),
    group("b", WRONG, TIMEOUT),
    group("c", RIGHT, CRASHED, version=2),
)
GAIN = CooperativeGain(0.012, 0.004, 0.9, 0.99, 0.0, 0.02, True)
GUIDANCE = GuidanceUpdate(PolicyVersion(4, 4), "", 1.5, 0.1, 0.3, math.nan, 0.6)


def bridge(step: int = 3, gain: CooperativeGain = GAIN) -> StepRecord:
    batch = PackedBatch((), (), num_rl_tokens=9, num_sft_tokens=20, num_samples=6)
    joint, shadow = result("joint"), result("rl_only")
    return StepRecord(
        step, PolicyVersion(3, 3), MIXED, GROUPS, batch, joint, shadow, gain, GUIDANCE
    )


def sft(step: int = 3) -> StepRecord:
    batch = PackedBatch((), (), num_rl_tokens=0, num_sft_tokens=20, num_samples=0)
    return StepRecord(step, PolicyVersion(3, 0), SFT, (), batch, result("joint"), None, None, None)
