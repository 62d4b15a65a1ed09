"""One DeepSpeed rank: runs every scene of `worlds` and saves what it saw."""

import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch.profiler import ProfilerActivity, profile

from coop_rl.learner.deepspeed_config import deepspeed_config
from coop_rl.learner.deepspeed_engine import DeepSpeedEngine
from coop_rl.learner.engine import EngineSettings
from coop_rl.learner.groups import RESYNC_GROUP
from coop_rl.learner.learner import Learner
from coop_rl.learner.partition import fill_partitioned
from coop_rl.learner.settings import LearnerSettings
from coop_rl.learner.world import init_world
from coop_rl.models.checkpoint import CheckpointWeights
from coop_rl.models.loading import load_causal_lm, unloaded_causal_lm
from coop_rl.weights.process_group import open_store
from tests.learner import engine_scenes, gain_scenes, scenes
from tests.learner.engine_scenes import Build, Setup, same
from tests.learner.scenes import ENGINE, MIXED, RL_ONLY, Pipe, build_batch, one_step, record_steps
from tests.models.tiny import tiny_model
from tests.planning.measured import most_held

TIMEOUT_S = 60.0
HOST = "127.0.0.1"


def learner_at(
    stage: int, branch: Any = "joint", learner: LearnerSettings = scenes.LEARNER, **options: Any
) -> Learner:
    """Build a learner on DeepSpeed; `options` of EngineSettings or of the policy."""
    settings = {k: options.pop(k) for k in list(options) if k in EngineSettings.__slots__}
    policy, adapter = scenes.build_policy(**options)
    if settings.get("is_bfloat16"):
        policy.to(torch.bfloat16)
    engine = DeepSpeedEngine(policy, replace(ENGINE, zero_stage=stage, **settings), TIMEOUT_S)
    return Learner(learner, branch, engine, adapter)


def build_at(stage: int, setup: Setup, *, is_bfloat16: bool = False, **options: Any) -> Learner:
    """Build what a scene of `engine_scenes` asks for."""
    policy, adapter = scenes.build_policy(has_entropy_gradient=setup.has_entropy_gradient)
    if is_bfloat16:
        policy.to(torch.bfloat16)
    settings = replace(setup.engine, zero_stage=stage, is_bfloat16=is_bfloat16, **options)
    engine = DeepSpeedEngine(policy, settings, TIMEOUT_S)
    reference = engine_scenes.build_reference(setup)
    return Learner(setup.learner, setup.branch, engine, adapter, reference)


def in_groups(scene: Callable[[Build], Any], stage: int) -> Any:
    """Run a scene with several optimiser masters on every rank, as large models have."""

    def grouped(settings: EngineSettings, num_params: int, **device: bool) -> dict[str, Any]:
        config = deepspeed_config(settings, num_params, **device)
        config["zero_optimization"]["sub_group_size"] = 1500
        return config

    with patch("coop_rl.learner.deepspeed_engine.deepspeed_config", grouped):
        return scene(partial(build_at, stage))


def replay(stage: int, **options: Any) -> dict[str, Any]:
    """Export after one step, step twice, import, step twice again; also into a fresh engine."""
    learner = learner_at(stage, **options)
    size = learner.engine.world_size
    learner.step(0, one_step(build_batch(0, size)), MIXED)
    state = scenes.state_of(learner.engine)
    for step in (1, 2):
        learner.step(step, one_step(build_batch(step, size)), MIXED)
    first = scenes.state_of(learner.engine)
    learner.engine.import_state(iter(state.items()))
    back = same(scenes.state_of(learner.engine), state)
    fresh = learner_at(stage, **options)
    fresh.engine.import_state(iter(state.items()))
    outcomes = []
    for other in (learner, fresh):
        for step in (1, 2):
            other.step(step, one_step(build_batch(step, size)), MIXED)
        outcomes.append(same(scenes.state_of(other.engine), first))
    return {"is_back": back, "replays": outcomes, "keys": list(state), "state": state}


