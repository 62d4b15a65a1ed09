"""`coop-rl demo`: the demo's config with its model and data, from a checkout or from the wheel.

The wheel holds `configs/local/demo*` inside the package; a checkout has them beside it.
"""

from collections.abc import Sequence
from pathlib import Path

from coop_rl.config import RunConfig, load_config
from coop_rl.config.load import apply_overrides, validate

PACKAGE = Path(__file__).parents[1]
DEMO = "configs/local/demo.yaml"


def demo_config(overrides: Sequence[str]) -> RunConfig:
    """Return the demo's config, whose files are named from wherever one is."""
    root = PACKAGE if (PACKAGE / DEMO).is_file() else PACKAGE.parent
    here = load_config(root / DEMO)
    assert here.evaluation.data is not None
    files = {
        "model.path": here.model.path,
        "prompts.path": here.prompts.path,
        "demonstrations.path": here.demonstrations.path,
        "evaluation.data.path": here.evaluation.data.path,
    }
    placed = [f"{field}={root / str(path)}" for field, path in files.items()]
    values = apply_overrides(here.model_dump(mode="json"), [*placed, *overrides])
    return validate(values, "the demo's config")
