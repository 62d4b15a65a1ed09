"""`coop-rl doctor --run`: print what a run under way is doing."""

from pathlib import Path

from rich.console import Console

from coop_rl.diagnosis.live import run_findings
from coop_rl.diagnosis.report import report


def examine_run(run: Path, console: Console, *, as_json: bool) -> None:
    """Print who waits for whom.

    Raises:
        UserError: The folder holds no run, or its driver is gone or stopped.
    """
    report(run_findings(run), console, as_json=as_json)
