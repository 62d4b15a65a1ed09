"""DeepSpeed at stages 0-3, 1 and 2 ranks, against plain torch (docs/algorithm.md 9: 2, 5, 8)."""

import math
from functools import cache
from typing import Any

import pytest
import torch

from coop_rl.learner.learner import Learner
from tests.learner.engine_scenes import same
from tests.learner.scenes import (
    LEARNER,
    build_policy,
    exact_local_learner,
    fp64_gradients,
    local_engine,
    local_learner,
    record_exact_steps,
    record_steps,
)
from tests.learner.worlds import EXACT_TWICE, LIMIT_OF_ALL_S, STAGES, cases

pytestmark = pytest.mark.timeout(LIMIT_OF_ALL_S)
SCALARS = (
    "rl_loss",
    "sft_loss",
    "entropy",
    "mismatch_kl",
    "grad_norm",
    "rl_norm",
    "sft_norm",
    "cosine",
)


# The same for every world and stage.
plain_steps = cache(lambda **options: record_steps(local_learner(**options), 3))
plain_exact_steps = cache(lambda branch: record_exact_steps(exact_local_learner(branch))["steps"])


def assert_same_run(
    got: dict[str, Any], expected: dict[str, Any], exact: dict[str, dict[str, torch.Tensor]]
) -> None:
    """Gradients to 1e-6, parameters after three steps to 1e-5 (relative to each tensor's size).

    Gradients are held against fp64: plain torch in fp32 is off by 7e-7 itself, so that two right
    results may be further apart than 1e-6.
    """
    for part, tensors in exact.items():
        scale = max(float(t.abs().max()) for t in tensors.values())
        for name, tensor in tensors.items():
            error = float((got["steps"][0][part][name] - tensor).abs().max())
            assert error <= 1e-6 * scale, (part, name, error, scale)
    for index, (a, b) in enumerate(zip(got["steps"], expected["steps"], strict=True)):
        for name in SCALARS:
            # Later steps start from parameters that differ in the last bits.
            tolerance = 1e-6 if index == 0 else 1e-4
            assert a[name] == pytest.approx(b[name], rel=tolerance, abs=tolerance), (index, name)
        assert a["log_ratio_N"] == pytest.approx(b["log_ratio_N"], rel=1e-4, abs=1e-4)
        assert a["is_applied"]
    assert got["parameters"].keys() == expected["parameters"].keys()
    for name, tensor in expected["parameters"].items():
        error = float((got["parameters"][name] - tensor).abs().max() / tensor.abs().max())
        assert error <= 1e-5, (name, error)


@pytest.mark.parametrize(("world_size", "stage"), cases(STAGES, light=True))
def test_every_stage_takes_the_steps_of_plain_torch(recorded, world_size, stage) -> None:
    got = recorded[world_size][f"steps-{stage}"]
    assert_same_run(got, plain_steps(), fp64_gradients())


@pytest.mark.parametrize("is_tied", [True, False])  # in fp32, and in bf16
def test_zero_3_splits_a_model_while_it_is_read(recorded, is_tied) -> None:
    found = recorded[2][f"partitioned-3-{is_tied}"]
    assert found["covers"]
    whole, split = found["runs"]
    for ours, loaded in zip(split["steps"], whole["steps"], strict=True):
        assert all(same(ours[name], loaded[name]) for name in ("w_rl", "w_sft"))
        assert [ours[name] for name in SCALARS] == [loaded[name] for name in SCALARS]
    assert same(split["parameters"], whole["parameters"])
    # Its parts, and of the largest weight what was read, what is cut, and one in each of gloo's two
    # threads, which let go of what they sent whenever they get to run.
    assert found["peak"] <= found["parts"] + 4 * found["largest"]


@pytest.mark.parametrize(("world_size", "stage"), cases(STAGES))
@pytest.mark.parametrize(
    ("branch", "is_checkpointed"),
    [
        ("joint", True),
        ("shadow", False),
        *(pytest.param(*pair, marks=pytest.mark.prove) for pair in EXACT_TWICE),
    ],
)
def test_five_steps_agree_in_losses_and_gradients(
    recorded, world_size, stage, branch, is_checkpointed
) -> None:
    """Losses to 1e-5, gradients of theta and w to 1e-6 of their norm, and as much for each step
    before, whose rounding theta carries on."""
    got = recorded[world_size][f"exact-{stage}-{branch}-{is_checkpointed}"]["steps"]
    expected = plain_exact_steps(branch)
    names = SCALARS if branch == "joint" else ("rl_loss", "entropy", "mismatch_kl", "grad_norm")
    for index, (a, b) in enumerate(zip(got, expected, strict=True)):
        for name in names:
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-7), (index, name)
        for part in ("theta", "w_rl", *(["w_sft"] if branch == "joint" else [])):
            assert a[part].keys() == b[part].keys()
            ours, theirs = (torch.cat([t.flatten() for t in s[part].values()]) for s in (a, b))
            limit = 1e-6 * (index + 1)
            assert (ours - theirs).norm() <= limit * theirs.norm(), (index, part)


