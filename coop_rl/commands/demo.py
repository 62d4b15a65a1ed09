"""`coop-rl demo`: the demo's config with its model and data, from a checkout or from the wheel.

The wheel holds `configs/local/demo*` inside the package; a checkout has them beside it.
"""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
DEMO = "configs/local/demo.yaml"


def demo_file() -> Path:
    """Return the demo's config; its model and data lie beside it."""
    root = PACKAGE if (PACKAGE / DEMO).is_file() else PACKAGE.parent
    return root / DEMO
