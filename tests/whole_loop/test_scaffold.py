"""The scaffold: what w may touch, what moves it, and how second tries enter theta's loss."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from coop_rl.algorithm.packing import PackShape, pack, pack_scaffold
from coop_rl.algorithm.scaffold import has_right, splice
from coop_rl.types import BranchBatch, Objective, TokenSample
from tests.whole_loop.branches import build_branches, build_learner
from tests.whole_loop.rig import Run, configure, start
from tests.whole_loop.toy import make_task

TASK = make_task(6, 1)
GUIDED = ("meta.guidance=[scaffold]", "adapter.lr=0.05")
LSPO = ("method.kind=lspo", "adapter.lr=0.1")
SHAPE = PackShape(num_ranks=1, micro_batch_tokens=64)


def run_of(folder: Path, *overrides: str) -> Run:
    return start(configure("run.num_steps=10", "prompts.per_step=6", *overrides), folder, TASK)


@pytest.mark.parametrize("kind", [GUIDED, LSPO], ids=["guided", "lspo"])
def test_theta_is_bitwise_what_it_is_without_an_adapter(
    tmp_path: Path, kind: tuple[str, ...]
) -> None:
    run = run_of(tmp_path, *kind)
    begun = build_branches(run.config, TASK).joint.adapter
    assert begun is not None
    assert run.branches.joint.adapter is not None
    assert run.branches.joint.adapter.norm() > begun.norm()
    rl = "grpo" if kind == LSPO else "reweighted"
    plain, _ = build_learner(configure("method.kind=sum", f"method.rl={{kind: {rl}}}"), "joint")
    assert plain.adapter is None
    for record in run.records:
        batch = replace(record.batch, scaffold=None)
        result, _ = plain.step(record.step, batch, record.objective)
        assert result.samples == record.joint.samples
        assert result.updates == record.joint.updates
    ours = run.branches.theta()
    theirs = dict(plain.engine.full_parameters())
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_w_is_fitted_to_demonstrations_of_failed_prompts_and_to_nothing_else(
    tmp_path: Path,
) -> None:
    run = run_of(tmp_path, *GUIDED)
    moved = run.column("guidance/update_norm")
    for record, row in zip(run.records, run.rows, strict=True):
        groups = record.sampled.groups
        failed = {group.prompt.id for group in groups if not has_right(group)}
        assert {d.id for d in record.second.demonstrations} == failed
        assert {group.prompt.id for group in record.second.groups} == failed
        shown = record.batch.scaffold
        assert set(shown.ids if shown else ()) == failed
        assert (moved[record.step] > 0) == bool(failed)
        assert row.get("guidance/skipped_nothing_failed", 0) == (not failed)


def test_its_gradient_is_that_of_the_demonstrations_nll_at_theta_and_w() -> None:
    learner, policy = build_learner(configure(*GUIDED), "joint")
    adapter = learner.adapter
    assert adapter is not None
    adapter.load_flat(torch.randn(adapter.numel(), generator=torch.Generator().manual_seed(1)) / 3)
    shown = TASK.demonstrations[:3]
    sample = TokenSample((1, 3), (4, 0), (-2.0, -2.0), 1.0)
    batch = pack([sample], [], SHAPE)
    packed = BranchBatch((batch,), scaffold=pack_scaffold(shown, SHAPE))
    before = dict(learner.engine.full_parameters())
    before = {name: value.clone() for name, value in before.items()}
    with adapter.switched_on():
        losses = [
            -policy.causal_lm(torch.tensor([d.prompt_ids + d.response_ids]))
            .logits.log_softmax(-1)[0, len(d.prompt_ids) - 1 : -1]
            .gather(1, torch.tensor(d.response_ids)[:, None])
            .sum()
            for d in shown
        ]
        loss = torch.stack(losses).sum() / sum(len(d.response_ids) for d in shown)
        expected = torch.autograd.grad(loss, list(adapter.tensors.values()))
    _, got = learner.step(0, packed, Objective(rl_weight=1.0, sft_weight=0.0))
    assert got is not None
    assert not got.rl
    assert not got.bracket
    for value, name in zip(expected, adapter.tensors, strict=True):
        torch.testing.assert_close(got.sft[name], value, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", [GUIDED, LSPO], ids=["guided", "lspo"])
def test_second_tries_bring_their_probability_and_are_weighed_back_with_a_cap(
    tmp_path: Path, kind: tuple[str, ...]
) -> None:
    cap, rl = 1.01, "method.rl={kind: reweighted, ratio_cap: 1.01}"
    run = run_of(tmp_path, *kind, rl)
    has_second = is_capped = False
    for record in run.records:
        groups = splice(record.sampled.groups, record.second)
        if kind == LSPO:
            groups = [
                _right_tries(g, s) for g, s in zip(record.sampled.groups, groups, strict=True)
            ]
        assert all(len(group.rollouts) == 4 for group in groups)
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        log_ratio_N = record.joint.samples.log_ratio_N
        loss = num_tokens = 0.0
        for index, group in enumerate(groups):
            values = torch.tensor([r.value for r in group.rewards], dtype=torch.float64)
            advantages = (values - values.mean()) / (values.std(unbiased=False) + 1e-6)
            for place, rollout in enumerate(group.rollouts):
                log_ratio = log_ratio_N[4 * index + place]
                log_prob = sum(rollout.behaviour_log_probs) + log_ratio
                loss -= min(math.exp(log_ratio), cap) * float(advantages[place]) * log_prob
                num_tokens += len(rollout.token_ids)
        assert record.joint.means.rl_loss == pytest.approx(loss / num_tokens, rel=1e-3, abs=1e-6)
        second = [r for group in record.second.groups for r in group.rollouts]
        for ratio, rollout in zip(log_ratio_N, rollouts, strict=True):
            if rollout in second:
                has_second = True
                is_capped |= math.exp(ratio) > cap
            else:
                assert ratio == pytest.approx(0.0, abs=1e-4)
    assert has_second
    assert is_capped or kind == LSPO


def _right_tries(first, spliced):
    """What `lspo` trains on: wrong second tries give way to the group's own again."""
    num = sum(reward.is_correct for reward in spliced.rewards)
    pairs = list(zip(spliced.rollouts, spliced.rewards, strict=True))
    if first == spliced:
        return first
    right = [pair for pair in pairs if pair[1].is_correct]
    return replace(
        first,
        rollouts=tuple(r for r, _ in right) + first.rollouts[num:],
        rewards=tuple(r for _, r in right) + first.rewards[num:],
    )


