"""What an engine is asked to do besides plain steps, on whatever engine a scene is given.

Each scene runs on LocalEngine in the test and on DeepSpeed in the worker processes alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from coop_rl.algorithm.estimators import build_estimator
from coop_rl.algorithm.packing import PackShape, pack, pack_branches
from coop_rl.config.estimators import GrpoRl, KlSettings, PpoRl
from coop_rl.config.roles import LearnerSection
from coop_rl.errors import ConfigError
from coop_rl.learner.engine import EngineSettings, TrainingEngine
from coop_rl.learner.learner import Learner
from coop_rl.learner.passes import Reference
from coop_rl.learner.settings import LearnerSettings
from coop_rl.models import PolicyModel
from coop_rl.types import (
    AdapterGradients,
    Branch,
    BranchBatch,
    DemonstrationTerm,
    Lesson,
    Objective,
    StepResult,
)
from tests.learner.scenes import (
    ENGINE,
    EXACT_ENGINE,
    EXACT_LEARNER,
    LEARNER,
    LOSS,
    MIXED,
    RL_ONLY,
    SECTION,
    build_batch,
    build_demonstrations,
    build_policy,
    build_samples,
    figures_of,
    moments_of,
    one_step,
    parameters_of,
    state_of,
)
from tests.models.tiny import tiny_model
from tests.support.local_engine import LocalEngine

SOURCES = ("a", "b")
BY_SOURCE = Objective(
    0.3,
    0.7,
    terms=(DemonstrationTerm(share=0.4, source="a"), DemonstrationTerm(share=0.6, source="b")),
)
SFT_ALONE = Objective(0.0, 1.0)
SECOND = Objective(0.0, 1.0, has_second_optimizer=True)
GRPO = replace(LOSS, estimator=build_estimator(GrpoRl(clip=0.05), 12))
PPO_RL = PpoRl(clip=0.05, kl=KlSettings(weight=0.1), entropy_weight=0.05)
PPO = replace(LOSS, estimator=build_estimator(PPO_RL, 12), rl=PPO_RL)
RECORDED = (
    "rl_loss",
    "sft_loss",
    "entropy",
    "mismatch_kl",
    "kl_ref",
    "clip_fraction",
    "log_ratio_N",
    "kl_N",
    "grad_norm",
    "rl_norm",
    "sft_norm",
    "cosine",
    "forward_tokens",
    "backward_tokens",
    "components",
    "examples",
)


@dataclass(frozen=True)
class Setup:
    """A learner to be built on some engine."""

    learner: LearnerSettings = LEARNER
    engine: EngineSettings = ENGINE
    branch: Branch = "joint"
    has_reference: bool = False
    has_entropy_gradient: bool = False


Build = Callable[[Setup], Learner]


def build_reference(setup: Setup) -> Reference | None:
    """Another model than the policy's, so that the KL is not small."""
    if not setup.has_reference:
        return None
    return PolicyModel(tiny_model(seed=5, scale=0.05)).requires_grad_(False)


def build_local(setup: Setup) -> Learner:
    policy, adapter = build_policy(has_entropy_gradient=setup.has_entropy_gradient)
    engine = LocalEngine(policy, setup.engine)
    return Learner(setup.learner, setup.branch, engine, adapter, build_reference(setup))


def with_section(**options: Any) -> LearnerSection:
    """The learners' section, but for some fields."""
    return SECTION.model_copy(update=options)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def recorded(taken: tuple[StepResult, AdapterGradients | None]) -> dict[str, Any]:
    """Everything of a step that must not depend on the engine."""
    result, gradients = taken
    assert gradients is not None
    return {
        **{name: value for name, value in figures_of(result).items() if name in RECORDED},
        "w": {"rl": gradients.rl, "sft": gradients.sft},
    }


def follow(
    learner: Learner, batches: Sequence[BranchBatch], objective: Objective
) -> dict[str, Any]:
    """Take a step on each batch."""
    steps = [recorded(learner.step(k, batch, objective)) for k, batch in enumerate(batches)]
    return {"steps": steps, "parameters": parameters_of(learner.engine)}


