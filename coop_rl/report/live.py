"""`coop-rl watch`: the report of growing runs on loopback, new figures as they are written.

    browser --GET /--> page       --GET /data.json?seen=...--> 204, or the content, when files grew

Read only, and for this machine alone: it binds to loopback and answers to no other host's name, so
that no page of the web can read a run through a name that points here.
"""

import json
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import parse_qs, urlsplit

from coop_rl.errors import UserError
from coop_rl.report.content import content_of
from coop_rl.report.page import page
from coop_rl.report.stored_run import Row, read_runs

LOOPBACK = "127.0.0.1"
OWN_NAMES = (LOOPBACK, "localhost")
WATCHED = ("metrics.jsonl", "samples.jsonl", "run.json", "config.json", "evaluations")


class LiveContent:
    """The content of some runs, read anew when their files have changed."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Read the runs once.

        Raises:
            RunDirectoryError: One is no run directory.
        """
        self._paths = list(paths)
        self._lock = Lock()
        self._seen: list[tuple[int, int]] = []
        self._content: Row = {}
        self.newest()

    def newest(self) -> Row:
        """Return the content as the files are now; `number` grows with each change."""
        with self._lock:
            seen = [_state(path / name) for path in self._paths for name in WATCHED]
            if seen != self._seen:
                content = content_of(read_runs(self._paths), is_live=True)
                number = int(self._content.get("number", 0)) + 1
                self._content = {**content, "number": number}
                self._seen = seen
            return self._content


def _state(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


class LiveServer(ThreadingHTTPServer):
    """Serves the page and its content."""

    daemon_threads = True

    def __init__(self, paths: Sequence[Path], port: int) -> None:
        """Listen on loopback; port 0: any that is free.

        Raises:
            UserError: A run cannot be read, or the port is taken.
        """
        self.live = LiveContent(paths)
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            raise UserError(
                f"cannot listen on {LOOPBACK}:{port}: {error.strerror}; give another --port, or 0 "
                "for any that is free"
            ) from None

    @property
    def url(self) -> str:
        """Where a browser finds it."""
        return f"http://{LOOPBACK}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer

    def do_GET(self) -> None:
        """Answer with the page, or with what is new."""
        if self.headers.get("Host", "").rpartition(":")[0] not in OWN_NAMES:
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", "open it as 127.0.0.1 or localhost")
            return
        asked = urlsplit(self.path)
        if asked.path == "/":
            self._answer(HTTPStatus.OK, "text/html", page(self.server.live.newest()))
        elif asked.path == "/data.json":
            content = self.server.live.newest()
            if parse_qs(asked.query).get("seen") == [str(content["number"])]:
                self._answer(HTTPStatus.NO_CONTENT, "application/json", "")
            else:
                self._answer(HTTPStatus.OK, "application/json", json.dumps(content))
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", "there is / and /data.json")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal holds the address."""

    def _answer(self, status: HTTPStatus, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(data)
