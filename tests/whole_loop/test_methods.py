"""Every method and estimator through the real loop: it runs, moves what it should, and repeats."""

import math
from pathlib import Path

import pytest
import torch

from coop_rl.algorithm.methods import METHODS
from coop_rl.types import AdapterGradients
from tests.whole_loop.branches import build_branches
from tests.whole_loop.rig import Run, configure, start
from tests.whole_loop.toy import make_task

ESTIMATORS = (
    "reweighted",
    "grpo",
    "dr_grpo",
    "dapo",
    "rloo",
    "reinforce_pp",
    "gspo",
    "cispo",
    "ppo",
)
EXTRA = {
    "relift": ("method.buffer_size=2",),
    "cold_start": ("method.check_every=2",),
    # The toy's demonstrations are two tokens long; what is given solves it, and teaches nothing.
    "prefix": ("method.share=0.9", "method.anneal_steps=1000", "prompts.per_step=6"),
}
MINIBATCHES = ("learner.num_minibatches=2", "learner.num_epochs=2")


def method(kind: str, *overrides: str) -> tuple[str, ...]:
    return (f"method.kind={kind}", *EXTRA.get(kind, ()), *overrides)


def estimator(kind: str) -> str:
    return f"method.rl={{kind: {kind}}}"


def assert_sound(run: Run) -> None:
    """Finite losses of what was trained on, every update taken, theta moved."""
    for record in run.records:
        for batch in record.batch.minibatches:
            assert batch.num_samples or batch.sft
        has_rl = any(batch.num_samples for batch in record.batch.minibatches)
        has_sft = any(batch.sft for batch in record.batch.minibatches)
        assert math.isfinite(record.joint.means.rl_loss) == has_rl
        assert math.isfinite(record.joint.means.sft_loss) == has_sft
        assert 0.0 < record.joint.updates.grad_norm < math.inf
    assert set(run.column("grad/skipped")) == {0}
    begun = build_branches(run.config, make_task()).theta()
    assert all(not torch.equal(begun[name], p) for name, p in run.branches.theta().items())


def adapter_of(run: Run) -> torch.Tensor:
    assert run.branches.meta is not None
    assert run.branches.meta.adapter is not None
    return run.branches.meta.adapter.flatten()


def flat_theta(run: Run) -> torch.Tensor:
    return torch.cat([p.reshape(-1) for p in run.branches.theta().values()])


@pytest.mark.parametrize("kind", METHODS)
def test_every_method_trains_theta(tmp_path: Path, kind: str) -> None:
    run = start(configure(*method(kind)), tmp_path)
    assert len(run.records) == run.config.run.num_steps
    assert_sound(run)
    assert (run.branches.shadow is not None) == (kind == "bridge")


@pytest.mark.parametrize("more", [(), MINIBATCHES], ids=["one_update", "four_updates"])
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_every_estimator_trains_theta_and_w_in_bridge(
    tmp_path: Path, kind: str, more: tuple[str, ...]
) -> None:
    run = start(configure("run.num_steps=3", estimator(kind), *more), tmp_path)
    assert_sound(run)
    # Equal branches: no bracket, no gain. From then on w follows their difference.
    bracket = run.column("guidance/bracket_norm")
    assert bracket[0] == 0.0
    assert all(value > 0.0 for value in bracket[1:])
    assert run.column("gain/value")[0] == 0.0
    assert all(value > 0.0 for value in run.column("guidance/update_norm"))
    assert set(run.column("guidance/skipped")) == {0}
    assert run.records[0].joint.updates.num_taken == (4 if more else 1)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_every_estimator_trains_theta_in_rl(tmp_path: Path, kind: str) -> None:
    run = start(configure("method.kind=rl", "run.num_steps=3", estimator(kind)), tmp_path)
    assert_sound(run)
    assert run.branches.meta is None


