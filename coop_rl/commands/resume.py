"""Where `coop-rl train` begins or goes on: found, verified and explained before anything starts.

    --resume auto    the newest whole checkpoint of the run directory; damaged ones are told;
                     where there is none, the newest whole one of checkpoint.target
             never   at step 0, in a run directory without checkpoints
             PATH    this checkpoint

Refused, unless `--allow` names it: starting anew beside checkpoints that are all damaged; files
that are not what they were when the checkpoint was written; a checkpoint of a run whose config
learns otherwise.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from coop_rl.algorithm.schedules import rate_at, scheduled_mix
from coop_rl.commands.allowed import Allowed
from coop_rl.config import RunConfig
from coop_rl.config.method import BridgeMethod
from coop_rl.config.optimizer import OptimizerSection
from coop_rl.config.rivals import PrefixMethod
from coop_rl.config.sizes import has_adapter, has_shadow, mix_and_penalty
from coop_rl.driver.checkpoint_check import Inputs, read_inputs
from coop_rl.driver.checkpoint_store import CheckpointStore, read_progress, stored_progress
from coop_rl.driver.checkpoint_target import CheckpointTarget
from coop_rl.errors import RunDirectoryError
from coop_rl.observability.run_directory import describe_change


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run starts."""

    checkpoint: Path | None
    """What it goes on from, verified; None: it begins anew."""
    notes: Sequence[str] = ()
    """Lines the user should see."""
    is_elsewhere: bool = False
    """Whether there is none here, and the newest one of `checkpoint.target` is to be fetched."""


def saved_roles(config: RunConfig) -> tuple[str, ...]:
    """Return the folders that every checkpoint of a run has."""
    shadow = ("shadow",) if has_shadow(config) else ()
    return ("joint", *shadow, *(("meta",) if config.method.is_guided else ()))


def find_start(
    config: RunConfig,
    store: CheckpointStore,
    resume: str,
    inputs: Inputs,
    allowed: Collection[Allowed] = (),
    *,
    is_restart: bool = False,
    elsewhere: Sequence[str] = (),
) -> Start:
    """Find where to start, and let the store go on from there.

    Args:
        config: The run's.
        store: The checkpoints of its directory.
        resume: What `--resume` was given.
        inputs: What the run computes from now.
        allowed: What `--allow` was given.
        is_restart: Whether the run was lost; where all steps are saved, what follows them was not.
        elsewhere: The checkpoints of `checkpoint.target`.

    Raises:
        RunDirectoryError: There is nothing to train, or going on would be wrong.
    """
    start = _find(config, store, resume, allowed, elsewhere)
    if start.is_elsewhere:
        return start
    notes = list(start.notes)
    if checkpoint := start.checkpoint:
        step = stored_progress(checkpoint).next_step
        if step >= config.run.num_steps and not is_restart:
            raise RunDirectoryError(
                f"nothing to train: {checkpoint} already holds all {config.run.num_steps} steps; "
                "raise run.num_steps, or give another --run-dir or run.name"
            )
        before = read_inputs(checkpoint)
        notes += _refuse_another_run(checkpoint, before, config, allowed)
        notes += _refuse_changed_files(checkpoint, before, inputs, allowed)
        notes += schedule_notes(before, config, step)
    store.go_on_from(start.checkpoint, inputs)
    return Start(start.checkpoint, notes)


def fetch_start(
    target: CheckpointTarget, config: RunConfig, checkpoints: Path, allowed: Collection[Allowed]
) -> list[str]:
    """Bring the newest whole checkpoint of the target here; return a line for each damaged one.

    Raises:
        RunDirectoryError: There is none, or it cannot be fetched.
    """
    found = target.fetch_newest(checkpoints, saved_roles(config))
    if found.newest is None and Allowed.DAMAGED_CHECKPOINTS not in allowed:
        raise RunDirectoryError(
            f"all checkpoints in {target} are damaged: {'; '.join(found.lines())}; begin anew with "
            "another checkpoint.target, or with --allow damaged-checkpoints"
        )
    return found.lines()


