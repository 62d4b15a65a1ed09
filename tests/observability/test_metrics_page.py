"""docs/metrics.md is up to date and names every tracker."""

from pathlib import Path
from typing import get_args

from coop_rl.config.run import TrackerKind
from coop_rl.metric_names import METRICS
from coop_rl.observability.metrics_page import render_metrics
from coop_rl.observability.trackers import LOCAL

PAGE = Path(__file__).parents[2] / "docs/metrics.md"


def test_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == render_metrics(), "run `make docs`"
    assert all(f"| `{name}` |" in page for name in METRICS)
    assert tuple(LOCAL) == get_args(TrackerKind)
