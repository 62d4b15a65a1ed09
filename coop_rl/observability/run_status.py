"""`run.json`: how a run stands, what it lost, and how it ended.

Written by the driver; its supervisor reads it, and closes it where the driver could not.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from coop_rl.errors import ActorLostError, Interrupted
from coop_rl.files import write_text
from coop_rl.observability.losses import Loss, now
from coop_rl.redaction import redacted

Status = Literal["running", "finished", "failed", "interrupted"]


class RunStatus:
    """`run.json` of a run under way; every change is on disk at once."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        """Write the first state."""
        self._path = path
        self._values = values
        self._write()

    @property
    def is_running(self) -> bool:
        """Whether no end was written yet."""
        return bool(self._values["status"] == "running")

    def finish(self, status: Status, error: str | None = None) -> None:
        """Write how the run ended, on a full disk over what is there."""
        error = redacted(error) if error else None
        self._values |= {"status": status, "ended_at": now(), "error": error}
        try:
            self._write()
        except OSError:
            with suppress(OSError), self._path.open("r+b") as file:
                file.write(self._text().encode())
                file.truncate()

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Write how what is inside ended, at once: ending its actors may end this process too."""
        try:
            yield
        except (Interrupted, KeyboardInterrupt) as stop:
            self._end("interrupted", str(stop))
            raise
        except BaseException as error:
            if self.is_running and isinstance(error, ActorLostError):
                self._values["losses"].append(asdict(Loss.of(error, self._path.parent)))
            self._end("failed", f"{type(error).__name__}: {error}")
            raise

    def goes_on_from(self, step: int) -> None:
        """Write where the run goes on after what it lost last, if that is not written yet."""
        if self._values["losses"] and self._values["losses"][-1]["resumed_from"] is None:
            self._values["losses"][-1]["resumed_from"] = step
            self._write()

    def _end(self, status: Status, error: str) -> None:
        if self.is_running:
            self.finish(status, error)

    def _write(self) -> None:
        write_text(self._path, self._text())

    def _text(self) -> str:
        return json.dumps(self._values, indent=2) + "\n"
