"""The canary: do the rollout actors compute with the weights that were published?

    fixed prompts, fixed seeds --> every rollout actor --> tokens, their log-probs
    those tokens --> joint learner --> their log-probs under (theta, w)         must be equal

Checksums prove that bytes arrived; only this proves that the engine's kernels use them: it goes the
way of every rollout, through prefix cache, packed weights, temperature and version stamps. Called
by `driver.fleet` after a publish, always for engines that took a lost one's place.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coop_rl.config import RunConfig
from coop_rl.distributed.actors import RolloutActor
from coop_rl.distributed.calls import gather
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.member import Member
from coop_rl.errors import WeightSyncError
from coop_rl.tracing.stages import Stages
from coop_rl.types import PolicyVersion, Prompt, RolloutGroup, SamplingSettings
from coop_rl.weights.receipt import describe_difference

Engine = Member[RolloutActor]
NUM_PROMPTS, NUM_SAMPLES, MAX_TOKENS = 4, 2, 16
SEED = 20_250_906
"""Any fixed number, so that every check samples with the same random numbers."""
FP32_TOLERANCE, FP32_GPU_TOLERANCE, BF16_TOLERANCE = 1e-3, 0.02, 0.1
"""Allowed mean difference in nats; measured ones are in docs/results.md. On GPUs vLLM's attention
rounds fp32 to TF32, whose 11 bits are between those of fp32 and bf16; its figure is assumed."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far one rollout actor's log-probs are from the learner's, over the canary's tokens."""

    mean: float
    """Mean absolute difference, in nats."""
    largest: float
    """Largest absolute difference, in nats."""
    num_tokens: int
    """Tokens compared."""


def compare(
    groups: Sequence[RolloutGroup], learner_log_probs: Sequence[Sequence[float]]
) -> Agreement:
    """Compare the engine's log-probs with the learner's, row by row in the same order."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    differences = [
        abs(engine - learner)
        for rollout, row in zip(rollouts, learner_log_probs, strict=True)
        for engine, learner in zip(rollout.behaviour_log_probs, row, strict=True)
    ]
    return Agreement(math.fsum(differences) / len(differences), max(differences), len(differences))


def default_tolerance(config: RunConfig) -> float:
    """Return the limit by the types and the device of engines and learners."""
    if not config.rollout.dtype == config.model.dtype == "float32":
        return BF16_TOLERANCE
    return FP32_GPU_TOLERANCE if config.placement.rollout.gpus else FP32_TOLERANCE


class Canary:
    """Checks rollout actors after the first publish, then every `sync.canary_every`-th."""

    def __init__(
        self,
        config: RunConfig,
        ranks: Sequence[Member[LearnerActor]],
        prompts: Sequence[Prompt],
        stages: Stages,
        report: Callable[[str], None],
    ) -> None:
        """Compare engines with the learner group `ranks`, whose weights they were sent.

        They sample on the first `NUM_PROMPTS` prompts; `report` gets a line after the first check.
        """
        self._every = config.sync.canary_every
        self._ranks = ranks
        self._prompts = tuple(prompts[:NUM_PROMPTS])
        self._stages = stages
        self._report = report
        self._timeout_s = config.placement.call_timeout_s
        self._has_run = False
        self._sampling = SamplingSettings(
            num_samples=NUM_SAMPLES,
            temperature=config.rollout.temperature,
            top_p=1.0,
            max_tokens=min(MAX_TOKENS, config.rollout.max_tokens),
            seed=SEED,
        )
        default = default_tolerance(config)
        given = config.sync.canary_tolerance
        self._tolerance = default if given is None else given

    def check_when_due(
        self, version: PolicyVersion, engines: Sequence[Engine], new: Sequence[Engine]
    ) -> None:
        """Check all engines when it is time to, and those that are new at any time.

        Raises:
            WeightSyncError: One of them computes with other weights; names it and a tensor.
            VersionError: One of them stamps another version.
            ActorLostError: One of them is lost.
        """
        is_due = not self._has_run or (self._every > 0 and version.theta % self._every == 0)
        if not (checked := engines if is_due else new):
            return
        with self._stages.stage("canary"):
            agreements = [self._check(engine, version) for engine in checked]
        worst = max(agreements, key=lambda agreement: agreement.mean)
        self._stages.count("sync/canary_mean", worst.mean)
        self._stages.count("sync/canary_max", max(a.largest for a in agreements))
        if not self._has_run:
            self._has_run = True
            self._report(
                f"engines compute what the learner does: log-probs of {worst.num_tokens} tokens "
                f"differ by {worst.mean:.1e} nats on average"
            )

    def check_all(
        self, version: PolicyVersion, engines: Sequence[Engine], _new: Sequence[Engine]
    ) -> None:
        """Check all engines; raises as `check_when_due` does."""
        for engine in engines:
            self._check(engine, version)

    def check_new(
        self, version: PolicyVersion, _engines: Sequence[Engine], new: Sequence[Engine]
    ) -> None:
        """Check engines that are new; raises as `check_when_due` does."""
        for engine in new:
            self._check(engine, version)

    def _check(self, engine: Engine, version: PolicyVersion) -> Agreement:
        calls = [
            engine.call(RolloutActor.generate, prompt, self._sampling) for prompt in self._prompts
        ]
        groups = gather(calls, self._timeout_s)
        for group in groups:
            group.require_version(version, engine.name)
        rows = [(g.prompt.token_ids, r.token_ids) for g in groups for r in g.rollouts]
        scoring = [rank.call(LearnerActor.score, rows) for rank in self._ranks]
        agreement = compare(groups, gather(scoring, self._timeout_s)[0])
        # Negated, so that NaN fails too.
        if not agreement.mean <= self._tolerance:
            raise WeightSyncError(self._explain(engine, version, agreement))
        return agreement

    def _explain(self, engine: Engine, version: PolicyVersion, agreement: Agreement) -> str:
        (theirs,) = gather([engine.call(RolloutActor.receipt)], self._timeout_s)
        sent = [rank.call(LearnerActor.receipt) for rank in self._ranks]
        ours = gather(sent, self._timeout_s)[0]
        if not theirs:
            where = "its backend keeps no receipts, so any tensor may be the cause"
        elif (tensor := describe_difference(theirs, ours)) is not None:
            where = f"it holds another {tensor}"
        else:
            where = (
                f"all {len(ours)} tensors arrived as sent (the first is {next(iter(ours))}), so "
                "it was lost in loading, or rounding alone exceeds sync.canary_tolerance"
            )
        return (
            f"{engine.name} does not compute with the weights published as {version}: log-probs "
            f"of {agreement.num_tokens} tokens differ by {agreement.mean:.2g} nats on average "
            f"(limit {self._tolerance:g}); {where}"
        )
