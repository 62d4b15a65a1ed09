"""What the learner asks of an engine besides plain steps: DeepSpeed at every stage as plain torch.

Gradients dropped in the middle of a step, several optimiser steps, look-ahead, shifted parameters,
a second optimiser state, moments moved away (docs/algorithm.md sections 3, 5 and 8, item 5).
"""

import math
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from coop_rl.config import load_config
from coop_rl.learner.engine import NamedTensors, StepStats
from coop_rl.learner.groups import RESYNC_GROUP
from coop_rl.learner.learner import Learner
from coop_rl.learner.settings import LearnerSettings
from coop_rl.models import PolicyModel
from coop_rl.types import Branch, LookaheadProducts
from tests.learner.engine_scenes import (
    BY_SOURCE,
    FILED,
    PLAIN,
    RECORDED,
    batches_by_source,
    build_local,
    guided,
)
from tests.learner.gain_scenes import FILED as GAIN_FILED
from tests.learner.gain_scenes import close_branches
from tests.learner.scenes import (
    ENGINE,
    LEARNER,
    RL_ONLY,
    Pipe,
    build_batch,
    build_policy,
    one_step,
)
from tests.learner.worlds import LIMIT_OF_ALL_S, STAGES, cases
from tests.main_job.harness import DEMO
from tests.support.local_engine import LocalEngine

pytestmark = pytest.mark.timeout(LIMIT_OF_ALL_S)
COUNTED = ("forward_tokens", "backward_tokens")
LOOKAHEAD = ("components", "examples")
SIXTEEN_BITS = [f"{stage}-bfloat16" for stage in (0, 2, 3)]
every_stage = pytest.mark.parametrize(("world_size", "stage"), cases(STAGES))


@cache
def plain(name: str) -> dict[str, Any]:
    """What plain torch does in a scene."""
    if name in PLAIN:
        return dict(PLAIN[name](build_local))
    with tempfile.TemporaryDirectory() as folder:
        return dict((FILED | GAIN_FILED)[name](build_local, Path(folder)))


def distance(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Norm of the difference over all tensors, relative."""
    assert got.keys() == expected.keys()
    flat, wanted = (torch.cat([d[name].flatten() for name in expected]) for d in (got, expected))
    return float((flat - wanted).norm() / wanted.norm())


def assert_same_steps(
    got: list[dict[str, Any]], expected: list[dict[str, Any]], tolerance: float
) -> None:
    """Exact counts; 1e-6 at the first step, `tolerance` afterwards, where parameters differ."""
    for index, (a, b) in enumerate(zip(got, expected, strict=True)):
        allowed = 1e-6 if index == 0 else tolerance
        for name in (n for n in RECORDED if n not in LOOKAHEAD):
            if name in COUNTED:
                assert a[name] == b[name], (index, name)
                continue
            assert a[name] == pytest.approx(b[name], rel=allowed, abs=allowed, nan_ok=True), (
                index,
                name,
            )
        for part, gradients in b["w"].items():
            if gradients:
                assert distance(a["w"][part], gradients) <= allowed, (index, part)


@pytest.mark.parametrize(
    ("world_size", "case"), cases([*map(str, STAGES), *SIXTEEN_BITS, "3-grouped"])
)
def test_moments_lie_where_the_gradients_do(recorded, world_size, case) -> None:
    """Part by part; over all ranks every value occurs once, and their squares sum to the norm's."""
    got = recorded[world_size][f"alignment-{case}"]
    assert got["error"] <= 1e-6
    assert got["squares"][0] == pytest.approx(got["squares"][1], rel=1e-5)
    assert got["counts"][0] == got["counts"][1] > 0
    assert got["once"] <= 1e-6
    assert got["num_updates"] == 2
    if case.endswith("grouped"):
        assert got["parts"] > 1


@pytest.mark.parametrize(("world_size", "case"), cases([*map(str, STAGES), *SIXTEEN_BITS]))
def test_a_dropped_gradient_leaves_no_trace(recorded, world_size, case) -> None:
    assert recorded[world_size][f"dropped_gradient-{case}"] <= 1e-6


@every_stage
@pytest.mark.parametrize("scene", ["own_bracket", "fresh_bracket"])
def test_a_bracket_with_a_pass_of_its_own(recorded, world_size, stage, scene) -> None:
    got, expected = recorded[world_size][f"{scene}-{stage}"], plain(scene)
    assert_same_steps(got["steps"], expected["steps"], 1e-4)
    assert distance(got["parameters"], expected["parameters"]) <= 1e-5


@every_stage
def test_minibatches_and_epochs_with_kl_and_entropy(recorded, world_size, stage) -> None:
    got, expected = recorded[world_size][f"minibatches-{stage}"], plain("minibatches")
    assert 0.0 < expected["steps"][0]["clip_fraction"] < 1.0
    assert not math.isnan(expected["steps"][0]["kl_ref"])
    # The first meta-step has four updates already.
    for a, b in zip(got["steps"], expected["steps"], strict=True):
        assert distance(a["w"]["rl"], b["w"]["rl"]) <= 1e-4
        assert distance(a["w"]["sft"], b["w"]["sft"]) <= 1e-4
        for name in (n for n in RECORDED if n not in LOOKAHEAD):
            assert a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-4), name
    assert distance(got["parameters"], expected["parameters"]) <= 1e-5


