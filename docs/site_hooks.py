"""What `make site` does to pages that also have to read well on a code host.

Pages outside docs/ come in, links that leave docs/ are turned around, and mermaid diagrams become
the drawings in docs/diagrams (`draw_diagrams.py`), so that no page loads a script from elsewhere.
"""

import re
from hashlib import sha256
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
TAKEN_IN = {
    "cluster/README.md": "cluster.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages from outside docs/, and where they stand on the site."""
MERMAID = re.compile(r"^```mermaid\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[([^\]\n]*)\]\(([^)\s]+)\)")


def drawing_of(source: str) -> str:
    """Return the file name of a diagram's drawing, which changes with its source."""
    return f"{sha256(source.encode()).hexdigest()[:12]}.svg"


def on_files(files: Files, config: Any) -> Files:
    """Take pages from outside docs/ in."""
    for source, page in TAKEN_IN.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links around, and show drawings for diagrams."""
    uri = page.file.src_uri
    return LINK.sub(lambda found: _link(uri, *found.groups()), _drawn(uri, markdown))


def _drawn(uri: str, markdown: str) -> str:
    def drawing(found: re.Match[str]) -> str:
        name = drawing_of(found[1])
        if not (ROOT / "docs/diagrams" / name).is_file():
            raise PluginError(f"{uri}: a diagram has no drawing; run docs/draw_diagrams.py")
        to = relpath(f"diagrams/{name}", dirname(uri) or ".")
        return f"![Diagram]({to}){{ .diagram }}\n"

    return MERMAID.sub(drawing, markdown)


def _link(uri: str, text: str, target: str) -> str:
    """Return a link as the site needs it; what the site does not hold stays as its text."""
    if re.match(r"[a-z]+:|#", target):
        return f"[{text}]({target})"
    path, mark, anchor = target.partition("#")
    place = {page: source for source, page in TAKEN_IN.items()}.get(uri, f"docs/{uri}")
    wanted = normpath(f"{dirname(place)}/{path}").removeprefix("./").lstrip("/")
    if wanted in TAKEN_IN:
        inside = TAKEN_IN[wanted]
    elif wanted.startswith("docs/"):
        inside = wanted.removeprefix("docs/")
    else:
        return text
    return f"[{text}]({relpath(inside, dirname(uri) or '.')}{mark}{anchor})"
