"""`coop-rl doctor`: run all checks, and tell what they found."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from coop_rl.config import RunConfig
from coop_rl.diagnosis.finding import Finding, attempt
from coop_rl.diagnosis.machine import machine_findings
from coop_rl.diagnosis.nodes import node_findings
from coop_rl.diagnosis.trials import collective, engine
from coop_rl.errors import ResourceError, RunError, UserError, first_line

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def examine(
    config: RunConfig,
    console: Console,
    *,
    as_json: bool,
    is_quick: bool,
    nodes: Callable[[RunConfig], Iterator[Finding]] = node_findings,
) -> None:
    """Print every finding as it comes, or all of them as JSON.

    Args:
        config: What is to run; its model, run directory, placement count.
        console: Where to print.
        as_json: Print a list of objects instead.
        is_quick: Leave out the trials.
        nodes: Yields what was found on the nodes of a cluster.

    Raises:
        ResourceError: A check failed.
    """
    findings = []
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in _all(config, nodes, is_quick):
        findings.append(finding)
        colour = COLOURS[finding.status]
        fix = f"\n[bold]fix:[/bold] {finding.fix}" if finding.fix else ""
        table.add_row(f"[{colour}]{finding.status}[/]", finding.check, finding.found + fix)
    if as_json:
        console.print_json(json.dumps([asdict(finding) for finding in findings]))
    else:
        console.print(table)
    failed = [finding.check for finding in findings if finding.status == "fail"]
    if failed:
        raise ResourceError(
            f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}; their fixes are "
            "in the report"
        )


def _all(
    config: RunConfig, nodes: Callable[[RunConfig], Iterator[Finding]], is_quick: bool
) -> Iterator[Finding]:
    yield from machine_findings(config)
    if config.placement.address is not None:
        try:
            yield from nodes(config)
        except (UserError, RunError) as error:
            found, _, fix = first_line(error).partition("; ")
            yield Finding("cluster", "fail", found, fix)
    if is_quick:
        return
    yield attempt("collective", collective, "look at firewall and GLOO_SOCKET_IFNAME, NCCL_DEBUG")
    yield attempt(
        "vLLM", lambda: engine(config), "mend what the log says; try rollout.enforce_eager"
    )