@every_stage
def test_the_one_step_shadow_at_every_stage(recorded, world_size, stage) -> None:
    got, expected = recorded[world_size][f"one_step_shadow-{stage}"], plain("one_step_shadow")
    assert got["is_loaded"]
    assert expected["is_loaded"]
    assert [len(values) for values in got["log_ratios"]] == [0, 7, 7, 7]
    for ours, theirs in zip(got["log_ratios"], expected["log_ratios"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize(("world_size", "stage"), cases([0, 2, 3]))
def test_a_bracket_that_bf16_hides_is_taken_over_a_longer_way(recorded, world_size, stage) -> None:
    """Against fp32: the plain difference of bf16 gradients is noise, the longer way is not."""
    true = close_branches(build_local, amplifies=False)["bracket"]
    plain_bf16, longer = (
        recorded[world_size][f"close_branches-{stage}-{amplifies}"] for amplifies in (False, True)
    )
    assert not longer["first"].any()  # theta-hat = theta
    assert longer["left_over"] == 0
    assert longer["amplification"] > 3.0
    assert longer["differing"] > 0.3
    cosines = [
        float(torch.nn.functional.cosine_similarity(true, got["bracket"], dim=0))
        for got in (plain_bf16, longer)
    ]
    print(stage, world_size, cosines, float(longer["bracket"].norm() / true.norm()))
    assert cosines[0] < 0.5
    assert cosines[1] > 0.8


@every_stage
@pytest.mark.parametrize("scene", ["lookahead_clipped", "lookahead_free"])
def test_lookahead_products(recorded, world_size, stage, scene) -> None:
    """Of the updates of steps 1 to 4, by component and by demonstration."""
    got, expected = recorded[world_size][f"{scene}-{stage}"], plain(scene)
    for index, (a, b) in enumerate(zip(got["steps"], expected["steps"], strict=True)):
        ours, theirs = dict(a["components"]), dict(b["components"])
        assert list(ours) == (["rl", "a", "b"] if index >= 2 else [])
        assert_close(ours, theirs, 1e-4)
        ours, theirs = dict(a["examples"]), dict(b["examples"])
        has_examples = index >= 2 and scene == "lookahead_clipped"
        assert sorted(ours) == ([str(i) for i in range(5)] if has_examples else [])
        assert_close(ours, theirs, 1e-2)
    assert distance(got["parameters"], expected["parameters"]) <= 1e-5


def assert_close(got: dict[str, float], expected: dict[str, float], tolerance: float) -> None:
    """Equal relative to the largest value."""
    assert got.keys() == expected.keys()
    scale = max(map(abs, expected.values()), default=0.0)
    for name, value in expected.items():
        assert abs(got[name] - value) <= tolerance * scale, (name, got, expected)


@every_stage
def test_lookahead_survives_a_checkpoint(recorded, world_size, stage) -> None:
    assert recorded[world_size][f"lookahead_clipped-{stage}"]["is_resumed"]


@pytest.mark.parametrize(
    ("world_size", "case"), cases([*map(str, STAGES), *SIXTEEN_BITS, "3-grouped", "3-persistent"])
)
def test_shifted_parameters_come_back_bitwise(recorded, world_size, case) -> None:
    got = recorded[world_size][f"shifted-{case}"]
    assert got["error"] <= 1e-6
    assert got["has_moved"]
    assert got["is_back"]
    tolerance = 0.05 if case in SIXTEEN_BITS else 1e-5
    for ours, theirs in zip(got["scores"], plain("shifted")["scores"], strict=True):
        assert ours == pytest.approx(theirs, rel=tolerance)


@every_stage
def test_second_optimizer_state(recorded, world_size, stage) -> None:
    """Steps with it leave the main moments alone, and a checkpoint holds both."""
    got = recorded[world_size][f"second_optimizer-{stage}"]
    flags = ("is_kept", "has_moved", "is_undisturbed", "is_loaded", "replays")
    assert {name: got[name] for name in flags} == dict.fromkeys(flags, True)
    assert got["num_updates"] == (1, 2)
    expected = plain("second_optimizer")
    assert_same_steps(got["steps"], expected["steps"], 1e-4)
    assert distance(got["parameters"], expected["parameters"]) <= 1e-5
    assert distance(got["second"], expected["second"]) <= 1e-5


@every_stage
def test_moments_moved_away_between_steps(recorded, world_size, stage) -> None:
    got = recorded[world_size][f"offloaded-{stage}"]
    if stage in (1, 2):
        assert "shadow.offload needs learner.zero_stage 0 or 3" in got["refusal"]
    else:
        assert got == {"is_same": True}


def test_lookahead_of_fewer_ranks_is_passed_over(tmp_path: Path) -> None:
    learner, fresh = guided(build_local, 0.5), guided(build_local, 0.5)
    *earlier, last = batches_by_source(1, 3)
    for step, batch in enumerate(earlier):
        learner.step(step, batch, BY_SOURCE)
    learner.save_state(tmp_path)
    fresh.engine.rank, fresh.engine.world_size = 1, 2
    fresh.load_state(tmp_path)
    fresh.engine.rank, fresh.engine.world_size = 0, 1
    assert learner.step(2, last, BY_SOURCE)[0].lookahead.components != ()
    assert fresh.step(2, last, BY_SOURCE)[0].lookahead == LookaheadProducts()


class AwareEngine(LocalEngine):
    """Knows where the moments were sent, and minds their use elsewhere than on the device."""

    def __init__(self, module: PolicyModel) -> None:
        super().__init__(module, ENGINE)
        # Another name than the host's.
        self.device = torch.device("cpu", 0)
        self.are_away = False
        self.num_moves = 0
        self.seen: list[bool] = []
        """Whether they were away, in each backward pass."""

    def offload_moments(self, device: torch.device) -> None:
        self.are_away = device == torch.device("cpu")
        self.num_moves += 1

    def backward(self, loss: torch.Tensor) -> None:
        self.seen.append(self.are_away)
        super().backward(loss)

    def step(self, lr: float) -> StepStats:
        assert not self.are_away
        return super().step(lr)

    def export_state(self) -> NamedTensors:
        assert not self.are_away
        yield from super().export_state()

    def import_state(self, tensors: NamedTensors) -> None:
        assert not self.are_away
        super().import_state(tensors)


@pytest.mark.parametrize("branch", ["joint", "shadow"])
def test_moments_are_away_but_for_updates_and_states(tmp_path: Path, branch: Branch) -> None:
    policy, adapter = build_policy()
    engine = AwareEngine(policy)
    settings = replace(LEARNER, offloaded=frozenset({branch}), copies_moments=True)
    learner = Learner(settings, branch, engine, adapter)
    for step in range(2):
        learner.step(step, one_step(build_batch(step, 1)), RL_ONLY)
    first, *_, last = engine.seen
    assert (first, last) == (False, True)  # before the first update there are none
    pipe = Pipe()

    def send() -> None:
        learner.attach_group(RESYNC_GROUP, pipe.sender())
        learner.send_state(has_gradient=False)

    def receive() -> None:
        learner.attach_group(RESYNC_GROUP, pipe.receiver())
        learner.receive_state()

    for action in (
        lambda: learner.save_state(tmp_path),
        lambda: learner.load_state(tmp_path),
        send,
        receive,
    ):
        assert engine.are_away
        action()
    assert engine.are_away
    assert engine.num_moves == 2 * 2 + 4 * 2


@pytest.mark.parametrize(
    ("override", "branches"),
    [
        ("shadow.offload=true", {"shadow"}),
        ("learner.offload=true", {"joint", "shadow"}),
        ("learner.offload=false", set()),
    ],
)
def test_which_branches_moments_are_away(override: str, branches: set[str]) -> None:
    config = load_config(DEMO, ["learner.zero_stage=3", override])
    assert LearnerSettings.from_config(config).offloaded == branches
