"""Secrets stay out of what is kept or shown: known by the names they go by, or by how they look.

`config` refuses them; logs, `run.json` and error lines of the terminal go through `redacted`.
"""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE
)
"""Names of environment variables and options that hold secrets."""
SECRET_VALUE = re.compile(
    r"\bhf_[A-Za-z0-9]{30,}"
    r"|\bsk-(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{32,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{36}"
    r"|\bA(?:KIA|SIA)[0-9A-Z]{16}\b"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
"""Tokens of the hub, of model and code hosts and clouds; the user and password of a URL."""
HIDDEN = "***"
SHORTEST = 8
"""Values of fewer characters, such as `true`, stand in too many other places."""


def redacted(text: str) -> str:
    """Return text without what looks like a secret, and without this process's own.

    Its own are the values of environment variables whose names say so.
    """
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and value in text and SECRET_NAME.search(name):
            text = text.replace(value, HIDDEN)
    return SECRET_VALUE.sub(HIDDEN, text)


def path_of_secret(values: Mapping[str, Any]) -> str | None:
    """Return the dotted name of the first value that looks like a secret; None where none does."""
    seen: set[int] = set()  # by an alias of YAML a value may hold itself

    def search(value: Any, path: str) -> str | None:
        if isinstance(value, str):
            return path if SECRET_VALUE.search(value) else None
        if id(value) in seen:
            return None
        seen.add(id(value))
        entries: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, Mapping):
            entries = value.items()
        elif isinstance(value, list | tuple):
            entries = enumerate(value)
        found = (search(inner, f"{path}.{name}") for name, inner in entries)
        return next((name for name in found if name), None)

    found = search(values, "")
    return found.removeprefix(".") if found else None
