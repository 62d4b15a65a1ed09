"""Copies what a run commits to its `checkpoint.target` while the run goes on.

    driver --note(step-000100)--> one thread --CheckpointTarget--> target
           <--lines----------- what failed, to be told at the next boundary

One copy at a time; what came meanwhile is copied next, the newest first. A copy that failed is told
and tried again with the next one, and with the next start: every time all that is kept is compared.
"""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from coop_rl.driver.checkpoint_check import read_stored
from coop_rl.driver.checkpoint_store import CheckpointStore, digest
from coop_rl.driver.checkpoint_target import CheckpointTarget, TargetError

LOOK_S = 0.2
"""How often a wait for the last copy looks whether it should be broken off."""


class CheckpointMirror:
    """The thread that copies, and what it has to say."""

    def __init__(self, target: CheckpointTarget, store: CheckpointStore, keep: int) -> None:
        """Keep the newest `keep` of what `store` holds in `target`."""
        self._target = target
        self._store = store
        self._keep = keep
        self._changed = threading.Condition()
        self._asked: Path | None = None
        self._is_copying = False
        self._lines: list[str] = []
        self._thread: threading.Thread | None = None

    def note(self, newest: Path) -> None:
        """Copy `newest`, and what it goes on from, as far as that is kept."""
        with self._changed:
            self._asked = newest
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True, name="checkpoint copies")
            self._thread.start()

    def lines(self) -> list[str]:
        """Return what failed since the last call, a line each."""
        with self._changed:
            lines, self._lines = self._lines, []
        return lines

    def finish(self, limit_s: float, check: Callable[[], None], say: Callable[[str], None]) -> None:
        """Wait until all is copied.

        Args:
            limit_s: Longest wait.
            check: Called meanwhile; may raise.
            say: Told that this waits.
        """
        deadline, has_said = time.monotonic() + limit_s, False
        while self._is_busy() and time.monotonic() < deadline:
            if not has_said:
                say(f"copying the last checkpoint to {self._target}")
            has_said = True
            check()
            time.sleep(LOOK_S)
        if self._is_busy():
            with self._changed:
                self._lines.append(f"{self._target} has no copy after {limit_s:g} s")

    def _is_busy(self) -> bool:
        with self._changed:
            return self._is_copying or self._asked is not None

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._asked is None:
                    self._changed.wait()
                newest, self._asked, self._is_copying = self._asked, None, True
            line = self._copy(newest)
            with self._changed:
                self._is_copying = False
                if line and self._asked is None:  # else what failed was overtaken
                    self._lines.append(line)

    def _copy(self, newest: Path) -> str | None:
        """Make the target hold what is kept here; return what failed."""
        try:
            for checkpoint in self._kept(newest):
                self._target.copy(checkpoint)
            self._target.copy_best(newest.parent)
            self._target.prune(newest, self._keep, self._store.best())
        except (OSError, ValueError, TargetError) as error:
            return (
                f"{newest.name} is not copied to {self._target}: {error}; tried again with the "
                "next one, the run goes on"
            )
        return None

    def _kept(self, newest: Path) -> list[Path]:
        """Return what is to be there: `newest` and its ancestors here, without snapshots."""
        kept = [newest]
        for name, sealed in read_stored(newest).line:
            path = newest.with_name(name)
            if path.is_dir() and digest(path) == sealed and not read_stored(path).is_snapshot:
                kept.append(path)
        return kept[: self._keep] + [
            path for path in kept[self._keep :] if path == self._store.best()
        ]
