"""The page of metrics, from their table in `coop_rl.metric_names`: `make docs` writes it."""

import sys
from pathlib import Path

from coop_rl.metric_names import METRICS
from coop_rl.observability.trackers import LOCAL, TABLE_STEPS, WITH_TABLES

PREFACE = """# Metrics

Written by `make docs` from `coop_rl/metric_names.py`; do not edit. A run writes one row a step and
one an evaluation into `metrics.jsonl`, on disk before the loop goes on; `null` means that a
quantity was not measured or does not exist. A resumed run takes the rows of steps that it repeats
away. `events/` holds the same for TensorBoard.

Names in angle brackets stand for a stage, a role, a source, an evaluation set and the like.

## Trackers

```bash
coop-rl train CONFIG --set observability.trackers=[wandb] --set observability.project=mine
```

sends the same rows, and the config, to experiment trackers as well, by `accelerate.tracking`. Each
needs its package; a tracker that does not open ends the run before anything is started, one that
fails on the way is dropped with a line. Logins and servers are set as each tracker asks for it, in
the environment or by `hf auth login` and the like; `observability.tracker_options` goes to its own
start. A resumed run opens a new tracker run and begins it with the rows it kept, so that every
tracker run holds the whole series. In MLflow, whose names have no `@`, `pass@1` is `pass_at_1`. On
a cluster the driver sends: name variables such as WANDB_MODE in `placement.environment`, and give
secrets to its node.

{tables} get the rows of `samples.jsonl` too, as tables named `samples` (step, prompt, response,
answer, reward, verdict), one for every {steps} steps and one at the end; MLflow has them as
artifacts `samples/step-*.json`. `observability.samples_per_step` sets how many rows.

{trackers}
The records of trackers marked *checked* were compared with metrics.jsonl, row by row, in the
version named; the others come with accelerate and were not tried.
"""


def render_metrics() -> str:
    """Return the page as Markdown."""
    rows = [_row("tracker", "without a server", "checked"), "|---|---|---|"]
    rows += [_row(f"`{kind}`", *about) for kind, about in LOCAL.items()]
    tables = ", ".join(f"`{kind}`" for kind in WITH_TABLES)
    listed = "\n".join(rows) + "\n"
    parts = [PREFACE.format(trackers=listed, tables=tables, steps=TABLE_STEPS)]
    group = ""
    for name, metric in sorted(METRICS.items(), key=lambda item: _group(item[0])):
        if _group(name) != group:
            group = _group(name)
            parts.append(f"\n## {group}\n\n{_row('metric', 'unit', 'meaning')}\n|---|---|---|\n")
        parts.append(_row(f"`{name}`", metric.unit, metric.meaning) + "\n")
    return "".join(parts)


def _group(name: str) -> str:
    return name.split("/")[0] if "/" in name else "step"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render_metrics(), encoding="utf-8")
