"""Findings as a table or as JSON, and the error they end in; `doctor` and `check` print by it."""

import json
from collections.abc import Iterable
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from coop_rl.diagnosis.finding import Finding
from coop_rl.errors import UserError, printable

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def report(findings: Iterable[Finding], console: Console, *, as_json: bool) -> None:
    """Print all findings.

    Raises:
        UserError: One of them is a failure; names all.
    """
    findings = list(findings)
    if as_json:
        console.print_json(json.dumps([asdict(finding) for finding in findings]))
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        for finding in findings:
            # What comes from files and templates is no markup, and steers no terminal.
            found = Text(printable(finding.found))
            if finding.fix:
                found.append("\nfix:", "bold").append(f" {printable(finding.fix)}", "none")
            check = Text(printable(finding.check))
            table.add_row(Text(finding.status, COLOURS[finding.status]), check, found)
        console.print(table)
    failed = [finding.check for finding in findings if finding.status == "fail"]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}; their fixes are "
            "in the report"
        )