@pytest.mark.parametrize("fresh", [True, False])
def test_after_a_cold_start_rl_begins_with_moments_of_its_own_where_it_shall(
    tmp_path: Path, fresh: bool
) -> None:
    """AdamW's first step moves a weight by the rate, whatever its gradient; a later one does not,
    for its moments hold those of SFT."""
    overrides = ("method.switch=epochs", "method.epochs=1", f"method.fresh_optimizer={fresh}")
    kind, clip = method("cold_start", *overrides), "learner.max_grad_norm=1000"
    before, after = (
        flat_theta(start(configure(*kind, clip, f"run.num_steps={n}"), tmp_path / f"{n}"))
        for n in (2, 3)  # an epoch is 2 steps
    )
    rates = (after - before).abs()[after != before] / 0.01
    assert bool((rates > 0.99).float().mean() > 0.95) == fresh


def test_before_cooperation_a_cold_start_is_sft_of_theta_and_w_that_samples_nothing(
    tmp_path: Path,
) -> None:
    first = 3
    cold = (f"method.cold_start_steps={first}", "meta.w_objective=mixture", "gain.every=1")
    run = start(configure(*cold), tmp_path / "run")
    assert_sound(run)
    samples = [bool(record.sampled.groups) for record in run.records]
    assert samples == [step >= first for step in range(6)]
    assert all(value > 0.0 for value in run.column("guidance/update_norm"))
    assert set(run.column("guidance/skipped")) == {0}
    # The gain is that of the last step with RL, measured by the next one's rollouts.
    assert [r.step for r in run.records if r.gain is not None] == [first + 1, first + 2]
    still = start(configure(*cold, "meta.w_objective=frozen"), tmp_path / "still")
    alone = start(configure("method.kind=sft"), tmp_path / "alone")
    steps = [s == a for s, a in zip(*(r.column("grad/norm") for r in (still, alone)), strict=True)]
    assert steps == [step < first for step in range(6)]


@pytest.mark.parametrize(("kind", "mix"), [("rl", 1.0), ("sft", 0.0)])
def test_the_ends_of_mix_are_rl_and_sft(tmp_path: Path, kind: str, mix: float) -> None:
    """Bridge with w frozen takes the very steps of the method at that end of mix."""
    alone = start(configure(f"method.kind={kind}"), tmp_path / "alone")
    ends = ("meta.w_objective=frozen", f"method.mix={mix}")
    bridge = start(configure(*ends), tmp_path / "bridge")
    assert torch.equal(flat_theta(alone), flat_theta(bridge))
    assert alone.column("grad/norm") == bridge.column("grad/norm")


def test_prefix_samples_from_the_start_it_gives_and_reports_that_apart(tmp_path: Path) -> None:
    run = start(configure(*method("prefix"), "run.num_steps=8"), tmp_path)
    failed: set[str] = set()
    has_given = False
    for record, row in zip(run.records, run.rows, strict=True):
        groups = record.sampled.groups
        alone = [group for group in groups if not group.prompt.given_ids]
        given = [group for group in groups if group.prompt.given_ids]
        assert {group.prompt.id for group in given} == failed & {g.prompt.id for g in groups}
        failed -= {group.prompt.id for group in given}
        failed |= {g.prompt.id for g in alone if not any(r.is_correct for r in g.rewards)}
        # The toy's first token is the whole answer.
        assert all(reward.is_correct for group in given for reward in group.rewards)
        rewards = [reward.value for group in alone for reward in group.rewards]
        assert row["reward/mean"] == pytest.approx(sum(rewards) / len(rewards))
        assert row.get("groups/given", 0.0) == len(given) / len(groups)
        assert row.get("reward/given_accuracy") == (1.0 if given else None)
        assert max(map(abs, record.joint.samples.log_ratio_N)) < 1e-4
        has_given |= bool(given)
    assert has_given


