"""Writes the Grafana dashboard: `dashboard.py FILE`; here FILE is cluster/monitoring/grafana.json.

Panels name metrics as the run's metrics.jsonl does; PromQL sees them as Ray exports them.
"""

import json
import sys
from pathlib import Path
from typing import Any

from coop_rl.distributed.ray_metrics import gauge_name

WIDTH, HEIGHT, COLUMNS = 8, 8, 3
PANELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Reward", "short", ("reward/mean", "reward/accuracy")),
    ("Cooperative gain", "short", ("gain/value", "gain/audit")),
    ("Effective sample size", "percentunit", ("gain/ess", "gain/ess_joint")),
    ("Losses", "short", ("loss/rl", "loss/sft", "loss/shadow_rl")),
    ("Gradient norms", "short", ("grad/norm", "grad/shadow_norm", "grad/rl_norm", "grad/sft_norm")),
    ("Cosine of SFT and RL", "short", ("grad/cosine", "guidance/bracket_cosine")),
    ("Guidance w", "short", ("guidance/adapter_norm", "guidance/update_norm")),
    ("Share of RL, lambda", "percentunit", ("guidance/mix",)),
    ("Updates skipped", "short", ("guidance/skipped", "grad/skipped")),
    ("Entropy and mismatch", "short", ("policy/entropy", "policy/mismatch_kl", "policy/kl_ref")),
    ("Response length", "short", ("response/length_mean",)),
    ("Truncated, all right, all wrong", "percentunit",
     ("response/truncated", "groups/all_right", "groups/all_wrong")),
    ("Seconds a step", "s",
     ("time/step_s", "time/generate_s", "time/train_s", "time/publish_s", "time/update_s")),
    ("Weight sync", "bytes", ("sync/bytes",)),
    ("Engine and learner apart (canary)", "short", ("sync/canary_mean", "sync/canary_max")),
    ("Policy lag", "short", ("policy/lag", "policy/lag_mean")),
    ("Tokens a step", "short", ("tokens/generated", "tokens/trained_rl", "tokens/trained_sft")),
    ("Rewards that failed", "short", ("reward/timeouts", "reward/crashed")),
)  # fmt: skip
CLUSTER = (
    ("GPU utilisation", "percent", "avg by (instance) (ray_node_gpus_utilization)"),
    ("GPU memory", "decmbytes", "sum by (instance) (ray_node_gram_used)"),
    ("Nodes", "short", "count(ray_node_cpu_count)"),
)
"""Ray's own figures beside them."""
SOURCE = {"type": "prometheus", "uid": "${source}"}


def panel(index: int, title: str, unit: str, queries: list[tuple[str, str]]) -> dict[str, Any]:
    """Return one time series panel; queries are (expression, legend)."""
    return {
        "id": index + 1,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": {
            "h": HEIGHT,
            "w": WIDTH,
            "x": index % COLUMNS * WIDTH,
            "y": index // COLUMNS * HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + i), "expr": expression, "legendFormat": legend}
            for i, (expression, legend) in enumerate(queries)
        ],
    }


def dashboard() -> dict[str, Any]:
    """Return the whole dashboard."""
    run = gauge_name("step")
    panels = [
        (title, unit, [(f'ray_{gauge_name(m)}{{run=~"$run"}}', f"{{{{run}}}} {m}") for m in names])
        for title, unit, names in PANELS
    ]
    panels += [(title, unit, [(query, "{{instance}}")]) for title, unit, query in CLUSTER]
    variables: list[dict[str, Any]] = [
        {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        {
            "name": "run",
            "type": "query",
            "datasource": SOURCE,
            "query": f"label_values(ray_{run}, run)",
            "refresh": 2,
            "multi": True,
            "includeAll": True,
        },
    ]
    return {
        "uid": "coop-rl",
        "title": "coop-rl",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": variables},
        "panels": [panel(i, *given) for i, given in enumerate(panels)],
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(dashboard(), indent=1) + "\n")
