"""All pieces, then one table and one file: `make gpu`, or `make gpu ARGS=--tiny` anywhere.

    PYTHONPATH=bench python -m gpu.kit [--tiny] [--out FOLDER]

Each piece has 300 seconds and its failure is a row of the table. Writes FOLDER/gpu.json.
"""

import json
import subprocess
import sys

from rich.console import Console
from rich.table import Table

from gpu.pieces import LIMIT_S, ROOT, Figures, options, rows

PIECES = ("learner", "engine", "run")
GRACE_S = 30
"""What a piece may take beyond its limit, to end its last case."""


def main() -> None:
    """Run all of them, whatever becomes of one."""
    given, found = options(__doc__), dict[str, dict[str, Figures]]()
    for piece in PIECES:
        result = given.out / f"{piece}.json"
        result.unlink(missing_ok=True)
        command = [sys.executable, "-m", f"gpu.{piece}", "--out", str(given.out)]
        try:
            subprocess.run(
                command + ["--tiny"] * given.is_tiny,
                cwd=ROOT,
                timeout=LIMIT_S + GRACE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            sys.stdout.write(f"{piece}: not done within {LIMIT_S} s\n")
        if result.exists():
            found[piece] = json.loads(result.read_text())["cases"]
        else:
            found[piece] = {"all": {"failed": "it wrote nothing"}}
    whole = {"device": given.device_name, "is_tiny": given.is_tiny, "pieces": found}
    (given.out / "gpu.json").write_text(json.dumps(whole, indent=1))
    table = Table(title=f"on {given.device_name}", title_justify="left")
    for name in ("piece", "case", "figure", "value"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for row in rows(found):
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
