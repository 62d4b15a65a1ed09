"""A step's record as the loop would make it."""

import math

from coop_rl.algorithm.roles import StepRecord
from coop_rl.evaluation.result import EvaluationResult
from coop_rl.types import (
    Branch,
    BranchBatch,
    CooperativeGain,
    GradientParts,
    Guidance,
    GuidanceUpdate,
    Objective,
    PackedBatch,
    PolicyVersion,
    PooledGain,
    Prompt,
    Resolution,
    Reward,
    Rollout,
    Sampled,
    SampleSums,
    ScoredGroup,
    SkipReason,
    SourceBatch,
    StepMeans,
    StepResult,
    Updates,
    Work,
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
        means=StepMeans(
            rl_loss=-0.1,
            sft_loss=0.7 if branch == "joint" else math.nan,
            entropy=0.5,
            mismatch_kl=1e-6,
            kl_ref=math.nan,
            clip_fraction=0.0,
        ),
        samples=SampleSums(log_ratio_N=(0.0,) * 6, kl_N=()),
        parts=GradientParts(),
        updates=Updates(num_taken=1, grad_norm=2.0, is_applied=True),
        work=Work(
            num_parameters=1000, forward_tokens=0, backward_tokens=50 if branch == "joint" else 20
        ),
    )


GROUPS = (
    group("a", RIGHT, RIGHT),
    group("b", WRONG, TIMEOUT),
    group("c", RIGHT, CRASHED, version=2),
)
GAIN = CooperativeGain(
    estimator="reweighted",
    value=0.012,
    stderr=0.004,
    reward_gap=0.012,
    kl_gap=None,
    ess=0.9,
    ess_joint=0.99,
    capped_share=0.0,
    shadow_kl=0.02,
    shadow_age=3,
    resolution=Resolution(),
    is_usable=True,
    is_resolved=True,
)
GUIDANCE = GuidanceUpdate(
    PolicyVersion(4, 4), SkipReason.NONE, 1.5, 0.1, 0.3, math.nan, 0.6, Guidance(0.5)
)


def packed(num_rl_tokens: int, num_samples: int) -> BranchBatch:
    shown = SourceBatch("", (), 20, ("d0", "d1"))
    return BranchBatch((PackedBatch((), (shown,), num_rl_tokens, num_samples),))


def bridge(step: int = 3, gain: CooperativeGain = GAIN) -> StepRecord:
    return StepRecord(
        step=step,
        version=PolicyVersion(3, 3),
        objective=MIXED,
        sampled=Sampled(GROUPS),
        fresh=(),
        batch=packed(9, 6),
        joint=result("joint"),
        shadow=result("shadow"),
        gain=gain,
        pooled=PooledGain(0.011, 0.002, 4, 2.5),
        update=GUIDANCE,
    )


def sft(step: int = 3) -> StepRecord:
    return StepRecord(
        step=step,
        version=PolicyVersion(3, 0),
        objective=SFT,
        sampled=Sampled(),
        fresh=(),
        batch=packed(0, 0),
        joint=result("joint"),
        shadow=None,
        gain=None,
        pooled=None,
        update=None,
    )


def evaluated(name: str, step: int, num_right: int, num_items: int) -> EvaluationResult:
    """Return an evaluation whose first items are right, greedily and in all of four samples."""
    right = tuple(i < num_right for i in range(num_items))
    return EvaluationResult(
        name=name,
        step=step,
        ids=tuple(map(str, range(num_items))),
        greedy_correct=right,
        num_correct=tuple(4 * r for r in right),
        majority_correct=right,
        num_samples=4,
        pass_ks=(2, 4),
        truncated=0.125,
        format=0.9,
        unscored=0.0,
        length_mean=211.4,
        num_tokens=1057 * num_items,
        seconds=10.0,
    )