def save_and_load(stage: int, folder: Path) -> dict[str, Any]:
    """Save on all ranks, load into a fresh learner, go on equally."""
    learner = learner_at(stage)
    size = learner.engine.world_size
    learner.step(0, one_step(build_batch(0, size)), MIXED)
    fresh = learner_at(stage)
    assert fresh.adapter is not None
    fresh.adapter.load_flat(torch.zeros(fresh.adapter.numel()))
    engine_scenes.hand_over(learner, fresh, folder)
    for other in (learner, fresh):
        other.step(1, one_step(build_batch(1, size)), MIXED)
    return {
        "is_same": same(scenes.state_of(learner.engine), scenes.state_of(fresh.engine)),
        "version": (fresh.version.theta, fresh.version.adapter),
    }


def moved(stages: Sequence[int], folder: Path) -> dict[str, Any]:
    """Hand a state from one plain rank through ranks at several ZeRO stages, by their files."""
    whole = scenes.local_learner()
    whole.step(0, one_step(build_batch(0, 1)), MIXED)
    if dist.get_rank() == 0:
        whole.save_state(folder / "0")
    state, is_same = scenes.state_of(whole.engine), list[bool]()
    for number, stage in enumerate(stages):
        dist.barrier()  # everybody has written
        learner = learner_at(stage)
        learner.load_state(folder / str(number))
        is_same.append(same(scenes.state_of(learner.engine), state))
        learner.save_state(folder / str(number + 1))
    dist.barrier()
    whole = scenes.local_learner()
    whole.load_state(folder / str(len(stages)))
    written = {path.name: path for path in (folder / str(len(stages))).iterdir()}
    return {
        "is_same": [*is_same, same(scenes.state_of(whole.engine), state)],
        "bytes": {
            name: sum(file.stat().st_size for file in path.glob("*.safetensors"))
            for name, path in written.items()
        },
    }


def non_finite(stage: int) -> dict[str, Any]:
    """The last rank gets a NaN: everyone skips, and the next step is as if nothing had been."""
    learner, clean = learner_at(stage), learner_at(stage)
    size = learner.engine.world_size
    before = scenes.state_of(learner.engine)
    bad = scenes.poison(build_batch(0, size), size - 1)
    result, _ = learner.step(0, one_step(bad), MIXED)
    unchanged = same(scenes.state_of(learner.engine), before)
    for other in (learner, clean):
        other.step(1, one_step(build_batch(1, size)), MIXED)
    return {
        "is_applied": result.updates.is_applied,
        "is_unchanged": unchanged,
        "recovers": same(scenes.state_of(learner.engine), scenes.state_of(clean.engine)),
        "theta": learner.version.theta,
    }


def resync(stage: int, *, copies_moments: bool) -> dict[str, Any]:
    """The shadow receives theta_k: it must equal an RL-only step of a twin at theta_k."""
    settings = replace(scenes.LEARNER, copies_moments=copies_moments)
    joint, shadow, twin = (learner_at(stage, b, settings) for b in ("joint", "shadow", "shadow"))
    size = joint.engine.world_size
    # Every rank's own pipe: all ranks of the shadow are members, and export is whole on every rank.
    pipe = Pipe()
    joint.attach_group(RESYNC_GROUP, pipe.sender())
    shadow.attach_group(RESYNC_GROUP, pipe.receiver())
    for step in (0, 1):
        joint.step(step, one_step(build_batch(step, size)), MIXED)
        shadow.step(step, one_step(build_batch(step, size)), RL_ONLY)
    state = scenes.state_at_resync(joint.engine, shadow.engine, copies_moments=copies_moments)
    twin.engine.import_state(iter(state.items()))
    batch = build_batch(2, size)
    _, at_joint = joint.step(2, one_step(batch), replace(MIXED, resync_shadow=True))
    _, at_shadow = shadow.step(2, one_step(batch), replace(RL_ONLY, resync_shadow=True))
    twin.step(2, one_step(batch), RL_ONLY)
    assert at_joint is not None
    assert at_shadow is not None
    return {
        "is_rl_step_from_theta": same(scenes.state_of(shadow.engine), scenes.state_of(twin.engine)),
        "gradients_are_before_resync": not same(at_joint.rl, at_shadow.rl),
        "left_over": len(pipe.queue),
    }


