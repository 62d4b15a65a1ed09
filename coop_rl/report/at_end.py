"""What every run leaves for its reader: summary.json, summary.md and report.html, at its end."""

import logging
from pathlib import Path

from coop_rl.report.page import write_report
from coop_rl.report.stored_run import read_run
from coop_rl.report.summary import write_summary

LOG = logging.getLogger(__name__)


def conclude(path: Path) -> list[str]:
    """Write them, and return the lines a terminal shows; a run never fails for want of them."""
    try:
        summary = write_summary(read_run(path))
        report = write_report([path], path / "report.html")
    except Exception as error:  # whatever a reader's page stumbles over, the run has succeeded
        LOG.warning("no report was written", exc_info=True)
        return [f"no report was written ({type(error).__name__}: {error}); the run is whole"]
    return [f"report {report}", "next:", *(f"  {command}" for command in summary["next"])]
