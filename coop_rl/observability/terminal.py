"""Lines above a progress bar, which both consoles print through.

On a terminal: coloured lines, and the bar below them. Into a file or pipe: the lines, plain.
"""

from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from coop_rl.errors import printable


class Terminal:
    """Prints lines, and one bar at a time."""

    def __init__(self, console: Console | None = None) -> None:
        """Print to stdout, or to `console`."""
        self._console = console or Console(highlight=False)
        self._started = monotonic()
        self._progress: Progress | None = None

    def line(self, text: str, style: str = "") -> None:
        """Print a line, which stays one line however wide it is, and whatever stands in it."""
        self._console.print(Text(printable(text), style=style), soft_wrap=True)

    def milestone(self, text: str) -> None:
        """Print a line with the seconds since this object was made."""
        self.line(f"{monotonic() - self._started:6.1f} s  {text}", "dim")

    def close(self) -> None:
        """Take the progress bar away; lines stay."""
        if self._progress:
            self._progress.stop()
            self._progress = None

    def _show_bar(self, what: str, total: int, completed: int = 0) -> None:
        """Show a bar; nothing where the lines go into a file."""
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._progress.add_task(what, total=total, completed=completed)
            self._progress.start()

    def _move_bar(self, completed: int) -> None:
        if self._progress:
            self._progress.update(self._task, completed=completed)
