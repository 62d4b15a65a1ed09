"""Runs to the one object the page is drawn from: series, charts, tiles, samples, differences."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from coop_rl.config import RunConfig
from coop_rl.metric_names import DEVICE_SECONDS, STEP_SECONDS, describe
from coop_rl.report.arms import Arm, arms_of, differing_fields
from coop_rl.report.charts import CHARTS, Chart, accuracy_charts
from coop_rl.report.comparison import compare_arms
from coop_rl.report.samples import samples_of
from coop_rl.report.stored_run import AXES, Row, StoredRun, flatten
from coop_rl.report.summary import summarise
from coop_rl.version import __version__

MAX_POINTS, ALL_POINTS, FEWEST_POINTS = 1_000, 6_000, 100
"""Steps drawn of one run, of all runs, and of one run however many there are."""
DIGITS = 5
"""Significant digits of what is drawn."""
STAGE = "time/"


def content_of(
    runs: Sequence[StoredRun], *, is_live: bool = False, arms: Sequence[Arm] | None = None
) -> Row:
    """Return everything the page shows, as JSON values.

    Args:
        runs: What it is of.
        is_live: Whether the page asks for more.
        arms: The runs in groups; None: those that differ in their seed alone.
    """
    arms = arms_of(runs) if arms is None else arms
    ordered = [run for arm in arms for run in arm.runs]
    points = max(FEWEST_POINTS, min(MAX_POINTS, ALL_POINTS // len(ordered)))
    drawn = [_run(run, arm, arms, points) for arm in arms for run in arm.runs]
    names = list(dict.fromkeys(name for one in drawn for name in one["metrics"]))
    names += [n for one in drawn for n in one["evaluated"]["metrics"] if n not in names]
    charts, missing = _charts(names, drawn)
    samples, num_left_out = samples_of(ordered)
    differences = compare_arms(arms) if len(arms) > 1 else []
    summary = summarise(ordered[0]) if len(ordered) == 1 else None
    content = {
        "title": ", ".join(arm.name for arm in arms),
        "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "is_live": is_live,
        "axes": AXES,
        "arms": [arm.name for arm in arms],
        "runs": drawn,
        "charts": charts,
        "missing": missing,
        "tables": [],
        "tiles": list(_tiles(summary)) if summary else [],
        "notes": [*summary["recovered"], *summary["forgetting"], *summary["warnings"]]
        if summary
        else [],
        "differences": [asdict(d) | {"is_lower_better": d.is_lower_better} for d in differences],
        "samples": samples,
        "num_left_out": num_left_out,
        "config": _config(ordered),
        "meanings": {name: [m.unit, m.meaning] for name in names if (m := describe(name))},
    }
    finite: Row = _finite(content)
    return finite


def _run(run: StoredRun, arm: Arm, arms: Sequence[Arm], points: int) -> Row:
    stride = -(-len(run.steps) // points) or 1
    kept = [i for i in range(len(run.steps)) if i % stride == 0 or i == len(run.steps) - 1]
    costs = {axis: run.costs(axis) for axis in AXES}
    steps = [run.steps[i] for i in kept]
    evaluated = [run.cost_after(row["step"], "tokens") is not None for row in run.evaluations]
    measured = [row for row, is_it in zip(run.evaluations, evaluated, strict=True) if is_it]
    return {
        "name": run.name,
        "arm": arms.index(arm),
        "seed": run.seed,
        "method": run.method,
        "status": run.status.get("status", "unknown"),
        "facts": dict(_facts(run)),
        "stride": stride,
        "x": {axis: [_round(costs[axis][i], 9) for i in kept] for axis in AXES},
        "metrics": _columns(steps),
        "evaluated": {
            "x": {axis: [run.cost_after(row["step"], axis) for row in measured] for axis in AXES},
            "metrics": _columns(measured),
        },
        "seconds": _stages(run),
    }


def _columns(rows: Sequence[Row]) -> dict[str, list[float | None]]:
    """Return every metric that was measured at least once, as a column over the rows."""
    names = dict.fromkeys(
        name
        for row in rows
        for name, value in row.items()
        if name != "step" and isinstance(value, int | float)
    )
    return {name: [_round(row.get(name)) for row in rows] for name in names}


def _stages(run: StoredRun) -> dict[str, float]:
    """Return the run's seconds by stage; what no stage covers is `other`."""
    sums: dict[str, float] = {}
    for row in (*run.steps, *run.evaluations):
        for name, value in row.items():
            if name.startswith(STAGE) and not name.startswith(DEVICE_SECONDS) and value:
                sums[name] = sums.get(name, 0.0) + value
    evaluate = sum((row.get("time/evaluate_s") or 0.0) for row in run.evaluations)
    whole = sums.pop(STEP_SECONDS, 0.0) + evaluate
    stages = {n.removeprefix(STAGE).removesuffix("_s"): s for n, s in sums.items()}
    other = whole - sum(stages.values())
    return stages | ({"other": other} if other > 0 else {})