def parts_of_all_ranks(engine: TrainingEngine, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Every value but zeros that some rank holds, sorted."""
    own = torch.cat([part.detach().float().flatten() for part in parts])
    everyone = [own]
    if engine.world_size > 1:
        everyone = [torch.empty(0)] * engine.world_size
        dist.all_gather_object(everyone, own)
    values = torch.cat(everyone)
    return values[values != 0].sort().values


def alignment(build: Build) -> dict[str, Any]:
    """beta_1 = 0, no clipping: the first moment after a step is the gradient before it."""
    learner = build(Setup(learner=EXACT_LEARNER, engine=EXACT_ENGINE))
    engine = learner.engine
    error, scale = 0.0, 0.0
    for step in (0, 1):
        learner.compute(step, build_batch(step, engine.world_size), MIXED)
        parts = engine.gradient_parts()
        gathered = parts_of_all_ranks(engine, parts)
        square = torch.stack([part.double().square().sum() for part in parts]).sum().view(1)
        engine.all_reduce_sum(square)
        stats = engine.step(1e-3)
        for part, moments in zip(parts, engine.moment_parts(), strict=True):
            error = max(error, float((moments.exp_avg.view_as(part) - part).abs().max()))
            scale = max(scale, float(part.abs().max()))
    first = [t for key, t in state_of(engine).items() if key.startswith("exp_avg/")]
    whole = torch.cat([t.flatten() for t in first])
    whole = whole[whole != 0].sort().values
    return {
        "error": error / scale,
        "squares": (float(square), stats.grad_norm**2),
        "counts": (gathered.numel(), whole.numel()),
        "once": float((gathered - whole).abs().max()) if gathered.shape == whole.shape else 1.0,
        "num_updates": engine.num_updates(),
        "parts": len(parts),
    }


def dropped_gradient(build: Build) -> float:
    """Largest relative difference that gradients dropped before each of two steps make."""
    setup = Setup(replace(LEARNER, section=with_section(grad_stats_every=0)))
    disturbed, clean = build(setup), build(setup)
    size = clean.engine.world_size
    for step in range(2):
        junk = build_batch(10 + step, size, micro_batch_tokens=60)
        disturbed.compute(step, junk, Objective(50.0, 20.0))
        disturbed.engine.zero_grad()
        for learner in (disturbed, clean):
            learner.step(step, one_step(build_batch(step, size)), MIXED)
    got, expected = (state_of(learner.engine) for learner in (disturbed, clean))
    return max(
        float((got[key] - t).abs().max() / t.abs().max()) for key, t in expected.items() if t.any()
    )


def own_bracket(build: Build) -> dict[str, Any]:
    """GRPO: w's RL gradient has a pass of its own, whose gradient of theta is dropped."""
    learner = build(Setup(replace(LEARNER, loss=GRPO)))
    size = learner.engine.world_size
    return follow(learner, [one_step(build_batch(k, size)) for k in range(3)], MIXED)


def fresh_bracket(build: Build) -> dict[str, Any]:
    """The shadow, whose bracket is measured on rollouts of its own."""
    learner = build(Setup(branch="shadow"))
    size = learner.engine.world_size
    batches = [
        BranchBatch((build_batch(k, size),), replace(build_batch(20 + k, size), num_rl_tokens=40))
        for k in range(2)
    ]
    return follow(learner, batches, RL_ONLY)


def minibatches(build: Build) -> dict[str, Any]:
    """PPO with two minibatches and two epochs, KL to a reference, entropy bonus."""
    setup = Setup(replace(LEARNER, loss=PPO), has_reference=True, has_entropy_gradient=True)
    learner = build(setup)
    shape = PackShape(learner.engine.world_size, 30, 2, 2, group_size=2)
    batches = []
    for step in range(2):
        lesson = Lesson(build_samples(step, 8), build_demonstrations(step), MIXED)
        batches.append(pack_branches(lesson, (), shape, is_own=False)[0])
    assert all(len(batch.minibatches) == 4 for batch in batches)
    return follow(learner, batches, MIXED)


def guided(build: Build, max_grad_norm: float, has_examples: bool = True) -> Learner:
    """A learner that differentiates its updates."""
    section = with_section(max_grad_norm=max_grad_norm)
    learner = replace(
        LEARNER,
        has_lookahead=True,
        has_example_lookahead=has_examples,
        section=section,
    )
    return build(Setup(learner, replace(ENGINE, optimizer=section)))


def batches_by_source(num_ranks: int, num_steps: int) -> list[BranchBatch]:
    shape = PackShape(num_ranks, 30)
    return [
        one_step(pack(build_samples(k), build_demonstrations(k, SOURCES), shape, SOURCES))
        for k in range(num_steps)
    ]


def lookahead_clipped(build: Build, folder: Path) -> dict[str, Any]:
    """Six steps; the first update has no products, so those of four are known then.

    Before the last step a fresh learner takes over what was saved.
    """
    learner, fresh = guided(build, 0.05), guided(build, 0.05)
    *earlier, last = batches_by_source(learner.engine.world_size, 6)
    steps = follow(learner, earlier, BY_SOURCE)["steps"]
    hand_over(learner, fresh, folder)
    a, b = (one.step(5, last, BY_SOURCE) for one in (learner, fresh))
    return {
        "steps": [*steps, recorded(a)],
        "parameters": parameters_of(learner.engine),
        "is_resumed": a[0].lookahead == b[0].lookahead,
    }


def lookahead_free(build: Build) -> dict[str, Any]:
    """The same without clipping, and not for single demonstrations."""
    learner = guided(build, 1e9, has_examples=False)
    return follow(learner, batches_by_source(learner.engine.world_size, 6), BY_SOURCE)


def shifted(build: Build) -> dict[str, Any]:
    """theta + 0.1 exp_avg, inside and after."""
    learner = build(Setup())
    engine = learner.engine
    learner.step(0, one_step(build_batch(0, engine.world_size)), MIXED)
    rows = [((3, 4), (5, 6, 7)), ((8,), (9,))]
    state, scores = state_of(engine), learner.score(rows)
    before = parameters_of(engine)
    parts = [moments.exp_avg.clone() for moments in engine.moment_parts()]
    with engine.shifted(parts, 0.1):
        inside, inside_scores = parameters_of(engine), learner.score(rows)
    return {
        "error": max(
            float((inside[name] - before[name] - 0.1 * state[f"exp_avg/{name}"]).abs().max())
            for name in before
        ),
        "has_moved": inside_scores != scores,
        "scores": inside_scores,
        "is_back": same(state_of(engine), state) and learner.score(rows) == scores,
    }


def second_state(engine: TrainingEngine) -> dict[str, torch.Tensor]:
    """A copy of the second optimiser state, with theta."""
    engine.swap_optimizer_state()
    state = state_of(engine)
    engine.swap_optimizer_state()
    return state


def hand_over(learner: Learner, fresh: Learner, folder: Path) -> None:
    """Save one learner, and load the other from that."""
    learner.save_state(folder)
    learner.engine.all_reduce_sum(torch.zeros(1))  # rank 0 has written when all are here
    fresh.load_state(folder)


def second_optimizer(build: Build, folder: Path) -> dict[str, Any]:
    """Steps with both optimiser states in turn; saved and loaded in between."""
    learner = build(Setup())
    engine = learner.engine
    batches = [one_step(build_batch(k, engine.world_size)) for k in range(6)]
    steps = [recorded(learner.step(0, batches[0], MIXED))]
    main = state_of(engine)
    steps.append(recorded(learner.step(1, batches[1], SECOND)))
    now = state_of(engine)
    moments = [key for key in main if not key.startswith("master/")]
    is_kept = all(torch.equal(now[key], main[key]) for key in moments)
    has_moved = not same(now, main)
    steps.append(recorded(learner.step(2, batches[2], MIXED)))
    steps.append(recorded(learner.step(3, batches[3], SECOND)))
    second = second_state(engine)
    engine.import_state(iter(state_of(engine).items()))
    is_undisturbed = same(second_state(engine), second)
    fresh = build(Setup())
    hand_over(learner, fresh, folder)
    is_loaded = same(second_state(fresh.engine), second)
    for other in (learner, fresh):
        other.step(4, batches[4], SECOND)
        other.step(5, batches[5], MIXED)
    ends = [(state_of(one.engine), second_state(one.engine)) for one in (learner, fresh)]
    return {
        "is_kept": is_kept,
        "has_moved": has_moved,
        "num_updates": (int(now["num_steps"]), int(second["num_steps"])),
        "is_undisturbed": is_undisturbed,
        "is_loaded": is_loaded,
        "replays": same(ends[0][0], ends[1][0]) and same(ends[0][1], ends[1][1]),
        "steps": steps,
        "parameters": parameters_of(engine),
        "second": ends[0][1],
    }


def offloaded(build: Build) -> dict[str, Any]:
    """The shadow with its moments moved away but for updates, beside one that keeps them."""
    moving = build(Setup(replace(LEARNER, offloaded=frozenset({"shadow"})), branch="shadow"))
    staying = build(Setup(branch="shadow"))
    size = staying.engine.world_size
    try:
        for step in range(2):
            for learner in (moving, staying):
                learner.step(step, one_step(build_batch(step, size)), RL_ONLY)
    except ConfigError as error:
        return {"refusal": str(error)}
    return {"is_same": same(state_of(moving.engine), state_of(staying.engine))}


def sft_cut(build: Build) -> dict[str, Any]:
    """theta's gradient of a step of demonstrations, cut into one micro-batch or one for each."""
    found: dict[str, Any] = {}
    for name, micro_batch_tokens in (("one", 10_000), ("many", 1)):
        learner = build(Setup(EXACT_LEARNER, EXACT_ENGINE))
        shape = PackShape(learner.engine.world_size, micro_batch_tokens)
        batch = pack([], build_demonstrations(0), shape)
        learner.step(0, one_step(batch), SFT_ALONE)
        parts = moments_of(learner.engine).items()
        found[name] = torch.cat([part.flatten() for _, part in sorted(parts)])
        found[f"num_micros_{name}"] = len(batch.sft[0].ranks[0])
    return found


PLAIN: dict[str, Callable[[Build], Any]] = {
    "alignment": alignment,
    "dropped_gradient": dropped_gradient,
    "own_bracket": own_bracket,
    "fresh_bracket": fresh_bracket,
    "minibatches": minibatches,
    "shifted": shifted,
    "offloaded": offloaded,
    "lookahead_free": lookahead_free,
    "sft_cut": sft_cut,
}
"""Scenes that need only a builder."""
FILED: dict[str, Callable[[Build, Path], Any]] = {
    "second_optimizer": second_optimizer,
    "lookahead_clipped": lookahead_clipped,
}
"""Scenes that write a folder."""
