"""The run's figures as metrics of the Ray cluster, for Prometheus (cluster/monitoring).

`reward/mean` becomes the gauge `ray_coop_rl_reward_mean{run="..."}` on the driver's node. Ray puts
`ray_` in front, and serves what a process has set for as long as it lives.
"""

import math
import re
from collections.abc import Mapping

from ray.util.metrics import Gauge

from coop_rl.metric_names import describe

PREFIX = "coop_rl_"


def gauge_name(metric: str) -> str:
    """Return a metric's name as Prometheus allows it."""
    return PREFIX + re.sub(r"\W", "_", metric)


class RayMetricsSink:
    """Shows the newest value of every figure; one that is null now is NaN."""

    def __init__(self, run: str) -> None:
        """Label the gauges with the run's name."""
        self._run = run
        self._gauges: dict[str, Gauge] = {}

    def write(self, metrics: Mapping[str, float | None]) -> None:
        """Set one row's gauges."""
        for name, value in metrics.items():
            self._gauge(name).set(math.nan if value is None else value, {"run": self._run})

    def _gauge(self, name: str) -> Gauge:
        if name not in self._gauges:
            row = describe(name)
            text = f"{name}: {row.meaning}" + (f" [{row.unit}]" if row.unit else "") if row else ""
            self._gauges[name] = Gauge(gauge_name(name), text or name, tag_keys=("run",))
        return self._gauges[name]
