"""The tables of `coop-rl plan`, which `commands.plan` prints."""

import math

from rich.table import Table

from coop_rl.config import RunConfig, derive_sizes
from coop_rl.config.sizes import (
    cold_start_steps,
    role_counts,
    shadow_backend,
    weight_backend,
    zero_stage,
)
from coop_rl.planning.cost import StepCost, num_evaluations, run_s
from coop_rl.planning.memory import (
    GIB,
    checkpoint_bytes,
    engine_memory,
    learner_memory,
    num_checkpoints,
)
from coop_rl.planning.shape import ModelShape
from coop_rl.rollout.capacity import sequences_at_once


def roles_table(config: RunConfig, gpus_per_node: int) -> Table:
    """Return the actors of every role and what they reserve; of a range, the fewest."""
    table = Table(title="processes and devices", title_justify="left")
    for name in ("role", "actors", "each", "all"):
        table.add_column(name, justify="left" if name == "role" else "right")
    for role, (count, need) in role_counts(config).items():
        if count:
            table.add_row(
                role,
                f"{config.rollout.num_actors if role == 'rollout' else count}",
                _devices(need.cpus, need.gpus),
                _devices(count * need.cpus, count * need.gpus),
            )
    sizes = derive_sizes(config)
    total = _devices(sizes.total_cpus, sizes.total_gpus)
    nodes = math.ceil(sizes.total_gpus / gpus_per_node) if sizes.total_gpus else 1
    table.add_row("together", "", f"{nodes} nodes" if sizes.total_gpus else "1 machine", total)
    return table


def _devices(cpus: float, gpus: float) -> str:
    parts = [f"{n:g} {kind}" for n, kind in ((cpus, "CPU"), (gpus, "GPU")) if n]
    return " + ".join(parts) or "-"


def memory_table(config: RunConfig, shape: ModelShape, device_bytes: float) -> Table:
    """Return what a learner rank and an engine hold, part by part."""
    table = Table(title="memory, GiB", title_justify="left")
    table.add_column("part")
    table.add_column("each", justify="right")
    learner = learner_memory(config, shape)
    stage, ranks = zero_stage(config), config.learner.num_ranks
    for name, size in learner.parts.items():
        table.add_row(f"learner rank: {name}", f"{size / GIB:,.3f}")
    table.add_row(
        f"learner rank at its peak (ZeRO {stage}, ranks {ranks})",
        f"{learner.total / GIB:,.3f}",
    )
    starting = f"{learner.starting / GIB:,.3f}"
    table.add_row("learner rank while it starts", starting, end_section=True)
    engine = engine_memory(config, shape)
    table.add_row("rollout engine: weights", f"{engine.weights / GIB:,.3f}")
    table.add_row("rollout engine: cache of a full sequence", f"{engine.sequence / GIB:,.4f}")
    if config.placement.rollout.gpus:
        cache = engine.cache(device_bytes, config.rollout.gpu_memory_utilization)
        table.add_row("rollout engine: room for the cache", f"{cache / GIB:,.3f}")
        full = max(0, int(cache / engine.sequence))
        asked = sequences_at_once(config)
        table.add_row("rollout engine: full sequences that hold", f"{full:,} (runs {asked:,})")
    one, count = checkpoint_bytes(config, shape) / GIB, num_checkpoints(config)
    table.add_section()
    table.add_row("checkpoint, on disk", f"{one:,.3f}")
    table.add_row(f"checkpoints at once ({count})", f"{count * one:,.3f}")
    return table


def step_table(config: RunConfig, cost: StepCost) -> Table:
    """Return tokens, bytes and seconds of a step."""
    table = Table(title="a step, estimated", title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_row("tokens generated", f"{cost.generated_tokens:,.0f}")
    table.add_row("tokens trained, both branches", f"{cost.trained_tokens:,.0f}")
    sent = f"bytes sent to each engine, by {weight_backend(config)}"
    table.add_row(sent, f"{cost.sync_bytes / GIB:,.3f} GiB")
    if cost.shadow_bytes:
        sent = f"bytes to each shadow rank, by {shadow_backend(config)}"
        table.add_row(sent, f"{cost.shadow_bytes / GIB:,.3f} GiB")
    for name, seconds in (
        ("generating", cost.generate_s),
        ("training", cost.train_s),
        ("weight sync", cost.sync_s),
        ("theta to the shadow", cost.shadow_s),
    ):
        table.add_row(f"seconds {name}", f"{seconds:,.2f}")
    lag = config.rollout.max_policy_lag
    step = cost.step_s(lag)
    table.add_row(f"seconds a step, lag {lag}", f"{step:,.2f}")
    if first := cold_start_steps(config):
        table.add_row(f"seconds of each of the first {first:,} steps", f"{cost.sft_s:,.2f}")
    if cost.evaluated_samples:
        what = f"seconds an evaluation, {cost.evaluated_samples:,} responses"
        table.add_row(what, f"{cost.evaluate_s:,.2f}")
        where = " beside training" if config.evaluation.num_rollout_actors else ""
        table.add_row(f"evaluations{where}", f"{num_evaluations(config)}")
    hours = run_s(config, cost) / 3600
    table.add_row(f"hours for {config.run.num_steps:,} steps", f"{hours:,.2f}")
    devices = derive_sizes(config).total_gpus
    if devices:
        table.add_row("GPU-hours", f"{hours * devices:,.0f}")
    return table
