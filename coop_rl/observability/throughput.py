"""How well a step used its devices: MFU, tokens a GPU-second, shares of a step's time.

`observer` calls it. MFU is what learners had to compute (`planning.flops`), both branches together,
over what their devices could have computed at their makers' peak while the loop waited for them.
"""

from collections.abc import Mapping

from coop_rl.algorithm.roles import StepRecord
from coop_rl.config import RunConfig, derive_sizes
from coop_rl.config.sizes import learner_devices
from coop_rl.errors import ModelError
from coop_rl.metric_names import NUM_ROLLOUTS, STEP_SECONDS
from coop_rl.observability.metrics import Metrics, count_tokens
from coop_rl.planning.devices import peak_tflops

SHARES = {
    "rollout": ("generate", "generate_shadow", "generate_scaffold", "wait_generation"),
    "train": ("train", "update"),
    "sync": ("publish", "sleep"),
}
"""Stages of the loop by what it waits for in them; what is left of a step is idle time."""


class Throughput:
    """Figures of each step; those of a device only where it is a GPU of known peak."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._num_gpus = derive_sizes(config).total_gpus

    def of_step(self, record: StepRecord, timings: Mapping[str, float]) -> Metrics:
        """Return a step's metrics from its record and the seconds of its stages."""
        step_s = timings[STEP_SECONDS]
        metrics: Metrics = {**shares(timings)}
        if self._num_gpus:
            tokens = count_tokens([*record.sampled.groups, *record.fresh, *record.second.groups])
            section, each = self._config.rollout, self._config.placement.rollout.gpus
            more = each * (timings.get(NUM_ROLLOUTS, section.min_actors) - section.min_actors)
            metrics["perf/tokens_per_gpu_s"] = tokens / step_s / (self._num_gpus + more)
        peak = peak_tflops(record.joint.work.device, self._config.model.dtype)
        train_s = timings.get("time/train_s")
        if peak and train_s and (flops := self._flops(record)):
            could = peak * 1e12 * learner_devices(self._config) * train_s
            metrics["perf/mfu"] = flops / could
        return metrics

    def _flops(self, record: StepRecord) -> float | None:
        """Return the operations of both branches' passes; None for models of another kind.

        The batch's operations a token, times the tokens that went through: a shadow with rollouts
        of its own is taken to have the same lengths.
        """
        from coop_rl.planning.flops import micro_batch_flops
        from coop_rl.planning.shape import shape_of

        try:
            shape = shape_of(self._config.model.path)
        except ModelError:
            return None
        batches = record.batch.minibatches
        ranks = [rank for batch in batches for rank in batch.rl]
        ranks += [rank for batch in batches for part in batch.sft for rank in part.ranks]
        micros = [micro for rank in ranks for micro in rank]
        if not (num_tokens := sum(micro.num_tokens for micro in micros)):
            return None
        a_token = sum(micro_batch_flops(shape, micro) for micro in micros) / num_tokens
        works = [result.work for result in (record.joint, record.shadow) if result]
        return a_token * sum(3 * work.backward_tokens + work.forward_tokens for work in works)


def shares(timings: Mapping[str, float]) -> dict[str, float]:
    """Return the shares of a step in which the loop waited for rollouts, learners or weights."""
    step_s = timings[STEP_SECONDS]
    found = {
        f"perf/{name}_share": sum(timings.get(f"time/{stage}_s", 0.0) for stage in stages) / step_s
        for name, stages in SHARES.items()
    }
    return found | {"perf/idle_share": 1 - sum(found.values())}
