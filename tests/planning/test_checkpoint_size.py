"""What `plan` says of a checkpoint's size against its files, with all that learners keep."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.config import load_config
from coop_rl.config.sizes import has_adapter, has_shadow
from coop_rl.learner.build import build_policy
from coop_rl.learner.engine import EngineSettings
from coop_rl.learner.learner import Learner
from coop_rl.learner.meta_controller import MetaController, build_adapter
from coop_rl.learner.settings import LearnerSettings
from coop_rl.planning.memory import checkpoint_bytes
from coop_rl.planning.shape import shape_of
from coop_rl.types import (
    Branch,
    BranchBatch,
    Demonstration,
    DemonstrationTerm,
    Objective,
    TokenSample,
)
from tests.planning.measured import bytes_in
from tests.support.local_engine import LocalEngine

DEMO = Path(__file__).parents[2] / "configs/local/demo.yaml"
NUM_STEPS = 3
SAMPLES = [TokenSample((3, 4), (5, 6, 7), (-3.0,) * 3, 1.0 - 2.0 * (i % 2)) for i in range(8)]
OF_SOURCE = Objective(0.5, 0.5, terms=(DemonstrationTerm(share=1.0, source="demonstrations"),))


@pytest.mark.parametrize(
    ("overrides", "objective"),
    [
        ((), Objective(0.5, 0.5)),
        (("meta.guidance=[mix]",), OF_SOURCE),
        (("meta.guidance=[demonstrations]", "meta.per_example=true"), OF_SOURCE),
        (("method.kind=relift",), Objective(0.0, 1.0, has_second_optimizer=True)),
    ],
    ids=["two branches", "look-ahead", "single demonstrations", "second optimiser"],
)
def test_plan_knows_what_a_checkpoint_takes(
    tmp_path: Path, overrides: tuple[str, ...], objective: Objective
) -> None:
    config = load_config(DEMO, overrides)
    shown = [Demonstration(str(i), (3, 4), (5, 6, 7), "demonstrations") for i in range(4)]
    batch = BranchBatch((pack(SAMPLES, shown, PackShape(1, 4096), ("demonstrations",)),))
    branches: tuple[Branch, ...] = ("joint", "shadow") if has_shadow(config) else ("joint",)
    for branch in branches:
        policy, adapter = build_policy(config)
        engine = LocalEngine(policy, EngineSettings.from_config(config))
        learner = Learner(LearnerSettings.from_config(config), branch, engine, adapter)
        followed = (
            objective if branch == "joint" else replace(objective, rl_weight=1.0, sft_weight=0)
        )
        for step in range(NUM_STEPS):
            learner.step(step, batch, followed)
        learner.save_state(tmp_path)
    if config.method.is_guided:
        adapter = build_adapter(config, adapter.shapes, "cpu") if adapter else None
        assert (adapter is not None) == has_adapter(config)
        meta = MetaController(config, adapter)
        if adapter:
            meta._step({name: torch.ones_like(t) for name, t in adapter.tensors.items()}, 1.0, 0)
        meta.save_state(tmp_path)
    planned = checkpoint_bytes(config, shape_of(config.model.path))
    assert bytes_in(tmp_path) == pytest.approx(planned, rel=0.05)
