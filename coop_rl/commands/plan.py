"""`coop-rl plan`: what a run takes; starts nothing."""

import psutil
from rich.console import Console
from rich.text import Text

from coop_rl.commands.checks import WITH_DATA, WITHOUT_DATA, Door
from coop_rl.config import RunConfig
from coop_rl.config.paths import shown
from coop_rl.config.sizes import zero_stage
from coop_rl.data.model_folder import local_folder, text_values
from coop_rl.errors import ResourceError, UserError
from coop_rl.planning.cost import ASSUMPTIONS, step_cost
from coop_rl.planning.devices import ACCELERATOR_LABEL, Device, device_named
from coop_rl.planning.fit import Fit, describe, disk_fit, fits, smallest_cluster
from coop_rl.planning.memory import GIB, engine_memory, learner_memory
from coop_rl.planning.report import memory_table, roles_table, step_table
from coop_rl.planning.shape import ModelShape, config_of, shape_of


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
        UserError: It could not start.
    """
    shape = shape_of(config.model.path)
    kind = device_named(device or device_of(config))
    held = device_gib or kind.memory_gib or psutil.virtual_memory().total / GIB
    console.print(
        f"{config.run.name}: {config.method.kind} on {shown(config.model.path)}, "
        f"{shape.num_params / 1e9:,.3f} B weights; devices {kind.name}, {held:,.1f} GiB each",
        soft_wrap=True,
    )
    console.print(roles_table(config, gpus_per_node))
    console.print(memory_table(config, shape, held * GIB))
    console.print(step_table(config, step_cost(config, shape, kind)))
    for line in ASSUMPTIONS:
        console.print(f"assumed: {line}", style="dim", soft_wrap=True)
    found = fits(
        config, shape, learner_memory(config, shape), engine_memory(config, shape), held * GIB
    )
    if not config.placement.learner.gpus and not (disk := disk_fit(config, shape)).is_met:
        found.append(disk)  # a run on this machine; of a cluster's disks `coop-rl doctor` tells
    for fit in found:
        console.print(describe(fit), soft_wrap=True)
    advice = _smallest(config, shape, kind, held)
    console.print(advice, soft_wrap=True)
    _check(config, console)
    _require(found, advice)


def _check(config: RunConfig, console: Console) -> None:
    """Print what the checks of a start find that ask nothing of this machine.

    The data of a run that joins a cluster, or has its model from the hub, need not be here.

    Raises:
        UserError: The first fault.
    """
    path = config.model.path
    if is_here := local_folder(path) is not None and config.placement.address is None:
        door, checks = Door(config), WITH_DATA
    else:
        values = text_values(config_of(path).to_dict())
        door, checks = Door(config, values=values), WITHOUT_DATA
    for finding in door.findings(checks):
        if finding.status == "fail":
            raise UserError("; ".join(filter(None, [finding.found, finding.fix])))
        line = f"{finding.check}: {finding.found}"
        shown = Text(line if finding.status == "ok" else f"{finding.status}: {line}")
        console.print(shown, soft_wrap=True)
    if not is_here:
        console.print("not looked at, as they may lie elsewhere: tokenizer and data")


def device_of(config: RunConfig) -> str:
    """Return the kind of the devices that a config asks for."""
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
