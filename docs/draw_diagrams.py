"""Draws the mermaid diagrams of the pages into docs/diagrams, for the site.

    npm pack mermaid@11 && tar xzf mermaid-11*.tgz
    python docs/draw_diagrams.py package/dist/mermaid.min.js

It needs Chromium. A drawing's name is the digest of its source: after a change of a diagram the
site does not build, and a test fails, until this has run again.
"""

import html
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

DOCS = Path(__file__).parent
FOLDER = DOCS / "diagrams"
MERMAID = re.compile(r"^```mermaid\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
PAGE = """<!doctype html><meta charset="utf-8"><body><pre id="source">{source}</pre>
<script src="{script}"></script><script>
mermaid.initialize({{ startOnLoad: false, htmlLabels: false, flowchart: {{ htmlLabels: false }} }});
mermaid.render("drawing", document.getElementById("source").textContent).then(({{ svg }}) => {{
  document.body.innerHTML = svg;
}});
</script>"""


def sources() -> Iterator[tuple[str, str]]:
    """Yield every diagram's file name and source."""
    for page in sorted(DOCS.rglob("*.md")):
        for source in MERMAID.findall(page.read_text(encoding="utf-8")):
            yield f"{sha256(source.encode()).hexdigest()[:12]}.svg", source


def draw(source: str, script: Path) -> str:
    """Return a diagram as SVG, drawn by mermaid in a headless browser."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    assert browser, "draw_diagrams needs Chromium"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(PAGE.format(source=html.escape(source), script=script.resolve().as_uri()))
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += ["--virtual-time-budget=20000", "--allow-file-access-from-files"]
        command += [f"--user-data-dir={folder}/profile", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    found = re.search(r"<svg.*</svg>", done.stdout, re.DOTALL)
    assert found, done.stdout[-500:]
    # The browser writes HTML; an SVG file is XML.
    return found[0].replace("<br>", "<br/>").replace("&nbsp;", "&#160;")


def main(script: Path) -> None:
    """Draw what is missing, and drop drawings that no page shows."""
    FOLDER.mkdir(exist_ok=True)
    wanted = dict(sources())
    for old in FOLDER.glob("*.svg"):
        if old.name not in wanted:
            old.unlink()
    for name, source in wanted.items():
        if not (FOLDER / name).is_file():
            (FOLDER / name).write_text(draw(source, script), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
