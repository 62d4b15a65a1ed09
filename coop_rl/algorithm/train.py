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
from coop_rl.algorithm.packing import PackShape, first_minibatch, pack_branches, pack_scaffold
from coop_rl.algorithm.roles import Roles, StepRecord
from coop_rl.algorithm.scaffold import failed_groups, untouched, with_demonstration
from coop_rl.types import (
    NOTHING_TRIED,
    CooperativeGain,
    PolicyVersion,
    Sampled,
    ScoredGroup,
    SecondTries,
    StepResult,
)


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
        second = _try_again(step, version, sampled, method, shape, roles)
        lesson = method.compose(StepData(step, sampled.groups, shown, guidance, second))
        fresh = roles.shadow_rollouts.next_batch(step, sampled.groups) if method.wants_fresh else ()
        own = to_token_samples(fresh, method.estimator.advantages)
        batches = pack_branches(lesson, own, shape, is_own=method.shadow_learns_own)
        joint, shadow = roles.learners.step(step, batches, lesson.objective)
        gain = _estimate_gain(step, sampled, second, fresh, joint, shadow, method, shape)
        method.observe_gain(gain)
        update = roles.meta_controller.update(joint, shadow, gain)
        guidance = update.guidance if update else None
        seen = StepRecord(
            step=step, version=version, objective=lesson.objective, sampled=sampled, fresh=fresh,
            second=second, batch=batches[0], samples=lesson.samples, joint=joint, shadow=shadow,
            gain=gain, pooled=method.gains.pooled(), update=update,
        )  # fmt: skip
        version = roles.weights.publish(version.next(), is_read=method.needs(step + 1).rollouts)
        roles.observer.record(seen)
        roles.checkpoints.maybe_save(step, version, method.state(), roles.rollouts.state())
        _evaluate(step + 1, version, method, roles)
    return version


def _try_again(
    step: int,
    version: PolicyVersion,
    sampled: Sampled,
    method: AnyMethod,
    shape: PackShape,
    roles: Roles,
) -> SecondTries:
    """Let pi(theta, w) try what failed, where w is a scaffold (`algorithm.scaffold`)."""
    if not method.has_scaffold:
        return NOTHING_TRIED
    failed = failed_groups(sampled.groups)
    shown = roles.demonstrations.next_batch(step, "matching", failed)
    failed = with_demonstration(failed, shown)
    if not failed:
        return NOTHING_TRIED
    packed = pack_scaffold(shown, shape)
    return SecondTries(shown, roles.scaffold_rollouts.next_batch(step, version, failed, packed))


def _estimate_gain(
    step: int,
    sampled: Sampled,
    second: SecondTries,
    fresh: Sequence[ScoredGroup],
    joint: StepResult,
    shadow: StepResult | None,
    method: AnyMethod,
    shape: PackShape,
) -> CooperativeGain | None:
    """Estimate G from the first minibatch's rollouts; None where no shadow was measured."""
    samples = shadow.samples if shadow else joint.one_step_shadow
    if samples is None:
        return None
    first, own = first_minibatch(sampled.groups, shape), first_minibatch(fresh, shape)
    kept = untouched(first, second)
    if not kept:
        return None
    num_dropped = len(sampled.dropped) * len(first) / len(sampled.groups) + len(first) - len(kept)
    return estimate_gain(
        [first[index] for index in kept],
        own,
        num_dropped,
        joint.samples.of_groups(kept, shape.group_size),
        samples.of_groups(kept, shape.group_size),
        method.gain,
        method.shadow_age(step),
    )


def _evaluate(step: int, version: PolicyVersion, method: AnyMethod, roles: Roles) -> None:
    """Measure where due; a resumed run repeats this after the checkpoint it starts from."""
    evaluated = roles.evaluation.maybe_run(step, version)
    roles.observer.record_evaluation(step, evaluated)
    method.observe_evaluation(step, evaluated)
    roles.checkpoints.keep_best(step, evaluated)
