"""The tables of `coop-rl plan`."""

import math

import psutil
from rich.console import Console
from rich.table import Table

from coop_rl.config import RunConfig, derive_sizes
from coop_rl.config.sizes import role_counts, weight_backend, zero_stage
from coop_rl.errors import ResourceError
from coop_rl.planning.cost import ASSUMPTIONS, StepCost, step_cost
from coop_rl.planning.devices import ACCELERATOR_LABEL, Device, device_named
from coop_rl.planning.fit import Fit, describe, fits, smallest_cluster
from coop_rl.planning.memory import GIB, engine_memory, learner_memory
from coop_rl.planning.shape import ModelShape, shape_of
from coop_rl.rollout.capacity import sequences_at_once


def plan_run(
    config: RunConfig,
    console: Console,
    *,
    device: str | None = None,
    device_gib: float | None = None,
    gpus_per_node: int = 8,
) -> None:
    """Print what a run takes; start nothing.

    Args:
        config: The run.
        console: Where to print.
        device: Kind of the devices; default: the label of the config's learners, else H100, or
            this machine's CPU where the learners ask for no GPU.
        device_gib: Memory of each; default: the kind's, or this machine's.
        gpus_per_node: For the count of nodes.

    Raises:
        ResourceError: It does not fit.
    """
    shape = shape_of(config.model.path)
    kind = device_named(device or _device_of(config))
    held = device_gib or kind.memory_gib or psutil.virtual_memory().total / GIB
    console.print(
        f"{config.run.name}: {config.method.kind} on {config.model.path}, "
        f"{shape.num_params / 1e9:,.3f} B weights; devices {kind.name}, {held:,.1f} GiB each",
        soft_wrap=True,
    )
    console.print(_roles(config, gpus_per_node))
    console.print(_memory(config, shape, held * GIB))
    console.print(_step(config, step_cost(config, shape, kind)))
    for line in ASSUMPTIONS:
        console.print(f"assumed: {line}", style="dim", soft_wrap=True)
    found = fits(
        config, shape, learner_memory(config, shape), engine_memory(config, shape), held * GIB
    )
    for fit in found:
        console.print(describe(fit), soft_wrap=True)
    advice = _smallest(config, shape, kind, held)
    console.print(advice, soft_wrap=True)
    _require(found, advice)


def _device_of(config: RunConfig) -> str:
    if not config.placement.learner.gpus:
        return "cpu"
    return config.placement.learner.labels.get(ACCELERATOR_LABEL, "H100")


def _require(found: list[Fit], advice: str) -> None:
    for fit in found:
        if not fit.is_met:
            raise ResourceError(f"{describe(fit)}; {advice}")


def _smallest(config: RunConfig, shape: ModelShape, kind: Device, held: float) -> str:
    least = smallest_cluster(config, shape, held * GIB)
    if not config.placement.learner.gpus:
        return (
            "to take less, lower learner.micro_batch_tokens, model.max_length or prompts.per_step"
        )
    if least is None:
        return (
            "no cluster of such devices holds it; lower learner.micro_batch_tokens or "
            "model.max_length, set learner.zero_stage 3 or learner.activation_checkpointing"
        )
    return (
        f"the smallest cluster that fits, a device for each: {least.num_devices} x {kind.name} "
        f"(learner.num_ranks {least.ranks}, rollout.tensor_parallel_size {least.parallel}, "
        f"one engine, ZeRO {zero_stage(config, least.ranks)})"
    )


def _roles(config: RunConfig, gpus_per_node: int) -> Table:
    table = Table(title="processes and devices", title_justify="left")
    for name in ("role", "actors", "each", "all"):
        table.add_column(name, justify="left" if name == "role" else "right")
    for role, (count, need) in role_counts(config).items():
        if count:
            table.add_row(
                role,
                f"{count}",
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


def _memory(config: RunConfig, shape: ModelShape, device_bytes: float) -> Table:
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
        end_section=True,
    )
    engine = engine_memory(config, shape)
    table.add_row("rollout engine: weights", f"{engine.weights / GIB:,.3f}")
    table.add_row("rollout engine: cache of a full sequence", f"{engine.sequence / GIB:,.4f}")
    if config.placement.rollout.gpus:
        cache = engine.cache(device_bytes, config.rollout.gpu_memory_utilization)
        table.add_row("rollout engine: room for the cache", f"{cache / GIB:,.3f}")
        full = max(0, int(cache / engine.sequence))
        asked = sequences_at_once(config)
        table.add_row("rollout engine: full sequences that hold", f"{full:,} (runs {asked:,})")
    return table


def _step(config: RunConfig, cost: StepCost) -> Table:
    table = Table(title="a step, estimated", title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_row("tokens generated", f"{cost.generated_tokens:,.0f}")
    table.add_row("tokens trained, both branches", f"{cost.trained_tokens:,.0f}")
    sent = f"bytes sent to each engine, by {weight_backend(config)}"
    table.add_row(sent, f"{cost.sync_bytes / GIB:,.3f} GiB")
    for name, seconds in (
        ("generating", cost.generate_s),
        ("training", cost.train_s),
        ("weight sync", cost.sync_s),
    ):
        table.add_row(f"seconds {name}", f"{seconds:,.2f}")
    lag = config.rollout.max_policy_lag
    step = max(cost.generate_s, cost.train_s) + cost.sync_s if lag else cost.step_s
    table.add_row(f"seconds a step, lag {lag}", f"{step:,.2f}")
    hours = step * config.run.num_steps / 3600
    table.add_row(f"hours for {config.run.num_steps:,} steps", f"{hours:,.2f}")
    devices = derive_sizes(config).total_gpus
    if devices:
        table.add_row("GPU-hours", f"{hours * devices:,.0f}")
    return table
