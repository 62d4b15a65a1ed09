"""Methods that only weigh the two losses, against plain references written from their equations."""

import math
from typing import get_args

import pytest

from coop_rl.algorithm.methods import METHODS
from coop_rl.algorithm.methods.base import Needs
from coop_rl.config.method import Method as MethodUnion
from coop_rl.types import DemonstrationTerm, Objective
from tests.algorithm.methods.scenes import config_of, method_of


@pytest.mark.parametrize("kind", METHODS)
def test_only_bridge_has_a_shadow(kind: str) -> None:
    assert method_of(kind).uses_shadow == (kind == "bridge")


@pytest.mark.parametrize("kind", METHODS)
def test_a_section_says_what_its_method_needs(kind: str) -> None:
    section, method = config_of(kind).method, method_of(kind)
    method.begin(1, {})  # an epoch is one step
    needs = []
    for step in range(6):
        method.observe_evaluation(step, {})
        needs.append(method.needs(step))
    assert any(n.rollouts for n in needs) == section.samples
    assert {n.demonstrations for n in needs} <= {section.demonstrations, "none"}
    # A scaffold asks for the demonstrations of what failed, once that is known.
    asks_later = method.has_scaffold
    assert asks_later or any(n.demonstrations == section.demonstrations for n in needs)


def test_every_section_has_its_method() -> None:
    sections = get_args(get_args(MethodUnion)[0])
    assert {section.model_fields["kind"].default for section in sections} == set(METHODS)


def test_sum_adds_both_losses_at_every_step() -> None:
    assert {method_of("sum").objective(k) for k in range(5)} == {Objective(1.0, 1.0)}
    assert method_of("sum", "mu=0.3").objective(7) == Objective(1.0, 0.3)


def test_alternate_takes_turns_with_a_rate_of_its_own() -> None:
    built = method_of("alternate", "sft_lr_scale=10")
    assert built.objective(0) == built.objective(4) == Objective(1.0, 0.0)
    assert built.objective(1) == built.objective(5) == Objective(0.0, 1.0, lr_scale=10.0)


def test_a_step_needs_only_what_has_a_weight() -> None:
    both, rollouts, shown = Needs(True, "next"), Needs(True, "none"), Needs(False, "next")
    assert method_of("sum").needs(0) == both
    assert method_of("rl").needs(0) == rollouts
    assert method_of("sft").needs(0) == shown
    assert [method_of("alternate").needs(k) for k in range(3)] == [rollouts, shown, rollouts]


def reference_mu(step, warmup, decay, peak, valley):
    if step < warmup:
        return step / warmup * peak
    if step >= warmup + decay:
        return valley
    return (peak - valley) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / decay)) + valley


@pytest.mark.parametrize("warmup", [0, 10])
def test_chord_fades_mu_along_a_cosine(warmup: int) -> None:
    objective = method_of("chord", f"mu_warmup_steps={warmup}").objective
    for step in (0, 1, 5, 10, 60, 110, 199, 209, 210, 1000):
        mu = reference_mu(step, warmup, 200, 0.9, 0.05)
        got = objective(step)
        assert got.sft_weight == pytest.approx(mu, abs=1e-12)
        assert got.rl_weight == pytest.approx(1 - mu, abs=1e-12)
        assert got.terms == (DemonstrationTerm("nll"),)
    assert objective(warmup).sft_weight == pytest.approx(0.9)


def test_chord_phi_has_the_papers_constant_mu() -> None:
    objective = method_of("chord", "phi=true").objective
    for step in (0, 100, 500):
        assert objective(step) == Objective(0.9, 0.1, terms=(DemonstrationTerm("phi"),))
