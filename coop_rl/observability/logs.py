"""Keeps the terminal readable: every process of a run logs to a file of its own.

Actors call `redirect_output` first of all; the driver routes libraries with `route_library_logs`.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from coop_rl.redaction import redacted

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LIBRARIES = ("ray", "transformers", "torch", "deepspeed", "DeepSpeed", "vllm", "py.warnings")
"""Loggers that print to the terminal by handlers of their own."""


class WithoutSecrets(logging.Formatter):
    """Formats records, tracebacks included, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines."""
        return redacted(super().format(record))


def redirect_output(path: Path) -> None:
    """Send what this process and its children write to stdout, stderr and logging to a file.

    Works on the file descriptors, so it catches C++ libraries and processes started later.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    # Streams put in place by Ray or pytest may lead elsewhere; these lead to the descriptors.
    sys.stdout = _stream(1)
    sys.stderr = _stream(2)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(WithoutSecrets(FORMAT))
    logging.captureWarnings(True)


def _stream(descriptor: int) -> TextIO:
    return open(
        descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False
    )


@contextmanager
def route_library_logs(path: Path) -> Iterator[None]:
    """Send all logging and warnings of this process to a file while inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(WithoutSecrets(FORMAT))
    root = logging.getLogger()
    loggers = [root, *(logging.getLogger(name) for name in LIBRARIES)]
    before = [(logger, list(logger.handlers), logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers = [handler] if logger is root else []
        logger.propagate = True
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
        handler.close()
