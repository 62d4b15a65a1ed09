"""What a run found, in one object: summary.json and summary.md at its end, the report's tiles."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from coop_rl.evaluation.result import compare
from coop_rl.files import write_text
from coop_rl.metric_names import LEDGER, REWARD, VALIDATION_NLL
from coop_rl.observability.forgetting import Forgetting, describe_forgetting
from coop_rl.observability.losses import losses, recovered
from coop_rl.report.stored_run import Row, StoredRun, numbers, spent

LAST_STEPS = 10
WEIGHT = "guidance/weight/"
HIGH_SHARE = 0.9
"""Share of prompts without an RL gradient from which a run is said to have little signal."""


def summarise(run: StoredRun) -> dict[str, Any]:
    """Return a run's result as JSON values; what was not measured is null or empty."""
    last = run.steps[-1] if run.steps else {}
    rewards = numbers(run.steps, REWARD)
    # Of a short run the first and the last steps must not be the same ones.
    over = min(LAST_STEPS, max(1, len(rewards) // 2))
    return {
        "name": run.name,
        "method": run.method,
        "seed": run.seed,
        "status": run.status.get("status", "unknown"),
        "num_steps": run.config.get("run", {}).get("num_steps"),
        "steps_done": len(run.steps),
        "seconds": seconds_of(run.status),
        "evaluations": list(_evaluations(run)),
        "training_reward": {
            "first": fmean(rewards[:over]),
            "last": fmean(rewards[-over:]),
            "over_steps": over,
        }
        if rewards
        else None,
        "held_out_sft_loss": _held_out(run),
        "gain": _gain(run),
        "guidance": {
            "mix": last.get("guidance/mix"),
            "weights": {k.removeprefix(WEIGHT): v for k, v in last.items() if k.startswith(WEIGHT)},
        },
        "spent": {k.removeprefix(LEDGER): v for k, v in last.items() if k.startswith(LEDGER)}
        | {"device_seconds": spent(last, "device_seconds") if last else 0.0},
        "recovered": _recovered(run),
        "forgetting": _forgetting(run),
        "warnings": list(_warnings(run)),
        "next": next_commands(run),
    }


def write_summary(run: StoredRun) -> dict[str, Any]:
    """Write summary.json and summary.md into the run's folder; returns what they say.

    Raises:
        OSError: They cannot be written.
    """
    summary = summarise(run)
    write_text(run.path / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    write_text(run.path / "summary.md", markdown(summary))
    return summary


def markdown(summary: dict[str, Any]) -> str:
    """Return the summary as a page that ends with the next commands."""
    lines = [
        f"# {summary['name']}: {summary['method']}, seed {summary['seed']}, {summary['status']}",
        "",
        f"{summary['steps_done']} of {summary['num_steps']} steps.",
        "",
    ]
    if summary["evaluations"]:
        lines += ["| set | figure | before | after | difference, 95 % interval |"]
        lines += ["|---|---|---|---|---|"]
        for row in summary["evaluations"]:
            change = row["difference"]
            lines.append(
                f"| {row['set']} | {row['figure']} | {row['before']:.3f} | {row['after']:.3f} | "
                f"{change['value']:+.3f} [{change['low']:+.3f}, {change['high']:+.3f}] |"
            )
        lines.append("")
    lines += [f"- {text}" for text in _sentences(summary)]
    lines += ["", "Next:", "", "```bash", *summary["next"], "```", ""]
    return "\n".join(lines)


def next_commands(run: StoredRun) -> list[str]:
    """Return what one does after a run, as commands that work for this one."""
    folder = _shown(run.path)
    steps = run.config.get("run", {}).get("num_steps") or 0
    commands = [
        f"coop-rl report {folder} -o report.html",
        f"coop-rl compare {folder} OTHER_RUN",
    ]
    if any(run.path.glob("checkpoints/step-*")):
        longer = steps if len(run.steps) < steps else 2 * steps
        commands += [
            f"coop-rl evaluate {folder}",
            f"coop-rl export {folder} {folder}-model",
            f"coop-rl train {folder}/config.json --run-dir {folder} --set run.num_steps={longer}",
        ]
    return commands


def _sentences(summary: dict[str, Any]) -> Iterator[str]:
    if reward := summary["training_reward"]:
        yield (
            f"training reward {reward['first']:.3f} over the first {reward['over_steps']} steps, "
            f"{reward['last']:.3f} over the last"
        )
    if gain := summary["gain"]:
        yield (
            f"cooperative gain {gain['value']:+.4f} ± {gain['stderr']:.4f} (standard error), over "
            f"{gain['measurements']:.0f} measurements"
        )
    if weights := summary["guidance"]["weights"]:
        yield "source weights: " + ", ".join(f"{k} {v:.3f}" for k, v in weights.items())
    yield from summary["forgetting"]
    totals = summary["spent"]
    yield (
        f"spent {totals.get('tokens_generated', 0):,.0f} generated tokens, "
        f"{totals['device_seconds']:,.0f} device-seconds"
    )
    yield from summary["recovered"]
    yield from summary["warnings"]


def _evaluations(run: StoredRun) -> Iterator[Row]:
    """Yield each set's earliest result against its latest, figure by figure."""
    for name, results in run.results.items():
        first, last = min(results), max(results)
        both = compare(results[first], results[last]) if first < last else None
        for figure, difference in (both.differences if both else {}).items():
            before, after = (results[step].estimates[figure] for step in (first, last))
            yield {
                "set": name,
                "figure": figure,
                "before": before.value,
                "after": after.value,
                "difference": asdict(difference),
                "num_items": len(results[last].ids),
                "steps": [first, last],
            }


def _held_out(run: StoredRun) -> Row | None:
    values = numbers(run.evaluations, VALIDATION_NLL)
    return {"first": values[0], "lowest": min(values), "last": values[-1]} if values else None


def _gain(run: StoredRun) -> Row | None:
    """Return the pooled gain at the last step that has one."""
    for row in reversed(run.steps):
        if row.get("gain/pooled") is not None and row.get("gain/pooled_stderr") is not None:
            return {
                "value": row["gain/pooled"],
                "stderr": row["gain/pooled_stderr"],
                "measurements": row.get("gain/pooled_steps") or 0,
            }
    return None


def _forgetting(run: StoredRun) -> list[str]:
    followed = Forgetting()
    for row in sorted([*run.steps, *run.evaluations], key=lambda row: row["step"]):
        followed.add(row)
    return describe_forgetting(followed)


def _recovered(run: StoredRun) -> list[str]:
    """Say whom the run went on without, if anybody was lost."""
    again = recovered(run.status)
    if not again:
        return []
    who = Counter(name for loss in losses(run.status) for name in loss.who)
    told = ", ".join(
        f"{name} ({count} times)" if count > 1 else name for name, count in who.items()
    )
    steps = again["recovered/repeated_steps"]
    return [f"went on after losing {told}; {steps:.0f} steps were trained again"]


def _warnings(run: StoredRun) -> Iterator[str]:
    crashed = sum(numbers(run.steps, "reward/crashed"))
    timeouts = sum(numbers(run.steps, "reward/timeouts"))
    if crashed or timeouts:
        yield (
            f"warning: {crashed:,.0f} responses crashed the verifier and {timeouts:,.0f} ran into "
            "its time limit; they did not train (logs/reward.log has the first)"
        )
    for metric, what in (("grad/skipped", "theta"), ("guidance/skipped", "w")):
        values = numbers(run.steps, metric)
        if any(values):
            yield f"warning: {sum(values):,.0f} of {len(values):,} updates of {what} were skipped"
    last = run.steps[-LAST_STEPS:]
    silent = [
        row["groups/all_right"] + row["groups/all_wrong"]
        for row in last
        if row.get("groups/all_right") is not None and row.get("groups/all_wrong") is not None
    ]
    if silent and fmean(silent) > HIGH_SHARE:
        yield (
            f"warning: in the last {len(silent)} steps {fmean(silent):.0%} of the prompts had "
            "responses all right or all wrong, which give RL no gradient"
        )
    if run.num_unreadable:
        yield f"warning: {run.num_unreadable:,} lines of metrics or samples could not be read"


def seconds_of(status: Row) -> float | None:
    """Return the time from start to end; of a resumed run, pauses included."""
    try:
        ends = [datetime.fromisoformat(status[name]) for name in ("started_at", "ended_at")]
    except (KeyError, TypeError, ValueError):
        return None
    return (ends[1] - ends[0]).total_seconds()


def _shown(path: Path) -> str:
    """Return a folder as one types it from here."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
