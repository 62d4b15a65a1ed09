"""Does what docs/quickstart.md says in a fresh clone: `python docs/walk.py FOLDER`.

A block with a title is written as that file; a bash or Python block without one is run. The walk
ends at the first block that fails, with its exit code.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LIMIT_S = 1200


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    language: str
    title: str | None
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page in their order."""
    for language, title, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        yield Block(language, title or None, text)


def write(block: Block, folder: Path) -> None:
    """Write a titled block as the file that its title names."""
    file = folder / str(block.title)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(block.text, encoding="utf-8")


def do(block: Block, folder: Path, environment: dict[str, str]) -> float:
    """Write or run a block; return the seconds that it took."""
    started = time.monotonic()
    if block.title:
        write(block, folder)
    else:
        program = ["bash", "-euo", "pipefail", "-c"]
        if block.language == "python":
            program = ["python", "-c"]
        subprocess.run([*program, block.text], cwd=folder, env=environment, check=True)
    return time.monotonic() - started


def walk(folder: Path, *, is_installed: bool) -> None:
    """Clone this checkout's last commit into the folder and walk through it.

    Args:
        folder: A new one.
        is_installed: Take the packages of the Python that runs this, and leave set-up out.
    """
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    environment = dict(os.environ)
    own = Path(sys.executable).parent if is_installed else folder.resolve() / ".venv/bin"
    environment["PATH"] = f"{own}:{environment['PATH']}"
    environment["PYTHONPATH"] = str(folder.resolve())
    total_s = 0.0
    for block in blocks(folder / "docs/quickstart.md"):
        is_setup = "make setup" in block.text
        if block.language not in ("bash", "python", "yaml") or (is_setup and is_installed):
            continue
        sys.stdout.write(f"\n--- {block.title or block.text.strip()}\n")
        sys.stdout.flush()
        seconds = do(block, folder, environment)
        total_s += 0.0 if is_setup else seconds
        sys.stdout.write(f"--- {seconds:.0f} s\n")
    sys.stdout.write(f"\nwalked in {total_s:.0f} s, set-up not counted\n")
    if total_s > LIMIT_S:
        raise SystemExit(f"that is more than {LIMIT_S} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a new folder, for the clone")
    parser.add_argument("--installed", action="store_true", help="with this Python's packages")
    given = parser.parse_args()
    try:
        walk(given.folder, is_installed=given.installed)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