@pytest.mark.parametrize("layout", ["trees", "padded"])
def test_self_distil_reports_the_gap_to_the_policy_that_sees_the_demonstration(
    tmp_path: Path, layout: str
) -> None:
    task = make_task()
    run = start(configure(*method("self_distil"), f"learner.packing={layout}"), tmp_path, task)
    taught = {d.prompt_ids: d.teacher_prompt_ids for d in task.demonstrations}
    pairs = [
        (group.prompt.token_ids, rollout.token_ids)
        for group in run.records[0].sampled.groups
        for rollout in group.rollouts
    ]
    begun = build_branches(run.config, task).joint
    student, teacher = (
        [value for row in begun.score(rows) for value in row]
        for rows in (pairs, [(taught[prompt], response) for prompt, response in pairs])
    )
    gaps = [s - t for s, t in zip(student, teacher, strict=True)]
    assert run.rows[0]["loss/rl"] == pytest.approx(sum(gaps) / len(gaps), rel=1e-3)
    assert max(map(abs, gaps)) > 0.01


def test_dapo_replaces_groups_that_say_nothing(tmp_path: Path) -> None:
    rl = "method.rl={kind: dapo, max_refills: 2}"
    run = start(configure("method.kind=rl", rl, "prompts.per_step=2"), tmp_path)
    assert max(run.column("groups/dropped")) > 0
    assert all(len(record.sampled.groups) == 2 for record in run.records)


@pytest.mark.parametrize("kind", ["bridge", "relift", "hpt"])
def test_the_same_config_and_seed_give_the_same_rows(tmp_path: Path, kind: str) -> None:
    first, second, other = (
        start(configure(*method(kind), f"run.seed={seed}"), tmp_path / name)
        for name, seed in (("first", 0), ("second", 0), ("other", 1))
    )
    assert first.rows == second.rows
    assert torch.equal(flat_theta(first), flat_theta(second))
    assert first.rows != other.rows


@pytest.mark.parametrize(
    "which", ["shadow.rollouts=own", "gain.estimator=fresh"], ids=["own", "fresh"]
)
def test_the_bracket_can_be_measured_on_the_shadows_own_rollouts(
    tmp_path: Path, which: str
) -> None:
    run = start(configure(which, "shadow.num_rollout_actors=1"), tmp_path)
    assert_sound(run)
    assert set(run.column("gain/fresh")) == {1}
    assert all(value > 0 for value in run.column("tokens/generated_shadow"))
    assert all(value > 0.0 for value in run.column("guidance/bracket_norm"))
    assert all(value > 0.0 for value in run.column("guidance/update_norm"))
    for record in run.records:
        assert record.shadow is not None
        prompts = [group.prompt for group in record.fresh]
        assert prompts == [group.prompt for group in record.sampled.groups]
        rewards = [r.value for group in record.fresh for r in group.rewards]
        assert record.gain is not None
        # Joint's rewards are reweighted: learners compute other roundings than the sampler.
        assert record.gain.value == pytest.approx(
            (run.rows[record.step]["reward/mean"] or 0.0) - sum(rewards) / len(rewards), abs=1e-6
        )
    own = which.startswith("shadow")
    ratios = [record.shadow.samples.log_ratio_N for record in run.records[1:] if record.shadow]
    # Its own rollouts are on-policy for it; joint's are not.
    assert all((max(map(abs, ratio)) < 1e-4) == own for ratio in ratios)


WITHOUT_SHADOW = {
    "mix": "meta.guidance=[mix]",
    "demonstrations": "meta.guidance=[demonstrations]",
    "mixture": "meta.w_objective=mixture",
    "sft": "meta.w_objective=sft",
    "frozen": "meta.w_objective=frozen",
}


@pytest.mark.parametrize("case", WITHOUT_SHADOW)
def test_the_gain_is_measured_without_a_shadow(tmp_path: Path, case: str) -> None:
    """Every second step, beside joint's own step, and pooled."""
    run = start(configure(WITHOUT_SHADOW[case], "gain.every=2"), tmp_path)
    assert run.branches.shadow is None
    values = run.column("gain/value")
    assert [value is not None for value in values] == [False, False, True, False, True, False]
    assert all(value != 0.0 for value in values if value is not None)
    assert set(run.column("gain/shadow_age")) == {1}
    assert run.column("gain/pooled_steps") == [1, 1, 2, 2]
    assert run.column("gain/pooled")[-1] == pytest.approx((values[2] + values[4]) / 2)


