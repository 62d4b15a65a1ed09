"""What stands around the loop's roles so that a run that learns nothing does not end as a success.

    GuardedRollouts    most of a step's responses crashed or timed out    --> the run stops, saved
    GuardedObserver    updates skipped step after step                    --> the run stops
                       no reward differs from its group's, or no gradient --> a line

A run that stops leaves the step's batch, `<run>/stopped/step-000012.jsonl`, a response a row.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from coop_rl.algorithm.roles import Observer, Rollouts, StepRecord
from coop_rl.errors import DivergedError, UnscoredError
from coop_rl.files import write_text
from coop_rl.types import Given, PolicyVersion, Sampled, ScoredGroup

MOST_SKIPPED_STEPS = 5
"""Steps in a row whose gradient may be inf or nan; one alone may be a freak batch."""
MOST_UNSCORED = 0.5
"""Share of a step's responses that may crash the verifier or run into its time limit."""
QUIET_STEPS = 10
"""Steps in a row without a signal after which a line says so, and again after as many more."""


class GuardedRollouts:
    """Rollouts, refused where most of them could not be scored: implements `roles.Rollouts`."""

    def __init__(self, rollouts: Rollouts, folder: Path) -> None:
        """Hand on what `rollouts` gives; `folder` is the run's."""
        self._rollouts = rollouts
        self._folder = folder

    def begin(self, state: Mapping[str, Any]) -> None:
        """Start, or go on."""
        self._rollouts.begin(state)

    def state(self) -> dict[str, Any]:
        """Return what was begun and not trained."""
        return self._rollouts.state()

    def next_batch(self, step: int, version: PolicyVersion, given: Given) -> Sampled:
        """Return the groups of a step.

        Raises:
            UnscoredError: Most of their responses crashed the verifier or timed out.
        """
        sampled = self._rollouts.next_batch(step, version, given)
        groups = [*sampled.groups, *sampled.dropped]
        status = Counter(reward.status for group in groups for reward in group.rewards)
        num_lost = status["crashed"] + status["timeout"]
        if num_lost <= MOST_UNSCORED * status.total():
            return sampled
        raise UnscoredError(
            f"{num_lost} of the {status.total()} responses of step {step} could not be scored "
            f"({status['crashed']} crashed the verifier, {status['timeout']} hit "
            f"reward.time_limit_s), and nothing was learned from them; see logs/reward*.log and "
            f"{save_batch(self._folder, step, groups)}"
        )


class GuardedObserver:
    """An observer that stops a run whose updates are all skipped, and tells of a silent one."""

    def __init__(self, observer: Observer, folder: Path, warn: Callable[[str], None]) -> None:
        """Hand everything on to `observer`; `warn` gets a line about steps without a signal."""
        self._observer = observer
        self._folder = folder
        self._warn = warn
        self._num_skipped = 0
        self._num_quiet = 0

    def record(self, record: StepRecord) -> None:
        """Write the step's row, then look at it.

        Raises:
            DivergedError: `MOST_SKIPPED_STEPS` in a row had a gradient that was not finite.
        """
        self._observer.record(record)
        branches = [branch for branch in (record.joint, record.shadow) if branch]
        skipped = [b.branch for b in branches if not b.updates.is_applied]
        self._num_skipped = self._num_skipped + 1 if skipped else 0
        if self._num_skipped == MOST_SKIPPED_STEPS:
            batch = save_batch(self._folder, record.step, record.sampled.groups)
            raise DivergedError(
                f"{' and '.join(skipped)} skipped {MOST_SKIPPED_STEPS} steps in a row, up to step "
                f"{record.step}, because the gradient is inf or nan: loss/rl "
                f"{record.joint.means.rl_loss:g}, loss/sft {record.joint.means.sft_loss:g}; lower "
                f"learner.lr, or look for what is extreme in {batch}; the last checkpoint stands"
            )
        silence = _silence(record)
        self._num_quiet = self._num_quiet + 1 if silence else 0
        if silence and self._num_quiet % QUIET_STEPS == 0:
            self._warn(f"nothing to learn from for {self._num_quiet} steps: {silence}")

    def record_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Hand it on."""
        self._observer.record_evaluation(step, metrics)


def save_batch(folder: Path, step: int, groups: Sequence[ScoredGroup]) -> Path:
    """Write a step's responses, with their tokens, for whoever looks for the cause."""
    path = folder / "stopped" / f"step-{step:06d}.jsonl"
    path.parent.mkdir(exist_ok=True)
    rows = (
        {
            "prompt_id": group.prompt.id,
            "prompt": group.prompt.text,
            "response": rollout.text,
            "token_ids": rollout.token_ids,
            "log_probs": [value if math.isfinite(value) else str(value) for value in log_probs],
            "answer": group.prompt.answer,
            "reward": reward.value,
            "status": reward.status,
        }
        for group in groups
        for rollout, reward in zip(group.rollouts, group.rewards, strict=True)
        for log_probs in (rollout.behaviour_log_probs,)
    )
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def _silence(record: StepRecord) -> str | None:
    """Return why a step had no signal; None where it had one."""
    if record.joint.updates.grad_norm == 0.0:
        return "the gradient is zero"
    groups = record.sampled.groups
    if not groups or any(len({r.value for r in g.valid().rewards}) > 1 for g in groups):
        return None
    means = [reward.value for group in groups for reward in group.rewards]
    return (
        f"every prompt's responses have one and the same reward ({sum(means) / len(means):g} on "
        "average); look at samples.jsonl and at what the reward reads as the answer"
    )
