"""What mypy refuses of a call to an actor; checked by `mypy`, never run.

Each refused call differs from one in `known` by one thing. Strict mypy reports a `type: ignore`
that nothing needs, so were one of them accepted, `make check` would fail.
"""

from typing import assert_type

from coop_rl.distributed.actors import PeerShell, RewardActor, RolloutActor, Shell
from coop_rl.distributed.calls import Call, Ref, gather
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.member import Member, argument, put
from coop_rl.types import (
    AdapterGradients,
    BranchBatch,
    Objective,
    PolicyVersion,
    Prompt,
    RolloutGroup,
    SamplingSettings,
    ScoredGroup,
    StepResult,
)
from coop_rl.weights.publisher import SyncReport
from coop_rl.weights.receipt import Receipt

VERSION, OBJECTIVE = PolicyVersion(1, 1), Objective(rl_weight=1.0, sft_weight=0.0)


def refused(learner: Member[LearnerActor], engine: Member[RolloutActor]) -> None:
    """A wrong argument, a misspelt method, the wrong actor."""
    learner.call(LearnerActor.publish, "1/1")  # type: ignore[call-overload]
    learner.call(LearnerActor.publish)  # type: ignore[call-overload]
    learner.call(LearnerActor.pubish, VERSION)  # type: ignore[attr-defined, call-overload]
    engine.call(LearnerActor.publish, VERSION)  # type: ignore[call-overload]
    engine.call(PeerShell.open_group, "w")  # type: ignore[call-overload]


def known(
    learner: Member[LearnerActor],
    engine: Member[RolloutActor],
    reward: Member[RewardActor],
    prompt: Prompt,
    sampling: SamplingSettings,
    batch: BranchBatch,
) -> None:
    """Results have their types: of coroutines, of two values, and of values that stay remote."""
    assert_type(learner.call(LearnerActor.publish, VERSION), Call[SyncReport])
    assert_type(learner.call(PeerShell.open_group, "w"), Call[tuple[str, int]])
    assert_type(engine.call(RolloutActor.receipt), Call[Receipt])
    sampled = engine.call(RolloutActor.generate, prompt, sampling)
    assert_type(sampled, Call[RolloutGroup])
    assert_type(gather([sampled], 1.0), list[RolloutGroup])
    assert_type(reward.call(RewardActor.score, argument(sampled.ref)), Call[ScoredGroup])
    step, gradients = learner.call_pair(LearnerActor.step, 0, argument(put(batch)), OBJECTIVE)
    assert_type(step, Call[StepResult])
    assert_type(gradients, Ref[AdapterGradients | None])
    everybody: list[Member[Shell]] = [learner, engine, reward]
    assert_type([member.call(Shell.start_recording) for member in everybody], list[Call[None]])
