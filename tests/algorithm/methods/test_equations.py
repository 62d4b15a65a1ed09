"""Every method's loss and gradient, on random steps, against its equation."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from coop_rl.config.method import rl_settings
from coop_rl.types import Guidance
from tests.algorithm.methods import reference
from tests.algorithm.methods.reference import Sum
from tests.algorithm.methods.scenes import (
    MISMATCH_CAP,
    VOCABULARY,
    Run,
    Scene,
    build,
    build_scene,
    compose,
    evaluate,
)

SEEDS = range(6)
EXACT = 1e-9
MU_60 = 0.05 + 0.85 * 0.5 * (1 + math.cos(math.pi * 60 / 200))
ALPHA = 0.05
SOURCES = Guidance(0.5, source_weights=(("a", 0.7), ("b", 0.3)))
EXAMPLES = Guidance(0.5, example_weights=(("mixed", 2.0), ("failed", 0.25)))


@dataclass(frozen=True)
class Case:
    """A step of a method, and its equation."""

    kind: str
    overrides: tuple[str, ...]
    equation: Callable[[Sum, Scene], None]
    step: int = 0
    guidance: Guidance | None = None
    prepare: Callable[[Run, Scene], object] = lambda run, scene: None


def both(rl: float, sft: float) -> Callable[[Sum, Scene], None]:
    def equation(total: Sum, scene: Scene) -> None:
        reference.reweighted(total, scene.groups, rl)
        reference.nll(total, scene.demonstrations, sft)

    return equation


def chord_phi(total: Sum, scene: Scene) -> None:
    reference.reweighted(total, scene.groups, 0.9)
    reference.phi(total, scene.demonstrations, 0.1)


def hpt(gate: int, coef: float) -> Callable[[Sum, Scene], None]:
    def equation(total: Sum, scene: Scene) -> None:
        with_expert = {d.id for d in scene.demonstrations}
        kept, taught = [], set()
        for group in scene.groups:
            num_right = sum(1 for reward in group.rewards if reward.is_correct)
            if num_right <= gate and group.prompt.id in with_expert:
                taught.add(group.prompt.id)
            else:
                kept.append(group)
        reference.dr_grpo(total, kept)
        reference.nll(total, [d for d in scene.demonstrations if d.id in taught], coef)

    return equation


def relift_buffered(total: Sum, scene: Scene) -> None:
    """`failed` alone is all wrong and has a demonstration."""
    oldest = [d for d in scene.demonstrations if d.id == "failed"]
    reference.relift_sft(total, oldest, ALPHA)


def by_source(total: Sum, scene: Scene) -> None:
    reference.reweighted(total, scene.groups, 0.3)
    for source, weight in SOURCES.source_weights:
        shown = [d for d in scene.demonstrations if d.source == source]
        reference.nll(total, shown, 0.7 * weight)


def by_example(total: Sum, scene: Scene) -> None:
    given = dict(EXAMPLES.example_weights)
    raw = {d.id: given.get(d.id, 1.0) for d in scene.demonstrations}
    middle = sum(raw.values()) / len(raw)
    reference.reweighted(total, scene.groups, 0.3)
    weights = {name: value / middle for name, value in raw.items()}
    reference.nll(total, scene.demonstrations, 0.7, weights)


CASES = {
    "rl": Case("rl", (), both(1.0, 0.0)),
    "sft": Case("sft", (), lambda total, scene: reference.nll(total, scene.demonstrations, 1.0)),
    "sum": Case("sum", (), both(1.0, 1.0)),
    "sum, mu": Case("sum", ("mu=0.3",), both(1.0, 0.3), step=7),
    "alternate, RL": Case("alternate", (), both(1.0, 0.0), step=4),
    "alternate, SFT": Case("alternate", (), both(0.0, 1.0), step=5),
    "chord, start": Case("chord", (), both(0.1, 0.9)),
    "chord, later": Case("chord", (), both(1 - MU_60, MU_60), step=60),
    "chord, phi": Case("chord", ("phi=true",), chord_phi, step=33),
    "cold_start, before": Case("cold_start", (), both(0.0, 1.0)),
    "cold_start, after": Case(
        "cold_start", (), both(1.0, 0.0), prepare=lambda run, _: run.method.observe(9, None, {})
    ),
    "hpt": Case("hpt", (), hpt(0, 1.0)),
    "hpt, gate": Case("hpt", ("gate=2", "coef=0.3"), hpt(2, 0.3)),
    "hpt, all taught": Case("hpt", ("gate=4",), hpt(4, 1.0)),
    "luffy": Case(
        "luffy",
        (f"entropy_weight={ALPHA}",),
        lambda total, scene: reference.luffy(total, scene.groups, scene.demonstrations, ALPHA),
    ),
    "luffy, no entropy": Case(
        "luffy",
        ("entropy_weight=0",),
        lambda total, scene: reference.luffy(total, scene.groups, scene.demonstrations, 0.0),
    ),
    "srft": Case(
        "srft",
        (),
        lambda total, scene: reference.srft(total, scene.groups, scene.demonstrations, 0.5, 0.1),
    ),
    "srft, weights": Case(
        "srft",
        ("sft_weight=0.8", "right_weight=0.4"),
        lambda total, scene: reference.srft(total, scene.groups, scene.demonstrations, 0.8, 0.4),
    ),
    "relift, RL": Case(
        "relift",
        (f"entropy_weight={ALPHA}",),
        lambda total, scene: reference.relift_rl(total, scene.groups, ALPHA),
    ),
    "relift, SFT": Case(
        "relift", (f"entropy_weight={ALPHA}", "buffer_size=1"), relift_buffered, prepare=compose
    ),
    "bridge": Case("bridge", ("mix=0.3",), both(0.3, 0.7)),
    "bridge, cosine": Case(
        "bridge",
        ("mix_schedule=cosine", "run.num_steps=10"),
        both(0.5 - math.cos(0.25 * math.pi) / 2, 0.5 + math.cos(0.25 * math.pi) / 2),
        step=2,
    ),
    "bridge, learned mix": Case(
        "bridge", ("meta.guidance=[adapter,mix]",), both(0.8, 0.2), guidance=Guidance(0.8)
    ),
    "bridge, sources": Case("bridge", ("mix=0.3",), by_source, guidance=SOURCES),
    "bridge, examples": Case("bridge", ("mix=0.3",), by_example, guidance=EXAMPLES),
}


def check(case: Case, scene: Scene) -> None:
    run = build(case.kind, *case.overrides)
    assert rl_settings(run.config.method).mismatch_cap == MISMATCH_CAP
    run.method.begin(100, {})
    if case.kind == "cold_start" and "after" in case.equation.__qualname__:
        pytest.fail("unreachable")
    case.prepare(run, scene)
    got = evaluate(run, compose(run, scene, case.step, case.guidance), scene)
    want = Sum(scene)
    case.equation(want, scene)
    assert abs(got.loss - want.loss) <= EXACT * abs(want.loss)
    largest = np.abs(want.gradient_SV).max()
    assert np.abs(got.gradient_SV - want.gradient_SV).max() <= EXACT * largest
    assert largest > 1e-4


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("seed", SEEDS)
def test_loss_and_gradient_are_those_of_the_equation(name: str, seed: int) -> None:
    check(CASES[name], build_scene(seed))


@pytest.mark.parametrize("name", CASES)
def test_so_they_are_on_policy(name: str) -> None:
    check(CASES[name], build_scene(100).on_policy())


def test_every_method_has_an_equation_here() -> None:
    from coop_rl.algorithm.methods import METHODS

    assert {case.kind for case in CASES.values()} == set(METHODS)


@pytest.mark.parametrize("name", ["luffy", "relift, RL", "relift, SFT"])
def test_the_equations_gradient_is_that_of_differences(name: str) -> None:
    """Of those without a stop-gradient."""
    scene, case = build_scene(0), CASES[name]
    total = Sum(scene)
    case.equation(total, scene)
    largest = np.abs(total.gradient_SV).max()
    for slot in range(0, 80, 3):
        for v in range(VOCABULARY):
            values = []
            for shift in (1e-5, -1e-5):
                moved_SV = scene.logits_SV.copy()
                moved_SV[slot, v] += shift
                moved = Sum(Scene(scene.groups, scene.demonstrations, moved_SV, scene.old_SV))
                case.equation(moved, moved.scene)
                values.append(moved.loss)
            slope = (values[0] - values[1]) / 2e-5
            assert abs(slope - total.gradient_SV[slot, v]) < 1e-6 * largest


def test_the_scenes_hold_what_matters() -> None:
    ratios, weights = [], []
    for seed in SEEDS:
        scene = build_scene(seed)
        total = Sum(scene)
        lengths = {len(r.token_ids) for g in scene.groups for r in g.rollouts}
        assert {1, 6} <= lengths
        assert any(r.is_truncated for g in scene.groups for r in g.rollouts)
        assert {"failed-alone", "alone"} == {g.prompt.id for g in scene.groups} - {
            d.id for d in scene.demonstrations
        }
        for rollout in (r for g in scene.groups for r in g.rollouts):
            pairs = list(zip(rollout.token_ids, rollout.behaviour_log_probs, strict=True))
            ratios += [math.exp(total.log_prob(i) - total.old_log_prob(i)) for i, _ in pairs]
            weights.append(math.exp(sum(total.log_prob(i) - b for i, b in pairs)))
    assert min(ratios) < 0.8
    assert max(ratios) > 1.2
    assert max(weights) > reference.RATIO_CAP
