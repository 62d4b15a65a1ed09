"""Tokens, bytes and seconds of a step, from a simple model whose assumptions are its constants."""

from dataclasses import dataclass

from coop_rl.config import RunConfig, derive_sizes
from coop_rl.config.sizes import (
    amplifies_bracket,
    cold_start_steps,
    has_scaffold,
    has_shadow,
    learner_devices,
    may_share_device,
    scaffold_fit_steps,
    scaffold_samples,
    shadow_backend,
    weight_backend,
)
from coop_rl.planning.devices import Device
from coop_rl.planning.memory import FP32_BYTES, engine_memory, longest_sequence
from coop_rl.planning.shape import ModelShape
from coop_rl.rollout.capacity import BYTES, sequences_at_once

RESPONSE_SHARE = 0.5
"""Mean response over `rollout.max_tokens`: an assumption, a run's metrics tell the truth."""
TRAIN_EFFICIENCY = 0.35
"""Share of the device's peak that a training pass reaches: an assumption."""
DECODE_EFFICIENCY = 0.5
"""Share of the memory bandwidth that decoding reaches: an assumption."""

BENCHMARK_ITEMS = {
    "math500": 500, "minerva_math": 272, "olympiadbench": 674, "aime24": 30, "aime25": 30,
    "amc23": 40, "gsm8k": 1319,
}  # fmt: skip
"""Problems of benchmarks, as their makers give them."""
UNKNOWN_ITEMS = 256
"""Problems of a set whose size is not known here: an assumption."""
GLOO_GBS = 0.8
"""Speed of weights through host memory and gloo, 1e9 bytes a second: what a weight sync reached on
two CPU cores (docs/results.md)."""
SHARED_GBS = 20.0
"""Speed of weights within a GPU that their sender and receiver share, 1e9 bytes a second: an
assumption."""

ASSUMPTIONS = (
    f"responses are {RESPONSE_SHARE:.0%} of rollout.max_tokens, prompts as much of the room beside "
    "them",
    f"training reaches {TRAIN_EFFICIENCY:.0%} of the peak, decoding {DECODE_EFFICIENCY:.0%} of the "
    "memory's bandwidth",
    f"what goes by gloo goes through host memory at {GLOO_GBS:g} GB/s, or at {SHARED_GBS:g} GB/s "
    "within a GPU that both sides share",
    "each decoding step reads the weights once and every running sequence's cache once",
    "at lag 0 the longest response is rollout.max_tokens long, and ends alone",
    f"an evaluation set of unknown size has {UNKNOWN_ITEMS} problems",
)


@dataclass(frozen=True, slots=True)
class StepCost:
    """One meta-step."""

    generated_tokens: float
    trained_tokens: float
    """Tokens that both branches train on, prompts included."""
    sync_bytes: float
    """Bytes sent to each rollout engine."""
    generate_s: float
    train_s: float
    sync_s: float
    sft_s: float
    """Seconds of a step of a cold start: nothing is sampled, and weights are sent at its end."""
    shadow_bytes: float
    """Bytes from a rank of joint to its counterpart of the shadow, in the mean of the steps."""
    shadow_s: float
    evaluated_samples: int
    """Responses of one evaluation; 0: the run has no evaluation set."""
    evaluate_s: float
    """Seconds of one evaluation."""

    def step_s(self, lag: int) -> float:
        """At lag 0: one after the other; with a lag the longer of generating and training."""
        train_s = self.train_s + self.shadow_s
        return self.sync_s + (max(self.generate_s, train_s) if lag else self.generate_s + train_s)


def step_cost(config: RunConfig, shape: ModelShape, device: Device) -> StepCost:
    """Return what a step takes on devices of one kind."""
    sizes = derive_sizes(config)
    response = config.rollout.max_tokens * RESPONSE_SHARE
    length = longest_sequence(config, shape)
    prompt = max(1.0, (length - config.rollout.max_tokens) * RESPONSE_SHARE)
    branches = 2 if has_shadow(config) else 1
    rl_tokens = sizes.num_samples * (prompt + response)
    num_demonstrations, num_tries, num_syncs = sizes.num_demonstrations, 0, 1
    if has_scaffold(config):  # the most it can cost: every prompt is tried again
        num_demonstrations += max(1, scaffold_fit_steps(config)) * sizes.num_prompts
        num_tries, num_syncs = sizes.num_prompts * scaffold_samples(config), 2
    sft_tokens = num_demonstrations * (prompt + response)
    sync_bytes = float(num_syncs * BYTES[config.rollout.dtype] * shape.num_params)
    engines, shadow = (
        {
            "nccl": device.link_gbs,
            "gloo": SHARED_GBS if may_share_device(config, role) else GLOO_GBS,
        }
        for role in (config.placement.rollout, config.placement.shadow)
    )
    shadow_bytes = shadow_bytes_per_step(config, shape)
    evaluated, most = evaluated_samples(config), config.evaluation.max_tokens
    most = most or config.rollout.max_tokens
    evaluating = config.evaluation.num_rollout_actors or config.rollout.min_actors
    tail_s = 0.0 if config.rollout.max_policy_lag else _tail_s(config, shape, device)
    return StepCost(
        generated_tokens=(sizes.num_samples + num_tries) * response,
        trained_tokens=branches * rl_tokens + sft_tokens,
        sync_bytes=sync_bytes,
        generate_s=_generate_s(config, shape, device, sizes.num_samples, prompt, response)
        + _generate_s(config, shape, device, num_tries, prompt, response)
        + tail_s,
        train_s=_train_s(config, shape, device, rl_tokens, sft_tokens),
        sft_s=_train_s(config, shape, device, 0.0, sft_tokens),
        sync_s=sync_bytes / (engines[weight_backend(config)] * 1e9),
        shadow_bytes=shadow_bytes,
        shadow_s=shadow_bytes / (shadow[shadow_backend(config)] * 1e9),
        evaluated_samples=evaluated,
        evaluate_s=_generate_s(
            config, shape, device, evaluated, prompt, most * RESPONSE_SHARE, evaluating
        ),
    )


