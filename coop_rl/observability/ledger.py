"""What a run has spent so far, so that methods are compared at equal cost.

    step's record --> tokens by kind, optimiser steps, demonstrations, FLOPs, device-seconds

FLOPs are the usual estimate of N parameters (arXiv 2001.08361, section 2.1): 2 N for a token that
goes forward, 6 N for one that goes backward too, 8 N where activations are recomputed; prompts are
counted where learners compute them and left out of generation, whose engines share them.
Device-seconds are devices held, busy or not: what a run is paid for.
"""

from collections.abc import Mapping

from coop_rl.algorithm.roles import StepRecord
from coop_rl.config import RunConfig, derive_sizes
from coop_rl.metric_names import DEVICE_SECONDS, LEDGER
from coop_rl.observability.metrics import Metrics, count_tokens

TOTALS = (
    "tokens_generated",
    "tokens_rl",
    "tokens_sft",
    "tokens_shadow",
    "updates",
    "demonstrations",
    "flops",
)


class Ledger:
    """Running totals; a resumed run goes on from the last row it kept."""

    def __init__(self, config: RunConfig) -> None:
        sizes = derive_sizes(config)
        devices = sizes.gpus if sizes.total_gpus else sizes.cpus
        self._devices = {role: count for role, count in devices.items() if count}
        rollout = config.placement.rollout
        self._each_rollout = rollout.gpus if sizes.total_gpus else rollout.cpus
        self._flops_backward = 8 if config.learner.activation_checkpointing else 6
        self._totals: dict[str, float] = dict.fromkeys((LEDGER + name for name in TOTALS), 0)
        self._totals |= dict.fromkeys((DEVICE_SECONDS + r.replace(" ", "_") for r in devices), 0.0)

    def go_on(self, row: Mapping[str, float | None]) -> None:
        """Start from the totals of a step's row."""
        for name in self._totals:
            self._totals[name] = row.get(name) or 0

    def add(self, record: StepRecord, step_s: float, num_rollouts: float | None = None) -> Metrics:
        """Add a step; returns the totals under their metric names.

        `num_rollouts` is how many rollout actors there are, where that changes.
        """
        if num_rollouts is not None:
            self._devices["rollout"] = num_rollouts * self._each_rollout
        batches = record.batch.minibatches
        sampled, others = record.sampled, (*record.fresh, *record.second.groups)
        generated = count_tokens([*sampled.groups, *sampled.dropped, *others])
        trained = sum(batch.num_trained_tokens for batch in batches)
        flops = 2 * generated
        for result in (record.joint, record.shadow):
            if result:
                work = result.work
                flops += 2 * work.forward_tokens + self._flops_backward * work.backward_tokens
        spent = {
            "tokens_generated": generated,
            "tokens_rl": trained,
            "tokens_sft": sum(batch.num_sft_tokens for batch in batches),
            "tokens_shadow": trained if record.shadow else 0,
            "updates": record.joint.updates.num_taken,
            "demonstrations": sum(source.num_rows for batch in batches for source in batch.sft),
            "flops": flops * record.joint.work.num_parameters,
        }
        for name, value in spent.items():
            self._totals[LEDGER + name] += value
        for role, count in self._devices.items():
            self._totals[DEVICE_SECONDS + role.replace(" ", "_")] += count * step_s
        return dict(self._totals)