def equal_branches(stage: int) -> bool:
    """theta-hat = theta: w's RL gradients agree bit for bit although joint mixes at 0.3."""
    batch = None
    gradients = []
    for branch, objective in (("joint", MIXED), ("shadow", RL_ONLY)):
        learner = learner_at(stage, branch)
        batch = batch or build_batch(0, learner.engine.world_size)
        _, taken = learner.step(0, one_step(batch), objective)
        assert taken is not None
        gradients.append(taken.rl)
    return same(*gradients)


def steps(stage: int, **options: Any) -> dict[str, Any]:
    """Three steps of `joint`."""
    return record_steps(learner_at(stage, **options), 3)


def exact_steps(stage: int, branch: Any, is_checkpointed: bool) -> dict[str, Any]:
    """Five steps of one branch, with theta's gradients."""
    policy, adapter = scenes.build_policy(is_checkpointed=is_checkpointed)
    engine = DeepSpeedEngine(policy, replace(scenes.EXACT_ENGINE, zero_stage=stage), TIMEOUT_S)
    return scenes.record_exact_steps(Learner(scenes.EXACT_LEARNER, branch, engine, adapter))


def bfloat16(stage: int) -> dict[str, Any]:
    """Two steps and a replay with bf16 weights."""
    taken = record_steps(learner_at(stage, is_bfloat16=True), 2)
    return {**taken, "replay": replay(stage, is_bfloat16=True)}


def partitioned(folder: Path, *, is_tied: bool, is_bfloat16: bool) -> dict[str, Any]:
    """ZeRO 3 on a model that was split while it was read, and on one that was loaded whole."""
    dtype = torch.bfloat16 if is_bfloat16 else torch.float32
    settings = replace(ENGINE, zero_stage=3, is_bfloat16=is_bfloat16)
    tiny_model(is_tied=is_tied, scale=0.05).to(dtype).save_pretrained(folder)
    dist.barrier()  # the first rank alone writes
    weights = CheckpointWeights.open(str(folder))
    empty = unloaded_causal_lm(str(folder), dtype, activation_checkpointing=True)
    covers, shapes = weights.cover(empty), [p.shape for p in empty.parameters()]
    policies = [
        scenes.build_policy(model=model, is_checkpointed=True)
        for model in (load_causal_lm(str(folder), dtype), empty)
    ]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        fill_partitioned(policies[1][0], weights, dtype, settings)
    runs = []
    for policy, adapter in policies:
        engine = DeepSpeedEngine(policy, settings, TIMEOUT_S)
        runs.append(record_steps(Learner(scenes.LEARNER, "joint", engine, adapter), 2))
    sizes = sorted(shape.numel() * dtype.itemsize for shape in shapes)
    return {
        "covers": covers,
        "runs": runs,
        "peak": most_held(profiled),
        "parts": sum(sizes) / dist.get_world_size(),
        "largest": sizes[-1],
    }


def score(stage: int) -> list[list[float]]:
    """Teacher-forced log-probs of two rows."""
    return learner_at(stage).score([((3, 4), (5, 6, 7)), ((8,), (9,))])


