"""The only training loop: one meta-step of BRIDGE and of every rival (docs/algorithm.md section 3).

    prompts --> rollouts --> groups --+                       +--> StepResult (joint)   --+
                                      +--> pack --> learners --+                          +--> gain
    demonstrations -------------------+                       +--> StepResult (rl_only) --+     |
         ^                                                                                      v
         +---- publish merged theta + s*B*A  <---- push w <---- meta-controller <---------------+

| who | waits for |
|---|---|
| rollouts | publish of the version they sample with |
| learners | the packed batch; between them only at a shadow re-sync |
| meta-controller | both branches' gradients, of equal versions |
| publish | theta's update and the push of w |
"""

from coop_rl.algorithm.advantage import to_token_samples
from coop_rl.algorithm.gain import estimate_gain
from coop_rl.algorithm.methods import Method
from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.algorithm.roles import Roles, StepRecord
from coop_rl.types import PolicyVersion


def train(num_steps: int, method: Method, shape: PackShape, roles: Roles) -> PolicyVersion:
    """Run meta-steps until `num_steps` and return the last version.

    All gradients of a step are taken at k, then everything is updated: simultaneous, not
    Gauss-Seidel.
    """
    progress = roles.checkpoints.restore()
    version = roles.weights.publish(progress.version)
    roles.observer.record_evaluation(
        progress.next_step, roles.evaluation.maybe_run(progress.next_step, version)
    )
    for step in range(progress.next_step, num_steps):
        objective = method.objective(step)
        should_sample = objective.rl_weight > 0 or method.uses_shadow
        groups = roles.rollouts.next_batch(step, version) if should_sample else ()
        demonstrations = roles.demonstrations.next_batch(step) if objective.sft_weight > 0 else ()
        batch = pack(to_token_samples(groups, method.normalize_by_std), demonstrations, shape)
        joint, shadow = roles.learners.step(step, batch, objective)
        gain = estimate_gain(groups, joint, shadow, method.gain) if shadow else None
        guidance = roles.meta_controller.update(joint, shadow, gain)
        sampled_with, version = version, roles.weights.publish(version.next())
        roles.observer.record(
            StepRecord(step, sampled_with, objective, groups, batch, joint, shadow, gain, guidance)
        )
        roles.checkpoints.maybe_save(step, version)
        roles.observer.record_evaluation(step + 1, roles.evaluation.maybe_run(step + 1, version))
    return version