def test_a_scaffold_learns_to_turn_what_theta_fails_while_it_stands_still(tmp_path: Path) -> None:
    still = ("learner.lr=1e-6", "method.mix=1.0", "run.num_steps=30", "adapter.lr=0.02")
    run = run_of(tmp_path, *GUIDED, *still, "rollout.temperature=0.1")
    turned = run.column("scaffold/turned")
    generated, spent = run.column("tokens/generated"), run.column("ledger/tokens_generated")
    measured = iter(turned)
    for record, row in zip(run.records, run.rows, strict=True):
        tried = record.second.groups
        assert row.get("scaffold/tried", 0.0) == len(tried) / 6
        if tried:
            right = [any(r.is_correct for r in group.rewards) for group in tried]
            assert next(measured) == sum(right) / len(tried)
            assert all(len(group.rollouts) == 2 for group in tried)  # half of four
    assert spent[-1] == sum(generated) + sum(run.column("tokens/generated_scaffold"))
    assert sum(turned[:5]) == 0.0
    assert sum(turned[-10:]) / 10 > 0.25


def test_groups_that_failed_count_as_nothing_in_the_gain(tmp_path: Path) -> None:
    run = run_of(tmp_path, *GUIDED, "gain.every=1")
    measured = [record for record in run.records if record.gain is not None]
    assert measured
    for record in measured:
        assert record.gain is not None
        assert record.gain.ess_joint == pytest.approx(1.0, abs=1e-3)


def test_a_frozen_scaffold_is_the_control_of_sampling_again(tmp_path: Path) -> None:
    run = run_of(tmp_path, *GUIDED, "meta.w_objective=frozen")
    assert set(run.column("guidance/update_norm")) == {0.0}
    assert run.column("scaffold/turned")
    ratios = [value for record in run.records for value in record.joint.samples.log_ratio_N]
    assert max(map(abs, ratios)) < 1e-4


def test_lspo_fits_w_anew_at_every_step() -> None:
    learner, _ = build_learner(configure(*LSPO, "method.fit_steps=3"), "joint")
    adapter = learner.adapter
    assert adapter is not None
    one, other = (
        pack_scaffold(TASK.demonstrations[part], SHAPE) for part in (slice(2), slice(2, 4))
    )
    found = []
    for shown in (one, other, one):
        learner.fit_scaffold(shown)
        found.append(adapter.flatten())
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    assert not adapter.is_on