def _charts(names: Sequence[str], drawn: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the charts that some run has figures for, and what the others would need."""
    charts: list[Row] = []
    missing: list[Row] = []
    for chart in (*CHARTS[:2], *accuracy_charts(names), *CHARTS[2:]):
        series = [asdict(s) for s in chart.series if _is_measured(s.metric, names)]
        if chart.section == "guidance" and all(_stands_at_zero(s["metric"], drawn) for s in series):
            continue  # w, where something else is tuned
        if series and not _repeats_the_reward(chart, drawn):
            charts.append({**asdict(chart), "series": series})
        elif not series and chart.missing:
            missing.append({"section": chart.section, "text": f"{chart.title}: {chart.missing}"})
    return charts, missing


def _is_measured(metric: str, names: Sequence[str]) -> bool:
    stem = metric.removesuffix("*")
    return metric in names or (stem != metric and any(name.startswith(stem) for name in names))


def _stands_at_zero(metric: str, drawn: Sequence[Row]) -> bool:
    return not any(any(run["metrics"].get(metric, ())) for run in drawn) and "*" not in metric


def _repeats_the_reward(chart: Chart, drawn: Sequence[Row]) -> bool:
    """Return whether the accuracy is the reward, as it is where right is all that pays."""
    return chart.series[0].metric == "reward/accuracy" and all(
        run["metrics"].get("reward/accuracy") == run["metrics"].get("reward/mean") for run in drawn
    )


def _tiles(summary: Row) -> Iterator[Row]:
    """Yield the figures at the top of a single run's page."""
    for row in summary["evaluations"]:
        if row["figure"] == "pass@1":
            change = row["difference"]
            yield _tile(
                f"{row['set']}, greedy",
                f"{row['after']:.1%}",
                f"{row['before']:.1%} before; {100 * change['value']:+.1f} points "
                f"[{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]",
            )
    if reward := summary["training_reward"]:
        over = f"last {reward['over_steps']} steps; {reward['first']:.3f} over the first"
        yield _tile("training reward", f"{reward['last']:.3f}", over)
    if loss := summary["held_out_sft_loss"]:
        about = f"nats; {loss['first']:.4f} before, lowest {loss['lowest']:.4f}"
        yield _tile("held-out SFT loss", f"{loss['last']:.4f}", about)
    if gain := summary["gain"]:
        about = f"± {gain['stderr']:.4f} standard error, {gain['measurements']:.0f} measurements"
        yield _tile("cooperative gain G", f"{gain['value']:+.4f}", about)
    if (mix := summary["guidance"]["mix"]) is not None:
        yield _tile("λ", f"{mix:.3f}", "share of RL at the last step")
    weights = summary["guidance"]["weights"]
    for name, weight in weights.items():
        yield _tile(f"weight of {name}", f"{weight:.3f}", "at the last step")
    spent = summary["spent"]
    about = f"{spent.get('tokens_generated', 0):,.0f} tokens generated"
    yield _tile("device-seconds", f"{spent['device_seconds']:,.0f}", about)


def _tile(label: str, value: str, about: str) -> Row:
    return {"label": label, "value": value, "about": about}


def _facts(run: StoredRun) -> Iterator[tuple[str, Any]]:
    flat, status = flatten(run.config), run.status
    yield "method", run.method
    yield "seed", run.seed
    yield "status", status.get("status", "unknown")
    yield "steps", f"{len(run.steps)} of {flat.get('run.num_steps', '?')}"
    yield "model", flat.get("model.path")
    yield "started", status.get("started_at")
    yield "ended", status.get("ended_at")
    yield "error", status.get("error")
    yield "commit", status.get("git_commit")
    versions = status.get("versions") or {}
    yield "versions", ", ".join(f"{name} {number}" for name, number in versions.items())


def _config(runs: Sequence[StoredRun]) -> Row:
    """Return the fields in which runs differ; of one run, those that are no defaults."""
    flats = [flatten(run.config) for run in runs]
    if len(runs) > 1:
        names, title = differing_fields(runs), "Fields in which the runs differ"
    else:
        names, title = _set_fields(runs[0])
    columns = [run.name for run in runs]
    rows = [[name, *(_shown(flat.get(name, "–")) for flat in flats)] for name in names]
    return {"title": title, "columns": columns, "rows": rows}


def _set_fields(run: StoredRun) -> tuple[list[str], str]:
    """Return the fields that a run sets otherwise than their defaults."""
    try:
        config = RunConfig.model_validate(run.config)
    except ValidationError:  # of another version of this package
        return list(flatten(run.config)), "All fields"
    changed = config.model_dump(mode="json", exclude_defaults=True)
    return list(flatten(changed)), "Fields that are not at their defaults"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _round(value: Any, digits: int = DIGITS) -> float | None:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() else short


def _finite(value: Any) -> Any:
    """Return the value without the numbers that JSON has no form for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