def operations(out: Path) -> dict[str, Callable[[], Any]]:
    """Those of `engine_scenes`, by name; their folders lie beside `out`, the same on all ranks."""
    plan: dict[str, Callable[[], Any]] = {}
    for stage in (0, 1, 2, 3):
        build = partial(build_at, stage)
        for name, scene in engine_scenes.PLAIN.items():
            plan[f"{name}-{stage}"] = partial(scene, build)
        for name, filed in (engine_scenes.FILED | gain_scenes.FILED).items():
            folder = Path(f"{out}-{name}-{stage}")
            plan[f"{name}-{stage}"] = partial(filed, build, folder)
    for stage in (0, 2, 3):
        build = partial(build_at, stage, is_bfloat16=True)
        for name in ("alignment", "dropped_gradient", "shifted"):
            plan[f"{name}-{stage}-bfloat16"] = partial(engine_scenes.PLAIN[name], build)
        for amplifies in (False, True):
            plan[f"close_branches-{stage}-{amplifies}"] = partial(
                gain_scenes.close_branches, build, amplifies=amplifies
            )
    keeping = partial(build_at, 3, persistence_threshold_values=300)
    plan["shifted-3-persistent"] = partial(engine_scenes.shifted, keeping)
    for name in ("alignment", "shifted"):
        plan[f"{name}-3-grouped"] = partial(in_groups, engine_scenes.PLAIN[name], 3)
    return plan


def all_scenes(out: Path) -> dict[str, Callable[[], Any]]:
    """The scenes by name."""
    plan: dict[str, Callable[[], Any]] = {}
    for stage in (0, 1, 2, 3):
        plan[f"steps-{stage}"] = partial(steps, stage)
        for branch in ("joint", "shadow"):
            for is_checkpointed in (False, True):
                plan[f"exact-{stage}-{branch}-{is_checkpointed}"] = partial(
                    exact_steps, stage, branch, is_checkpointed
                )
        plan[f"replay-{stage}"] = partial(replay, stage)
        plan[f"non_finite-{stage}"] = partial(non_finite, stage)
        for copies in (False, True):
            plan[f"resync-{stage}-{copies}"] = partial(resync, stage, copies_moments=copies)
        plan[f"equal_branches-{stage}"] = partial(equal_branches, stage)
    for stage in (2, 3):
        plan[f"untied-checkpointed-{stage}"] = partial(
            steps, stage, is_tied=False, is_checkpointed=True
        )
        plan[f"save-{stage}"] = partial(save_and_load, stage, Path(f"{out}-save-{stage}"))
    plan["moved-3"] = partial(moved, (2, 0, 1, 3), Path(f"{out}-moved"))
    for stage in (0, 2, 3):
        plan[f"bfloat16-{stage}"] = partial(bfloat16, stage)
    plan |= operations(out)
    plan["replay-persistent-3"] = partial(replay, 3, persistence_threshold_values=300)
    for stage in (0, 3):
        plan[f"score-{stage}"] = partial(score, stage)
    for is_tied, is_bfloat16 in ((True, False), (False, True)):
        folder = Path(f"{out}-partitioned-3-{is_tied}")
        plan[f"partitioned-3-{is_tied}"] = partial(
            partitioned, folder, is_tied=is_tied, is_bfloat16=is_bfloat16
        )
    return plan


def run_rank(rank: int, world_size: int, names: Sequence[str], out: Path) -> None:
    """Run the scenes of these names; the last rank saves what it saw to `out`."""
    with Path(f"{out}-rank-{rank}.log").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    written = Path(f"{out}.port")
    store = None
    if rank == 0:
        store, port = open_store(HOST, TIMEOUT_S)
        written.write_text(f"{port}\n")
    while not written.exists() or "\n" not in written.read_text():
        time.sleep(0.05)
    init_world(HOST, int(written.read_text()), rank, world_size, TIMEOUT_S, store=store)
    plan = all_scenes(out)
    results = {}
    for name in names:
        gc.freeze()  # every engine collects garbage: not among the imports and earlier engines
        results[name] = plan[name]()
    if rank == world_size - 1:
        torch.save(results, out)
    dist.destroy_process_group()