def _find(
    config: RunConfig,
    store: CheckpointStore,
    resume: str,
    allowed: Collection[Allowed],
    elsewhere: Sequence[str],
) -> Start:
    if resume == "never":
        if store.all() or elsewhere:
            where = "the run directory" if store.all() else "checkpoint.target"
            raise RunDirectoryError(
                f"{where} already holds checkpoints and --resume is never; "
                "give another --run-dir or run.name"
            )
        return Start(None)
    if resume != "auto":
        checkpoint = Path(resume).resolve()
        read_progress(checkpoint, saved_roles(config))
        return Start(checkpoint)
    found = store.find()
    if elsewhere and not found.newest:
        return Start(None, found.lines(), is_elsewhere=True)
    if found.damaged and not found.newest and Allowed.DAMAGED_CHECKPOINTS not in allowed:
        raise RunDirectoryError(
            f"all {len(found.damaged)} checkpoints in {found.damaged[0][0].parent} are damaged: "
            + "; ".join(f"{path.name} ({why})" for path, why in found.damaged)
            + "; put a whole one there, or start at step 0 with --allow damaged-checkpoints, "
            "which drops the rows of metrics.jsonl"
        )
    return Start(found.newest, found.lines())


def _refuse_another_run(
    checkpoint: Path, before: Inputs, config: RunConfig, allowed: Collection[Allowed]
) -> list[str]:
    change = describe_change(before.config, config) if before.config else None
    if change is None:
        return []
    text = f"{checkpoint} is of another run, with {change}"
    if Allowed.OTHER_RUN in allowed:
        return [text]
    raise RunDirectoryError(
        f"{text}; give a checkpoint of this run, or go on from it with --allow other-run"
    )


def _refuse_changed_files(
    checkpoint: Path, before: Inputs, now: Inputs, allowed: Collection[Allowed]
) -> list[str]:
    if not before.files:
        return []  # of a version that did not keep them
    names = sorted(before.files.keys() | now.files.keys())
    changed = [name for name in names if before.files.get(name) != now.files.get(name)]
    if not changed:
        return []
    first = changed[0]
    what = "is new" if first not in before.files else "has changed"
    what = "is gone" if first not in now.files else what
    more = f", and {len(changed) - 1} more files" if len(changed) > 1 else ""
    text = f"{first} {what} since {checkpoint.name} was written{more}"
    if Allowed.CHANGED_FILES in allowed:
        return [text]
    raise RunDirectoryError(
        f"{text}; put back what the run was trained with, or go on with what is there now by "
        "--allow changed-files"
    )


def schedule_notes(before: Inputs, config: RunConfig, step: int) -> list[str]:
    """Say what schedules over the run's length are now, where that is not what it was."""
    num_steps = config.run.num_steps
    was = before.config.get("run.num_steps")
    if not isinstance(was, int) or was == num_steps:
        return []
    changes: list[tuple[str, float, float]] = []
    sections: list[tuple[str, OptimizerSection]] = [("learner", config.learner)]
    if has_adapter(config):
        sections.append(("adapter", config.adapter))
    for name, section in sections:
        if section.lr_schedule != "constant":
            old, new = (rate_at(section, step, count) for count in (was, num_steps))
            changes.append((f"{name}.lr ({section.lr_schedule})", old, new))
    method = config.method
    if isinstance(method, BridgeMethod) and method.mix_schedule != "constant":
        mix, schedule = mix_and_penalty(config)[0], method.mix_schedule
        first = min(step, method.cold_start_steps)
        old, new = (
            scheduled_mix(step - first, count - first, schedule, mix) for count in (was, num_steps)
        )
        changes.append((f"method.mix ({schedule})", old, new))
    if isinstance(method, PrefixMethod) and method.anneal_steps is None:
        old, new = (method.share * max(0.0, 1.0 - step / count) for count in (was, num_steps))
        changes.append(("method.share", old, new))
    if not changes:
        return []
    told = ", ".join(f"{name} {new:.3g} instead of {old:.3g}" for name, old, new in changes)
    return [f"run.num_steps is {num_steps}, was {was}: from step {step} on {told}"]
