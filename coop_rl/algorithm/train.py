"""The only training loop: one meta-step of BRIDGE and of every rival (docs/algorithm.md section 3).

    prompts --> rollouts --> groups --+                        +--> StepResult (joint)   --+
                                      +--> lesson --> learners +                           +--> gain
    demonstrations -------------------+                        +--> StepResult (shadow)  --+     |
         ^                                                                                       v
         +---- publish merged theta + s*B*A  <---- push w <---- meta-controller <----------------+

| who | waits for |
|---|---|
| rollouts | publish of the version they sample with; with a lag they go on while learners train |
| learners | the packed batch; between them only at a shadow re-sync |
| meta-controller | both branches' gradients, of equal versions |
| publish | theta's update and the push of w |
"""

from collections.abc import Sequence

from coop_rl.algorithm.gain import estimate_gain
from coop_rl.algorithm.methods import AnyMethod
from coop_rl.algorithm.methods.base import StepData, to_token_samples
from coop_rl.algorithm.packing import PackShape, first_minibatch, pack_branches
from coop_rl.algorithm.roles import Roles, StepRecord
from coop_rl.types import CooperativeGain, PolicyVersion, Sampled, ScoredGroup, StepResult


def train(num_steps: int, method: AnyMethod, shape: PackShape, roles: Roles) -> PolicyVersion:
    """Run meta-steps until `num_steps` and return the last version.

    All gradients of a step are taken at k, then everything is updated: simultaneous, not
    Gauss-Seidel.
    """
    progress = roles.checkpoints.restore()
    method.begin(roles.demonstrations.num_rows, progress.method)
    roles.rollouts.begin(progress.rollouts)
    guidance = roles.meta_controller.guidance()
    version = roles.weights.publish(progress.version, is_read=True)
    _evaluate(progress.next_step, version, method, roles)
    for step in range(progress.next_step, num_steps):
        needs = method.needs(step)
        sampled = (
            roles.rollouts.next_batch(step, version, needs.given) if needs.rollouts else Sampled()
        )
        shown = roles.demonstrations.next_batch(step, needs.demonstrations, sampled.groups)
        lesson = method.compose(StepData(step, sampled.groups, shown, guidance))
        fresh = roles.shadow_rollouts.next_batch(step, sampled.groups) if method.wants_fresh else ()
        own = to_token_samples(fresh, method.estimator.advantages(fresh))
        batches = pack_branches(lesson, own, shape, is_own=method.shadow_learns_own)
        joint, shadow = roles.learners.step(step, batches, lesson.objective)
        gain = _estimate_gain(sampled, fresh, joint, shadow, method, shape)
        update = roles.meta_controller.update(joint, shadow, gain)
        guidance = update.guidance if update else None
        seen = StepRecord(
            step, version, lesson.objective, sampled, fresh, batches[0], joint, shadow, gain, update
        )
        version = roles.weights.publish(version.next(), is_read=method.needs(step + 1).rollouts)
        roles.observer.record(seen)
        method.observe_gain(gain)
        roles.checkpoints.maybe_save(step, version, method.state(), roles.rollouts.state())
        _evaluate(step + 1, version, method, roles)
    return version


def _estimate_gain(
    sampled: Sampled,
    fresh: Sequence[ScoredGroup],
    joint: StepResult,
    shadow: StepResult | None,
    method: AnyMethod,
    shape: PackShape,
) -> CooperativeGain | None:
    """Estimate G from the rollouts whose gradients of w were taken; None without a shadow."""
    if shadow is None:
        return None
    first, own = first_minibatch(sampled.groups, shape), first_minibatch(fresh, shape)
    return estimate_gain(first, own, len(sampled.dropped), joint, shadow, method.gain)


def _evaluate(step: int, version: PolicyVersion, method: AnyMethod, roles: Roles) -> None:
    """Measure where due; a resumed run repeats this after the checkpoint it starts from."""
    evaluated = roles.evaluation.maybe_run(step, version)
    roles.observer.record_evaluation(step, evaluated)
    method.observe_evaluation(step, evaluated)
    roles.checkpoints.keep_best(step, evaluated)
