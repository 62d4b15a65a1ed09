"""The meta-controller: versions, skips with a reason, clipping, state."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from coop_rl.config import RunConfig
from coop_rl.errors import VersionError
from coop_rl.learner.meta_controller import MetaController
from coop_rl.models import Adapter
from coop_rl.types import AdapterGradients, CooperativeGain, PolicyVersion

SHAPES = {"layer": (6, 5)}
USABLE = CooperativeGain(0.1, 0.01, 0.9, 1.0, 0.0, 0.01, is_usable=True)
NOT_USABLE = replace(USABLE, value=None, stderr=None, ess=0.1, is_usable=False)


def controller(**meta: Any) -> MetaController:
    config = RunConfig.model_validate(
        {
            "run": {"name": "t", "num_steps": 5},
            "model": {"path": "m"},
            "method": {"kind": "bridge", "mix": 0.5},
            "adapter": {"rank": 2, "alpha": 4, "lr": 1e-2},
            "prompts": {"path": "p"},
            "demonstrations": {"path": "d"},
            "evaluation": {"data": {"path": "h"}},
            "meta": meta,
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
    return gradients("joint", version, theta), gradients("rl_only", version, theta + 100)


def test_an_update_moves_w_and_advances_the_version() -> None:
    meta = controller()
    update = meta.update(*pair(0, 0), USABLE)
    assert update.skipped == ""
    assert update.update_norm > 0
    assert update.version == PolicyVersion(1, 1)
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
    before = meta.adapter.flatten()
    update = meta.update(*pair(0, 0), gain)
    assert update.skipped == reason
    assert torch.equal(before, meta.adapter.flatten()) is (reason != "")
    assert meta.version == 1


def test_non_finite_gradients_are_skipped() -> None:
    meta = controller()
    joint, shadow = pair(0, 0)
    joint.sft["layer.lora_A"][0, 0] = float("inf")
    assert meta.update(joint, shadow, USABLE).skipped == "non_finite"
    assert bool(meta.adapter.flatten().isfinite().all())


def test_unequal_and_stale_versions_are_refused() -> None:
    meta = controller()
    joint, _ = pair(1, 0)
    _, late = pair(0, 0)
    with pytest.raises(VersionError, match="cannot be subtracted"):
        meta.update(joint, late, USABLE)
    with pytest.raises(VersionError, match="the meta-controller is at 0"):
        meta.update(*pair(1, 1), USABLE)


def test_saved_and_loaded_it_goes_on_bitwise(tmp_path: Path) -> None:
    one, other = controller(w_objective="random"), controller(w_objective="random")
    for k in range(3):
        one.update(*pair(k, k), USABLE)
    one.save_state(tmp_path)
    other.load_state(tmp_path)
    for k in range(3, 6):
        one.update(*pair(k, k), USABLE)
        other.update(*pair(k, k), USABLE)
    assert torch.equal(one.adapter.flatten(), other.adapter.flatten())
    assert other.version == 6
