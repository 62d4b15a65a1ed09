"""The dashboard shows metrics that exist, and is what its script writes."""

import json
import runpy
from typing import Any

import yaml

from coop_rl.distributed.ray_metrics import gauge_name
from coop_rl.metric_names import METRICS, describe
from tests.main_job.harness import ROOT

MONITORING = ROOT / "cluster/monitoring"


def script() -> dict[str, Any]:
    return runpy.run_path(str(MONITORING / "dashboard.py"))


def test_the_dashboard_is_as_its_script_writes_it() -> None:
    found = json.loads((MONITORING / "grafana.json").read_text())
    assert found == script()["dashboard"](), "run cluster/monitoring/dashboard.py"


def test_every_panel_shows_metrics_that_exist_and_lies_apart_from_the_others() -> None:
    parts = script()
    names = [name for _, _, members in parts["PANELS"] for name in members]
    assert [name for name in names if describe(name) is None] == []
    places = [
        (panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in parts["dashboard"]()["panels"]
    ]
    assert len(set(places)) == len(places)


def test_no_two_metrics_become_the_same_gauge() -> None:
    assert len({gauge_name(name) for name in METRICS}) == len(METRICS)


def test_prometheus_reads_rays_list_of_nodes() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text())
    (job,) = config["scrape_configs"]
    assert job["file_sd_configs"][0]["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