def test_the_gain_without_a_shadow_is_that_of_the_step_by_rl_alone(tmp_path: Path) -> None:
    """Where SFT has no weight theta takes that very step, so that there is no gain."""
    sizes = ("method.mix=1.0", "meta.w_objective=frozen", "gain.every=1")
    run = start(configure(*sizes), tmp_path)
    assert run.column("gain/value")[1:] == pytest.approx([0.0] * 5, abs=1e-5)
    mixed = start(configure("method.mix=0.5", *sizes[1:]), tmp_path / "mixed")
    assert max(map(abs, mixed.column("gain/value")[1:])) > 1e-3


def test_the_shadows_age_is_counted_from_its_last_resync(tmp_path: Path) -> None:
    run = start(configure("run.num_steps=8"), tmp_path)
    assert run.column("gain/shadow_age") == [0, 1, 2, 3, 1, 2, 3, 1]


LOW = ("gain.min_ess=0.999999", "shadow.resync_every=null")


def test_auto_falls_back_to_fresh_rollouts_when_the_shared_ones_say_little(tmp_path: Path) -> None:
    run = start(configure(*LOW, "shadow.num_rollout_actors=1"), tmp_path)
    # Step 1 finds the low ESS and skips; the branches never come together again.
    assert run.column("gain/fresh") == [0, 0, 1, 1, 1, 1]
    assert run.column("guidance/skipped") == [0, 1, 0, 0, 0, 0]


def test_auto_skips_where_nothing_samples_from_the_shadow(tmp_path: Path) -> None:
    run = start(configure(*LOW), tmp_path)
    assert set(run.column("gain/fresh")) == {0}
    assert run.column("guidance/skipped") == [0, 1, 1, 1, 1, 1]
    assert run.column("guidance/skipped_low_ess") == [1, 1, 1, 1, 1]
    assert run.column("gain/value")[1:] == [None] * 5
    norms = run.column("guidance/update_norm")
    assert norms[0] > 0.0
    assert norms[1:] == [0.0] * 5


@pytest.mark.parametrize(
    ("mix", "method"),
    [
        ("1", ("method.kind=rl",)),
        ("0.5", ("method.kind=chord", "method.mu_peak=0.5", "method.mu_valley=0.5")),
    ],
)
def test_a_bracket_pass_of_its_own_leaves_theta_alone(
    tmp_path: Path, mix: str, method: tuple[str, ...]
) -> None:
    """With w at its start theta's path is that of the same loss without w, bit for bit."""
    still = (f"method.mix={mix}", f"meta.penalty={mix}", "adapter.lr=0")
    bridge = start(configure(estimator("grpo"), *still), tmp_path / "bridge")
    alone = start(configure(*method, estimator("grpo")), tmp_path / "alone")
    for record in bridge.records:
        gradients = record.joint.adapter_gradients
        assert isinstance(gradients, AdapterGradients)
        assert any(bool(gradient.any()) for gradient in gradients.rl.values())
    # Without SFT the branches stay equal.
    assert (bridge.column("guidance/bracket_norm")[-1] > 0.0) == (mix != "1")
    assert torch.equal(flat_theta(bridge), flat_theta(alone))
    for name in ("reward/mean", "loss/rl", "grad/norm", "policy/entropy"):
        assert bridge.column(name) == alone.column(name)


@pytest.mark.parametrize("which", ["k1", "k2", "k3"])
def test_a_kl_penalty_keeps_the_policy_near_its_start(tmp_path: Path, which: str) -> None:
    """1e-9 stands for 0: without a weight nothing measures the distance."""
    distances = {}
    for weight in ("1.0e-9", "10"):
        rl = f"method.rl={{kind: grpo, kl: {{weight: {weight}, estimator: {which}}}}}"
        longer = ("run.num_steps=18", "prompts.per_step=6", "learner.lr=0.03")
        run = start(configure("method.kind=rl", rl, *longer), tmp_path / weight)
        distances[weight] = sum(run.column("policy/kl_ref")[-6:]) / 6
    assert distances["1.0e-9"] > 0.2
    assert distances["10"] < 0.2 * distances["1.0e-9"]
