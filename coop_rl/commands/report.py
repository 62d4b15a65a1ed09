"""`coop-rl report`, `watch` and `compare`: read finished or growing runs; start no engine."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from coop_rl.errors import Interrupted, UserError
from coop_rl.report.arms import Arm, arms_of
from coop_rl.report.comparison import Difference, compare_arms
from coop_rl.report.live import LiveServer
from coop_rl.report.page import write_report
from coop_rl.report.stored_run import read_runs
from coop_rl.report.terminal import show_comparison

Say = Callable[[str], object]


def report_runs(paths: Sequence[Path], out: Path, say: Say) -> None:
    """Write one self-contained HTML file.

    Raises:
        UserError: A run cannot be read, or the file not be written.
    """
    written = write_report(list(paths), out)
    say(f"{written}: {written.stat().st_size / 2**20:.1f} MiB, opens without a network")


def watch_runs(paths: Sequence[Path], port: int, say: Say) -> None:
    """Serve the report on loopback until Ctrl-C.

    Raises:
        UserError: A run cannot be read, or the port is taken.
    """
    with LiveServer(paths, port) as server:
        say(f"{server.url}  (Ctrl-C ends it; the run goes on)")
        try:
            server.serve_forever()
        except (Interrupted, KeyboardInterrupt):
            say("stopped")


def compare_runs(paths: Sequence[Path], say: Say, *, as_json: bool) -> None:
    """Print each arm less the first, at equal steps, tokens and device-seconds.

    Raises:
        UserError: A run cannot be read, or there is only one.
    """
    arms, differences = compared(paths)
    if as_json:
        say(json.dumps([asdict(difference) for difference in differences], indent=2))
    else:
        show_comparison(arms, differences)


def compared(paths: Sequence[Path]) -> tuple[list[Arm], list[Difference]]:
    """Return the arms of runs, and each one's differences to the first.

    Raises:
        UserError: A run cannot be read, or there is only one.
    """
    runs = read_runs(paths)
    if len(runs) < 2:
        raise UserError(
            f"compare needs at least 2 run directories, got {len(runs)}; give the reference first, "
            "such as: coop-rl compare runs/rl runs/bridge"
        )
    arms = arms_of(runs)
    return arms, compare_arms(arms)
