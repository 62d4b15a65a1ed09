"""The meta-controller: versions, skips with a reason, clipping, state."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from coop_rl.config import RunConfig, load_config
from coop_rl.errors import VersionError
from coop_rl.learner.meta_controller import MetaController
from coop_rl.models import Adapter
from coop_rl.types import (
    AdapterGradients,
    CooperativeGain,
    GuidanceUpdate,
    LookaheadProducts,
    PolicyVersion,
    SkipReason,
    StepResult,
)
from tests.observability.records import GAIN, result

SHAPES = {"layer": (6, 5)}
USABLE = GAIN
NOT_USABLE = replace(USABLE, value=None, stderr=None, ess=0.1, is_usable=False)


def w_of(meta: MetaController) -> torch.Tensor:
    assert meta.adapter is not None
    return meta.adapter.flatten()


def report(joint: AdapterGradients) -> StepResult:
    """The joint branch's step that the gradients stem from."""
    return replace(result("joint"), version=joint.version)


def update(
    meta: MetaController,
    gradients: tuple[AdapterGradients, AdapterGradients],
    gain: CooperativeGain | None,
) -> GuidanceUpdate:
    return meta.update(report(gradients[0]), *gradients, gain)


def controller(adapter: dict[str, Any] | None = None, **meta: Any) -> MetaController:
    config = RunConfig.model_validate(
        {
            "run": {"name": "t", "num_steps": 5},
            "model": {"path": "m"},
            "method": {"kind": "bridge", "mix": 0.5},
            "adapter": {"rank": 2, "alpha": 4, "lr": 1e-2, **(adapter or {})},
            "prompts": {"path": "p"},
            "demonstrations": {"path": "d"},
            "evaluation": {"data": {"path": "h"}},
            "meta": {"w_objective": "cooperative", **meta},
        }
    )
    return MetaController(config, Adapter(SHAPES, rank=2, alpha=4, seed=0))


def gradients(branch: Any, version: PolicyVersion, seed: int) -> AdapterGradients:
    g = torch.Generator().manual_seed(seed)

    def draw() -> dict[str, torch.Tensor]:
        return {
            "layer.lora_A": torch.randn(2, 5, generator=g),
            "layer.lora_B": torch.randn(6, 2, generator=g),
        }

    return AdapterGradients(branch, version, draw(), draw() if branch == "joint" else {})


def pair(theta: int, adapter: int) -> tuple[AdapterGradients, AdapterGradients]:
    version = PolicyVersion(theta, adapter)
    return gradients("joint", version, theta), gradients("shadow", version, theta + 100)


def test_an_update_moves_w_and_advances_the_version() -> None:
    meta = controller()
    taken = update(meta, pair(0, 0), USABLE)
    assert taken.skipped is SkipReason.NONE
    assert taken.update_norm > 0
    assert taken.version == PolicyVersion(1, 1)
    assert meta.version == 1


@pytest.mark.parametrize(
    ("options", "gain", "reason"),
    [
        ({}, NOT_USABLE, "low_ess"),
        ({"w_objective": "frozen"}, USABLE, "frozen"),
        ({"w_objective": "sft"}, NOT_USABLE, ""),
        ({"w_objective": "mixture"}, None, ""),
    ],
)
def test_skips_say_why_and_still_advance(options, gain, reason) -> None:
    meta = controller(**options)
    before = w_of(meta)
    taken = update(meta, pair(0, 0), gain)
    assert taken.skipped == reason
    assert torch.equal(before, w_of(meta)) is (reason != "")
    assert meta.version == 1


def test_non_finite_gradients_are_skipped() -> None:
    meta = controller()
    joint, shadow = pair(0, 0)
    joint.sft["layer.lora_A"][0, 0] = float("inf")
    assert update(meta, (joint, shadow), USABLE).skipped == "non_finite"
    assert bool(w_of(meta).isfinite().all())


def test_unequal_and_stale_versions_are_refused() -> None:
    meta = controller()
    joint, _ = pair(1, 0)
    _, late = pair(0, 0)
    with pytest.raises(VersionError, match="cannot be subtracted"):
        update(meta, (joint, late), USABLE)
    with pytest.raises(VersionError, match="the meta-controller is at 0"):
        update(meta, pair(1, 1), USABLE)


def test_saved_and_loaded_it_goes_on_bitwise(tmp_path: Path) -> None:
    one, other = controller(w_objective="random"), controller(w_objective="random")
    for k in range(3):
        update(one, pair(k, k), USABLE)
    one.save_state(tmp_path)
    other.load_state(tmp_path)
    for k in range(3, 6):
        update(one, pair(k, k), USABLE)
        update(other, pair(k, k), USABLE)
    assert torch.equal(w_of(one), w_of(other))
    assert other.version == 6


@pytest.mark.parametrize("limit", [None, 1e-3])
def test_a_longer_change_of_w_is_scaled_down_to_the_limit(limit: float | None) -> None:
    free, limited = controller(), controller({"max_update_norm": limit})
    first, second = (update(meta, pair(0, 0), USABLE) for meta in (free, limited))
    assert first.update_norm > 1e-2
    if limit is None:
        assert torch.equal(w_of(free), w_of(limited))
        return
    assert second.update_norm == pytest.approx(limit, rel=1e-4)
    start = w_of(controller())
    one, other = ((w_of(m) - start) / (w_of(m) - start).norm() for m in (free, limited))
    assert torch.allclose(one, other, atol=1e-3)


def test_w_has_a_rate_schedule_and_decay_of_its_own() -> None:
    still = controller({"warmup_steps": 4, "lr": 0.0})
    assert update(still, pair(0, 0), USABLE).update_norm == 0.0
    norms = []
    for options in ({}, {"warmup_steps": 4}, {"lr_schedule": "linear"}):
        meta = controller(options)
        norms.append([update(meta, pair(k, k), USABLE).update_norm for k in range(5)])
    plain, warmed, falling = norms
    assert warmed[0] == pytest.approx(plain[0] / 4, rel=1e-3)
    assert falling[0] == pytest.approx(plain[0], rel=1e-3)
    assert falling[4] < 0.3 * plain[4]
    decayed, kept = controller({"weight_decay": 10.0}), controller()
    for meta in (decayed, kept):
        update(meta, pair(0, 0), USABLE)
    assert w_of(decayed).norm() < w_of(kept).norm()


def test_without_w_only_the_scalars_move() -> None:
    config = load_config(Path("configs/local/demo.yaml"), ["meta.guidance=[mix]"])
    meta = MetaController(config, None)
    for products in ((), (("rl", 1.0), ("", 0.0))):
        step = replace(result("joint"), lookahead=LookaheadProducts(products))
        taken = meta.update(step, None, None, None)
    assert taken.guidance.mix > 0.5
    assert taken.update_norm == 0.0
    assert math.isnan(taken.adapter_norm)
