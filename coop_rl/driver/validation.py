"""The loop's role `Evaluation`, what is measured besides accuracy: fit to demonstrations, audits.

eval/demonstrations/...     kept demonstrations --> joint learners' log-probs
gain/audit                  held-out prompts --> rollouts of policy and shadow --> difference
"""

from collections.abc import Mapping, Sequence

import numpy as np

from coop_rl.algorithm.gain import standard_error
from coop_rl.algorithm.roles import Evaluation
from coop_rl.config import RunConfig
from coop_rl.distributed.calls import gather
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.team import Team
from coop_rl.driver.rollouts import SHADOW_SEED, TeamShadowRollouts, step_sampling
from coop_rl.evaluation.measure import Generate
from coop_rl.metric_names import VALIDATION_NLL, VALIDATION_TOKEN_ACCURACY
from coop_rl.tracing.stages import Stages
from coop_rl.types import Demonstration, PolicyVersion, Prompt

AUDIT_SEED = 250_007
"""Added to a step's seed: audits draw apart from training."""


class Measurements:
    """Several measurements as one."""

    def __init__(self, parts: Sequence[Evaluation]) -> None:
        self._parts = parts

    def maybe_run(self, step: int, version: PolicyVersion) -> Mapping[str, float]:
        """Return the metrics of all that are due."""
        metrics: dict[str, float] = {}
        for part in self._parts:
            metrics |= part.maybe_run(step, version)
        return metrics


class TeamValidation:
    """NLL and audits; implements `algorithm.roles.Evaluation`."""

    def __init__(
        self,
        config: RunConfig,
        team: Team,
        demonstrations: Sequence[Demonstration],
        held_out: Sequence[Prompt],
        generate: Generate,
        shadow: TeamShadowRollouts,
        stages: Stages,
    ) -> None:
        """Measure on `demonstrations` and on the first `gain.audit_prompts` of `held_out`."""
        self._config = config
        self._team = team
        self._rows = [(d.prompt_ids, d.response_ids) for d in demonstrations]
        self._prompts = held_out[: config.gain.audit_prompts]
        self._generate = generate
        self._shadow = shadow
        self._stages = stages

    def maybe_run(self, step: int, version: PolicyVersion) -> Mapping[str, float]:
        """Measure what is due after `step` steps."""
        metrics: dict[str, float] = {}
        if self._rows and self._is_nll_due(step):
            with self._stages.stage("validate"):
                metrics |= self._fit()
        every = self._config.gain.audit_every
        if self._team.shadow_rollouts and every > 0 and step > 0 and step % every == 0:
            with self._stages.stage("audit"):
                metrics |= self._audit(step, version)
        return metrics

    def _is_nll_due(self, step: int) -> bool:
        if self._config.method.needs_validation(step):
            return True
        return self._config.evaluation.is_due(step, self._config.run.num_steps)

    def _fit(self) -> Mapping[str, float]:
        """Return how well the policy predicts the kept demonstrations."""
        calls = [rank.call(LearnerActor.fit, self._rows) for rank in self._team.joint]
        fit = gather(calls, self._config.placement.call_timeout_s)[0]
        return {VALIDATION_NLL: fit.nll, VALIDATION_TOKEN_ACCURACY: fit.token_accuracy}

    def _audit(self, step: int, version: PolicyVersion) -> Mapping[str, float]:
        """Return by how much the policy's mean reward exceeds the shadow's, from fresh rollouts."""
        sampling = step_sampling(self._config, step, AUDIT_SEED)
        shadow_sampling = step_sampling(self._config, step, AUDIT_SEED + SHADOW_SEED)
        joint = self._generate(self._prompts, sampling, version)
        shadow = self._shadow.generate(self._prompts, shadow_sampling, step)
        difference_P = np.array(
            [
                np.mean([r.value for r in a.rewards]) - np.mean([r.value for r in b.rewards])
                for a, b in zip(joint, shadow, strict=True)
            ]
        )
        stderr = standard_error(difference_P)
        assert stderr is not None, "an audit has at least two prompts"
        return {"gain/audit": float(difference_P.mean()), "gain/audit_stderr": stderr}