def evaluated_samples(config: RunConfig) -> int:
    """Return the responses of one evaluation: of each problem a greedy one and the sampled ones."""
    section = config.evaluation
    cut = section.benchmark_items
    known = [BENCHMARK_ITEMS.get(name, UNKNOWN_ITEMS) for name in section.benchmarks]
    items = sum(min(size, cut) if cut else size for size in known)
    items += (section.num_items or UNKNOWN_ITEMS) * len(section.held_out)
    return items * (1 + section.num_samples)


def num_evaluations(config: RunConfig) -> int:
    """Return how often a run evaluates, before and after training included."""
    num_steps = config.run.num_steps
    return sum(config.evaluation.is_due(step, num_steps) for step in range(num_steps + 1))


def run_s(config: RunConfig, cost: StepCost) -> float:
    """Return the seconds of a run: its steps, and the evaluations that training waits for.

    Those beside training hold it up once, at its end.
    """
    is_beside = config.evaluation.num_rollout_actors > 0
    waits = 1 if is_beside else num_evaluations(config)
    first = cold_start_steps(config)
    steps_s = (config.run.num_steps - first) * cost.step_s(config.rollout.max_policy_lag)
    return first * cost.sft_s + steps_s + waits * cost.evaluate_s


def shadow_bytes_per_step(config: RunConfig, shape: ModelShape) -> float:
    """Return what a rank of joint sends its counterpart: re-syncs, theta."""
    if not has_shadow(config):
        return 0.0
    part = FP32_BYTES * shape.num_params / config.learner.num_ranks
    # Masters; the gradient there, or none where the shadow has rollouts of its own; moments.
    section = config.shadow
    copies = 1 + (section.rollouts == "shared") + 2 * (section.optimizer_state == "copy")
    every = section.resync_every
    return part * ((copies / every if every else 0.0) + amplifies_bracket(config))


def _generate_s(
    config: RunConfig,
    shape: ModelShape,
    device: Device,
    num_samples: int,
    prompt: float,
    response: float,
    num_actors: int | None = None,
) -> float:
    """Seconds of decoding: waves of as many sequences as an engine runs at once."""
    if not num_samples:
        return 0.0
    section = config.rollout
    num_actors = num_actors or section.min_actors
    engine = engine_memory(config, shape)
    length = longest_sequence(config, shape)
    running = min(sequences_at_once(config), max(1, -(-num_samples // num_actors)))
    waves = num_samples / (running * num_actors)
    cache = running * engine.sequence * (prompt + response / 2) / length
    bandwidth = device.bandwidth_tbs * 1e12 * DECODE_EFFICIENCY
    per_token = (engine.weights + cache) / bandwidth
    operations = 2 * shape.num_params * running / section.tensor_parallel_size
    per_token = max(per_token, operations / (device.tflops * 1e12 * TRAIN_EFFICIENCY))
    return max(1.0, waves) * response * per_token


def _tail_s(config: RunConfig, shape: ModelShape, device: Device) -> float:
    """Seconds by which the longest response outlasts a mean one, decoded by itself at the end."""
    if not derive_sizes(config).num_samples:
        return 0.0
    bandwidth = device.bandwidth_tbs * 1e12 * DECODE_EFFICIENCY
    rest = config.rollout.max_tokens * (1 - RESPONSE_SHARE)
    return rest * engine_memory(config, shape).weights / bandwidth


def _train_s(
    config: RunConfig, shape: ModelShape, device: Device, rl_tokens: float, sft_tokens: float
) -> float:
    """Seconds of the slower branch: both train at once, where they share a device in turns."""
    passes = 3 + (1 if config.learner.activation_checkpointing else 0)
    passes += 1 if config.method.rl_settings.kl.weight > 0 else 0
    operations = 2 * shape.num_params * passes * (rl_tokens + sft_tokens)
    branches = 2 if has_shadow(config) else 1
    turns = branches * config.learner.num_ranks // learner_devices(config)
    speed = device.tflops * 1e12 * TRAIN_EFFICIENCY * config.learner.num_ranks / turns
    return operations * config.learner.num_epochs / speed
