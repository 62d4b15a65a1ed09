"""`coop-rl doctor`: run all checks, and tell what they found."""

from collections.abc import Callable, Iterator

from rich.console import Console

from coop_rl.commands.checks import CHECKS, Door
from coop_rl.config import RunConfig
from coop_rl.diagnosis.finding import Finding, attempt
from coop_rl.diagnosis.machine import machine_findings
from coop_rl.diagnosis.nodes import node_findings
from coop_rl.diagnosis.report import report
from coop_rl.diagnosis.trials import collective, engine
from coop_rl.errors import RunError, UserError, first_line


def examine(
    config: RunConfig,
    console: Console,
    *,
    as_json: bool,
    is_quick: bool,
    nodes: Callable[[RunConfig], Iterator[Finding]] = node_findings,
) -> None:
    """Print all findings: those of `coop-rl check`, and of the machine or the cluster.

    Args:
        config: What is to run; its model, run directory, placement count.
        console: Where to print.
        as_json: Print a list of objects instead.
        is_quick: Leave out the trials; so does a fault that they would only run into.
        nodes: Yields what was found on the nodes of a cluster.

    Raises:
        UserError: A check failed.
    """
    report(_all(config, nodes, is_quick), console, as_json=as_json)


def _all(
    config: RunConfig, nodes: Callable[[RunConfig], Iterator[Finding]], is_quick: bool
) -> Iterator[Finding]:
    faults = []
    for finding in Door(config).findings(CHECKS):
        faults += [finding.check] if finding.status == "fail" else []
        yield finding
    yield from machine_findings(config)
    if config.placement.address is not None:
        try:
            yield from nodes(config)
        except (UserError, RunError) as error:
            found, _, fix = first_line(error).partition("; ")
            yield Finding("cluster", "fail", found, fix)
    if faults:
        yield Finding("trials", "warn", f"not made before it is mended: {', '.join(faults)}")
    if is_quick or faults:
        return
    yield attempt("collective", collective, "look at firewall and GLOO_SOCKET_IFNAME, NCCL_DEBUG")
    yield attempt(
        "vLLM", lambda: engine(config), "mend what the log says; try rollout.enforce_eager"
    )