@pytest.mark.parametrize(("world_size", "stage"), cases([2, 3]))
def test_so_it_does_untied_and_with_recomputed_activations(recorded, world_size, stage) -> None:
    got = recorded[world_size][f"untied-checkpointed-{stage}"]
    assert_same_run(got, plain_steps(is_tied=False), fp64_gradients(is_tied=False))


@pytest.mark.parametrize(
    ("world_size", "scene"),
    cases([*(f"replay-{s}" for s in STAGES), "replay-persistent-3"], light=True),
)
def test_exported_state_replays_bit_for_bit(recorded, world_size, scene) -> None:
    got = recorded[world_size][scene]
    assert got["is_back"]
    assert got["replays"] == [True, True], "same engine, fresh engine"
    assert got["state"]["num_steps"].item() == 1


@pytest.mark.parametrize(("world_size", "stage"), cases(STAGES, light=True))
def test_state_written_by_one_world_fits_every_other(recorded, world_size, stage) -> None:
    learner = local_learner()
    state = recorded[world_size][f"replay-{stage}"]["state"]
    learner.engine.import_state(iter(state.items()))
    assert all(torch.equal(t, state[key]) for key, t in learner.engine.export_state())


@pytest.mark.parametrize(("world_size", "stage"), cases(STAGES))
def test_nan_on_one_rank_skips_everywhere_and_leaves_no_trace(recorded, world_size, stage) -> None:
    got = recorded[world_size][f"non_finite-{stage}"]
    assert got == {"is_applied": False, "is_unchanged": True, "recovers": True, "theta": 2}


@pytest.mark.parametrize(("world_size", "stage"), cases(STAGES))
@pytest.mark.parametrize("copies_moments", [False, True])
def test_resync_makes_the_shadow_an_rl_step_from_theta(
    recorded, world_size, stage, copies_moments
) -> None:
    got = recorded[world_size][f"resync-{stage}-{copies_moments}"]
    assert got["is_rl_step_from_theta"]
    assert got["gradients_are_before_resync"]
    assert got["left_over"] == 0


@pytest.mark.parametrize(("world_size", "stage"), cases(STAGES))
def test_equal_parameters_give_bitwise_equal_brackets(recorded, world_size, stage) -> None:
    assert recorded[world_size][f"equal_branches-{stage}"] is True


@pytest.mark.parametrize(("world_size", "stage"), cases([2, 3]))
def test_saved_state_loads_into_a_fresh_learner(recorded, world_size, stage) -> None:
    assert recorded[world_size][f"save-{stage}"] == {"is_same": True, "version": (2, 0)}


@pytest.mark.parametrize(("world_size", "scene"), cases(["moved-3"]))
def test_a_saved_state_moves_to_other_ranks_and_stages_bit_for_bit(
    recorded, world_size, scene
) -> None:
    """From one plain rank to the world's at stages 2, 0, 1, 3, and back; each wrote its share."""
    got = recorded[world_size][scene]
    assert got["is_same"] == [True] * 5
    names = ["joint", *(f"joint-rank-{rank}" for rank in range(1, world_size))]
    assert sorted(got["bytes"]) == names
    assert max(got["bytes"].values()) < 1.1 * sum(got["bytes"].values()) / world_size


@pytest.mark.parametrize(("world_size", "stage"), cases([0, 2, 3]))
def test_bfloat16_keeps_fp32_masters(recorded, world_size, stage) -> None:
    got = recorded[world_size][f"bfloat16-{stage}"]
    policy, adapter = build_policy()
    plain = Learner(LEARNER, "joint", local_engine(policy.bfloat16()), adapter)
    reference = record_steps(plain, 1)
    a, b = got["steps"][0], reference["steps"][0]
    assert a["cosine"] == pytest.approx(b["cosine"], abs=0.05)
    assert a["rl_norm"] == pytest.approx(b["rl_norm"], rel=0.05)
    assert got["replay"]["is_back"]
    assert got["replay"]["replays"] == [True, True]
    weight = got["parameters"]["model.layers.0.mlp.up_proj.weight"]
    assert weight.dtype == torch.float32
    assert not torch.equal(weight, weight.bfloat16().float())


@pytest.mark.parametrize(("world_size", "stage"), cases([0, 3]))
def test_score(recorded, world_size, stage) -> None:
    rows = [((3, 4), (5, 6, 7)), ((8,), (9,))]
    expected = local_learner().score(rows)
    for got, row in zip(recorded[world_size][f"score-{stage}"], expected, strict=True):
        assert got == pytest.approx(row, abs=1e-5)
        assert all(math.isfinite(value) for value in got)
