"""`coop-rl check` and `coop-rl train --dry-run`: all that `train` would refuse, at once."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from coop_rl.commands.allowed import Allowed
from coop_rl.commands.checks import CHECKS, Door
from coop_rl.config import RunConfig
from coop_rl.diagnosis.report import report


def check_run(
    config: RunConfig,
    console: Console,
    run_dir: Path | None = None,
    resume: str = "auto",
    allowed: Sequence[Allowed] = (),
    *,
    as_json: bool = False,
) -> None:
    """Print what every check found; start nothing and write nothing.

    Raises:
        UserError: A check failed.
    """
    report(Door(config, run_dir, resume, allowed).findings(CHECKS), console, as_json=as_json)
