"""lambda and the demonstrations' weights: which step they listen to, their bounds, their state."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from coop_rl.algorithm.lookahead import example_derivatives, source_derivatives
from coop_rl.config import load_config
from coop_rl.learner.scalar_guidance import ScalarGuidance
from coop_rl.types import LookaheadProducts, PolicyVersion, StepResult
from tests.observability.records import result


def guidance(*overrides: str, sources: tuple[str, ...] = ("a", "b")) -> ScalarGuidance:
    return ScalarGuidance(load_config(Path("configs/local/demo.yaml"), overrides), sources)


def report(products: dict[str, float], examples: dict[str, float] | None = None) -> StepResult:
    measured = LookaheadProducts(tuple(products.items()), tuple((examples or {}).items()))
    return replace(result("joint"), lookahead=measured)


def test_what_is_not_named_stands_still() -> None:
    still = guidance()
    for _ in range(3):
        still.update(report({"rl": 1.0, "a": -1.0, "b": 2.0}))
    assert still.guidance.mix == 0.5
    assert still.guidance.source_weights == ()
    assert still.guidance.example_weights == ()


@pytest.mark.parametrize(("z_rl", "end"), [(1.0, 0.95), (-1.0, 0.05)])
def test_mix_follows_the_product_to_its_bounds(z_rl: float, end: float) -> None:
    moving = guidance("meta.guidance=[mix]")
    moving.update(report({}))
    assert moving.guidance.mix == 0.5
    moving.update(report({"rl": z_rl, "": 0.0}))
    assert moving.guidance.mix == pytest.approx(0.5 + 0.05 * z_rl)
    for _ in range(60):
        moving.update(report({"rl": z_rl, "": 0.0}))
    assert moving.guidance.mix == end


def test_mix_rises_only_as_far_as_rl_does_more_than_sft() -> None:
    moving = guidance("meta.guidance=[mix]")
    moving.update(report({}))
    moving.update(report({"rl": 1.0, "": 3.0}))
    assert moving.guidance.mix < 0.5


def test_a_harmful_source_loses_its_weight_but_keeps_the_floor() -> None:
    moving = guidance("meta.guidance=[demonstrations]", "meta.demonstrations_min=0.02")
    assert dict(moving.guidance.source_weights) == {"a": 0.5, "b": 0.5}
    for _ in range(200):
        moving.update(report({"rl": 0.0, "a": 1e-6, "b": -1e-6}))
    weights = dict(moving.guidance.source_weights)
    assert 0.02 < weights["b"] < 0.03
    assert sum(weights.values()) == pytest.approx(1.0)


def test_products_are_about_the_guidance_of_the_update_before() -> None:
    """Step k's products are about update k - 1, whose weights were those told before it."""
    moving = guidance("meta.guidance=[demonstrations]")
    told = []
    for step in range(4):
        told.append(dict(moving.guidance.source_weights))
        moving.update(report({"rl": 0.0, "a": 1.0, "b": -0.5}) if step else report({}))
    before = moving.state()["before"]["logits"]
    now = moving.state()["now"]["logits"]
    want = source_derivatives({"a": 1.0, "b": -0.5}, before, 0.5, 0.01)
    assert told[0] == told[1] == {"a": 0.5, "b": 0.5}
    assert told[3]["a"] > told[2]["a"] > 0.5
    assert before != now
    assert want["a"] > 0 > want["b"]


def test_not_a_number_moves_nothing() -> None:
    moving = guidance("meta.guidance=[mix,demonstrations]")
    moving.update(report({}))
    moving.update(report({"rl": float("nan"), "a": 1.0, "b": float("nan")}))
    assert moving.guidance.mix == 0.5
    assert dict(moving.guidance.source_weights) == {"a": 0.5, "b": 0.5}


def test_single_demonstrations_move_against_each_other() -> None:
    moving = guidance("meta.guidance=[demonstrations]", "meta.per_example=true")
    moving.update(report({}))
    slopes = {"x": 3e-5, "y": -1e-5, "z": -2e-5}
    moving.update(report({"rl": 0.0, "a": 0.0, "b": 0.0}, slopes))
    weights = dict(moving.guidance.example_weights)
    want = example_derivatives(slopes, dict.fromkeys(slopes, 0.0))
    assert sorted(weights, key=weights.__getitem__) == sorted(want, key=want.__getitem__)
    assert weights["x"] > 1 > weights["y"] > weights["z"]


def test_state_survives_json_bit_for_bit() -> None:
    overrides = ("meta.guidance=[mix,demonstrations]", "meta.per_example=true")
    whole, resumed = guidance(*overrides), guidance(*overrides)
    steps = [
        report({"rl": 0.3 * k, "a": 0.1, "b": -0.2 / (k + 1)}, {f"d{k}": 0.1, "e": -0.3})
        for k in range(6)
    ]
    for step in steps[:3]:
        whole.update(step)
    resumed.load_state(json.loads(json.dumps(whole.state())))
    for step in steps[3:]:
        whole.update(step)
        resumed.update(step)
    assert resumed.guidance == whole.guidance
    assert resumed.state() == whole.state()


def test_the_placebo_moves_as_far_but_not_towards_what_helps() -> None:
    """Measured, one source wins everything; dealt at random, runs end on either side."""
    ends = []
    for seed in range(12):
        moving = guidance(
            "meta.guidance=[demonstrations]", "meta.lookahead=placebo", f"run.seed={seed}"
        )
        for step in range(40):
            version = PolicyVersion(step, 0)
            moving.update(replace(report({"rl": 0.0, "a": 1e-6, "b": -1e-6}), version=version))
        ends.append(dict(moving.guidance.source_weights)["a"])
    assert min(ends) < 0.4
    assert max(ends) > 0.6


def test_a_step_that_moves_theta_far_does_not_outweigh_the_later_ones() -> None:
    """AdamW's first steps are tenfold; what they say counts as much as what others say."""
    moving, same = guidance("meta.guidance=[mix]"), guidance("meta.guidance=[mix]")
    for size in (10.0, 5.0, 1.0, 0.1):
        products = report({"rl": -0.3 * size, "": 0.1 * size})
        scaled = replace(products.lookahead, scale=size)
        moving.update(replace(products, lookahead=scaled))
        same.update(report({"rl": -0.3, "": 0.1}))
    assert moving.guidance.mix == pytest.approx(same.guidance.mix, rel=1e-12)


def test_a_batch_without_an_rl_gradient_moves_nothing() -> None:
    still = guidance("meta.guidance=[mix]")
    still.update(report({"rl": 1.0, "": 0.0}))
    before = still.guidance.mix
    silent = replace(report({"rl": 0.0, "": 0.0}).lookahead, scale=0.0)
    still.update(replace(report({}), lookahead=silent))
    assert still.guidance.mix == before != 0.5
