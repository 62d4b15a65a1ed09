"""The report as one HTML file that asks for nothing: style, scripts and data stand inside.

Scripts run by their digests alone (Content-Security-Policy), and what models wrote is data, never
markup: JSON in ASCII without `<`, which the scripts put in place as text.
"""

import base64
import hashlib
import json
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path

from coop_rl.errors import UserError
from coop_rl.files import write_text
from coop_rl.report.content import content_of
from coop_rl.report.stored_run import Row, read_runs

LIBRARIES = ("d3-7.9.2.min.js", "plot-0.6.17.min.js")
SCRIPTS = ("text.js", "charts.js", "tables.js", "samples.js", "page.js")
ASSETS = files("coop_rl.report") / "assets"


def write_report(paths: list[Path], out: Path) -> Path:
    """Write the report of one run or several; returns the file.

    Raises:
        UserError: A run cannot be read, or the file not be written.
    """
    if out.is_dir():
        out = out / "report.html"
    return write_page(content_of(read_runs(paths)), out)


def write_page(content: Row, out: Path) -> Path:
    """Write a page; returns the file.

    Raises:
        UserError: The file cannot be written.
    """
    html = page(content)
    try:
        write_text(out, html)
    except OSError as error:
        raise UserError(
            f"cannot write {out}: {error.strerror}; give another file with --out"
        ) from None
    return out


def page(content: Row) -> str:
    """Return the whole page."""
    scripts = [asset(name) for name in (*LIBRARIES, *SCRIPTS)]
    return asset("page.html").format(
        policy=_policy(scripts, is_live=content["is_live"]),
        title=escape(f"{content['title']} · coop-rl"),
        style=asset("page.css"),
        data=as_json(content),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def as_json(content: Row) -> str:
    """Return JSON that may stand in a script element, whatever texts it holds."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


@cache
def asset(name: str) -> str:
    """Return a file of `assets/`."""
    return (ASSETS / name).read_text(encoding="utf-8")


def _policy(scripts: list[str], *, is_live: bool) -> str:
    digests = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'"
        for s in scripts
    )
    asks = "'self'" if is_live else "'none'"
    return (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data:; "
        f"connect-src {asks}; base-uri 'none'; form-action 'none'"
    )
