"""Config loading: every wrong input is one line that says what was got and what to change."""

from pathlib import Path

import pytest
import yaml

from coop_rl.config import derive_sizes, load_config
from coop_rl.config.sizes import (
    has_shadow,
    may_share_device,
    may_share_memory,
    mix_and_penalty,
    shadow_backend,
    weight_backend,
)
from coop_rl.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(CONFIGS.glob("[clp]*/*.yaml"))  # those of study/ are grids

MINIMAL = {
    "run": {"name": "x", "num_steps": 3},
    "model": {"path": "m"},
    "prompts": {"path": "p.jsonl"},
    "demonstrations": {"path": "d.jsonl"},
    "evaluation": {"data": {"path": "h.jsonl"}},
}

COOPERATIVE, SHADOW_SAMPLES = "meta.w_objective=cooperative", "shadow.num_rollout_actors=1"


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


def test_there_are_shipped_configs() -> None:
    assert SHIPPED


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("learner.lrr=1", "unknown config key learner.lrr; did you mean learner.lr?"),
        ("method.mixx=1", "unknown config key method.mixx; did you mean method.mix?"),
        ("lerner={}", "unknown config key lerner; did you mean learner?"),
        ("learner.zero_stage=7", "learner.zero_stage: Input should be 0, 1, 2 or 3, got 7"),
        ("run.num_steps=abc", "run.num_steps: Input should be a valid integer"),
        ("placement.meta={labels: {role: head}}", "placement: meta.labels choose nodes for what"),
        ("method.mix=1.5", "method.mix: Input should be less than or equal to 1, got 1.5"),
        (
            "method.kind=grpo",
            "unknown method.kind 'grpo'; allowed: bridge, rl, sft, sum, alternate, chord",
        ),
        ("rollout.samples_per_prompt=1", "rollout.samples_per_prompt must be >= 2"),
        ("run.name=../up", "run.name: String should match pattern"),
        ("evaluation.name=../up", "evaluation.name: String should match pattern"),
        ("recovery.hung_after_s=20", "hung_after_s must be above silent_after_s 20, or 0, got 20"),
        ("learner.lr=.inf", "learner.lr: Input should be a finite number, got inf"),
        ("rollout.temperature=.nan", "rollout.temperature: Input should be a finite number"),
        ("learner.betas=[0.9, .inf]", "Input should be a finite number"),
        ("adapter.targets=[]", "adapter.targets: Tuple should have at least 1 item"),
        ("adapter.targets=[q_proj, lm_head]", "adapter.targets: must not name lm_head"),
    ],
)
def test_bad_values_say_what_to_change(minimal: Path, override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(minimal, [override])
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_w_must_not_follow_a_gradient_that_is_never_computed(minimal: Path) -> None:
    assert mix_and_penalty(load_config(minimal, ["method.mix=1"])) == (1.0, 1.0)
    for overrides, name in (
        (["method.mix=0", "meta.penalty=0.5"], "RL"),
        (["method.mix=1", "meta.penalty=0.5"], "SFT"),
    ):
        with pytest.raises(ConfigError, match=f"computes no {name} gradient, but w needs it"):
            load_config(minimal, overrides)
        assert load_config(minimal, [*overrides, "meta.w_objective=frozen"])


def test_bfloat16_needs_a_stage_with_fp32_masters(minimal: Path) -> None:
    with pytest.raises(ConfigError, match="fp32 masters"):
        load_config(minimal, ["model.dtype=bfloat16", "learner.zero_stage=1"])
    for stage in (0, 2, 3):
        load_config(minimal, ["model.dtype=bfloat16", f"learner.zero_stage={stage}"])


def test_a_lag_needs_rollouts_at_every_step_and_in_flight_updates_a_lag(minimal: Path) -> None:
    for kind in ("alternate", "relift"):
        with pytest.raises(ConfigError, match=r"set rollout\.max_policy_lag 0, got 1"):
            load_config(minimal, [f"method.kind={kind}", "rollout.max_policy_lag=1"])
    with pytest.raises(ConfigError, match=r"needs rollout\.max_policy_lag >= 1, got 0"):
        load_config(minimal, ["rollout.in_flight_updates=true"])
    load_config(minimal, ["rollout.max_policy_lag=1", "rollout.in_flight_updates=true"])


def test_shared_devices_need_turns_fractions_and_no_nccl(minimal: Path) -> None:
    shared = [
        "placement.colocated=true",
        "placement.rollout.gpus=0.5",
        "placement.learner.gpus=0.5",
    ]
    config = load_config(minimal, shared)
    assert config.placement.colocated
    assert weight_backend(config) == "gloo"
    own = ["placement.rollout.gpus=1", "placement.learner.gpus=1"]
    assert weight_backend(load_config(minimal, own)) == "nccl"
    assert shadow_backend(load_config(minimal, own)) == "gloo"  # the shadow has none
    own.append("placement.shadow.gpus=1")
    assert shadow_backend(load_config(minimal, own)) == "nccl"
    assert shadow_backend(load_config(minimal, [*own, "sync.backend=gloo"])) == "gloo"
    for override, said in (
        ("rollout.max_policy_lag=1", r"set rollout\.max_policy_lag 0, got 1"),
        ("placement.rollout.gpus=1", r"fractions, got 1 and 0\.5"),
        ("sync.backend=nccl", "cannot connect two processes on one device"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_config(minimal, [*shared, override])


def test_memory_is_offered_where_both_sides_may_have_it(minimal: Path) -> None:
    """The host's among CPUs; a GPU's where both have parts of one; none where gloo is asked for."""
    for ours, theirs, sets, expected in (
        (0, 0, [], (True, False)),
        (0, 0.5, [], (True, False)),
        (0.5, 0.5, [], (True, True)),
        (1, 0.5, [], (False, False)),
        (0.5, 1, [], (False, False)),
        (0.5, 0, [], (False, False)),
        (0.5, 0.5, ["sync.backend=gloo"], (False, False)),
    ):
        shares = [f"placement.learner.gpus={ours}", f"placement.rollout.gpus={theirs}"]
        config = load_config(minimal, [*shares, *sets])
        receiver = config.placement.rollout
        found = may_share_memory(config, receiver), may_share_device(config, receiver)
        assert found == expected, (ours, theirs, sets)


def test_two_ranks_of_a_group_do_not_share_a_device(minimal: Path) -> None:
    two = ["learner.num_ranks=2", "placement.learner.gpus=0.5", "placement.shadow.gpus=1"]
    with pytest.raises(ConfigError, match=r"placement\.learner\.gpus 0\.5 lets two of"):
        load_config(minimal, two)
    for apart in ("{gpus: 0.6}", "{gpus: 0.5, strategy: strict_spread}"):
        load_config(minimal, [*two, f"placement.learner={apart}"])


def test_an_engine_has_a_device_for_each_of_its_workers(minimal: Path) -> None:
    four = ["rollout.tensor_parallel_size=4", "placement.learner.gpus=1"]
    with pytest.raises(ConfigError, match=r"set placement\.rollout\.gpus 4, got 1"):
        load_config(minimal, [*four, "placement.rollout.gpus=1"])
    for gpus in (0, 4):
        load_config(minimal, [*four, f"placement.rollout.gpus={gpus}"])


def test_bad_files_and_overrides(tmp_path: Path, minimal: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read config"):
        load_config(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("run: [1, 2")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(broken)
    broken.write_text("- 1")
    with pytest.raises(ConfigError, match="mapping of sections, got list"):
        load_config(broken)
    with pytest.raises(ConfigError, match="--set wants"):
        load_config(minimal, ["learner.lr"])
    broken.write_text(yaml.safe_dump({k: v for k, v in MINIMAL.items() if k != "model"}))
    with pytest.raises(ConfigError, match="model is missing"):
        load_config(broken)


def test_resolved_config_is_valid_input_again(minimal: Path, tmp_path: Path) -> None:
    config = load_config(minimal, ["learner.lr=1e-4", "shadow.resync_every=null"])
    resolved = tmp_path / "config.json"
    resolved.write_text(config.model_dump_json())
    assert load_config(resolved) == config
    assert config.learner.lr == 1e-4


def test_switching_the_method_keeps_what_it_shares(minimal: Path) -> None:
    values = {**MINIMAL, "method": {"kind": "bridge", "mix": 0.3, "rl": {"ratio_cap": 2.0}}}
    minimal.write_text(yaml.safe_dump(values))
    config = load_config(minimal, ["method.kind=rl"])
    assert config.method.kind == "rl"
    assert config.method.rl.ratio_cap == 2.0


def test_sizes_and_shadow_follow_the_method(minimal: Path) -> None:
    bridge = derive_sizes(load_config(minimal))
    assert bridge.num_samples == 32 * 8
    assert bridge.total_cpus == 2
    assert bridge.cpus["learner shadow"] == 0
    papers = derive_sizes(load_config(minimal, [COOPERATIVE]))
    assert papers.total_cpus == 3
    assert papers.cpus["learner shadow"] == 1
    rl = derive_sizes(load_config(minimal, ["method.kind=rl"]))
    assert rl.num_demonstrations == 0
    assert rl.cpus["learner shadow"] == 0
    assert not has_shadow(load_config(minimal, ["method.kind=rl", COOPERATIVE]))
    assert has_shadow(load_config(minimal, ["meta.w_objective=random"]))
    judges = load_config(minimal, ["reward.num_actors=3", "placement.reward.cpus=2"])
    assert derive_sizes(judges).cpus["reward"] == 6


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_config_we_ship_is_valid(path: Path) -> None:
    config = load_config(path)
    assert config.run.name in path.as_posix().replace("/", "-")
    derive_sizes(config)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["meta.guidance=[]"], "meta.guidance must name adapter, mix, demonstrations or scaffold"),
        (
            ["meta.guidance=[mix]", "learner.num_minibatches=2"],
            "meta.guidance mix differentiates one optimiser step",
        ),
        (["meta.guidance=[mix]", "method.mix_schedule=linear"], "both set lambda"),
        (
            ["run.num_steps=8", "method.cold_start_steps=8"],
            "method.cold_start_steps must be below run.num_steps 8, got 8",
        ),
        (
            [COOPERATIVE, "method.cold_start_steps=1"],
            "meta.w_objective cooperative needs; set meta.w_objective mixture",
        ),
        (["meta.guidance=[demonstrations]", "method.mix=1"], "needs both losses"),
        (["meta.guidance=[mix]", "meta.mix_min=0.96"], "meta.mix_min must be below meta.mix_max"),
        (
            ["meta.guidance=[demonstrations]", "meta.per_example=true", "model.dtype=bfloat16"],
            "set float32, or meta.per_example false",
        ),
        (
            [COOPERATIVE, "gain.estimator=fresh"],
            "gain.estimator fresh samples from the shadow; set shadow.num",
        ),
        ([COOPERATIVE, "gain.audit_every=5"], "gain.audit_every samples from the shadow"),
        ([COOPERATIVE, "shadow.rollouts=own"], "shadow.rollouts own samples from the shadow"),
        (
            ["shadow.num_rollout_actors=1"],
            "shadow.num_rollout_actors samples from the branch shadow, which runs only where",
        ),
        (
            ["gain.audit_every=5", "shadow.num_rollout_actors=1"],
            "gain.audit_every samples from the branch shadow, which runs only where w follows it",
        ),
        (
            ["gain.estimator=fresh", "meta.guidance=[mix]", "shadow.num_rollout_actors=1"],
            "gain.estimator fresh samples from the branch shadow, which runs only where",
        ),
        (
            [COOPERATIVE, "gain.estimator=fresh", "method.rl={kind: dapo}", SHADOW_SAMPLES],
            "gain.estimator fresh compares groups that dynamic sampling chose by joint's luck",
        ),
        (
            [COOPERATIVE, "shadow.rollouts=own", SHADOW_SAMPLES, "gain.estimator=reweighted"],
            "set gain.estimator fresh",
        ),
        (["shadow.offload=true"], "shadow.offload needs learner.zero_stage 0 or 3, got 2"),
        (["learner.offload=true"], "learner.offload needs learner.zero_stage 0 or 3, got 2"),
        (["learner.num_minibatches=33"], "learner.num_minibatches must be at most prompts.per_st"),
        (["checkpoint.best=eval/x/pass@1"], "is no metric of the evaluation; allowed: eval/dem"),
        (
            ["method.rl.kind=dapo", "method.rl.overlong_tokens=999"],
            "method.rl.overlong_tokens must be at most rollout.max_tokens 256, got 999",
        ),
        (
            ["method.kind=self_distil", "rollout.mask_truncated=true"],
            "set rollout.mask_truncated f",
        ),
        (["meta.guidance=[adapter,scaffold]"], "are two uses of one w"),
        (["meta.guidance=[scaffold]", "meta.w_objective=random"], "is about a w in the policy"),
        (["meta.guidance=[scaffold]", "rollout.max_policy_lag=1"], "samples twice at one version"),
        (["meta.guidance=[scaffold]", "reward.shuffle=true"], "do not reach the second tries of"),
        (
            ["method.kind=lspo", "placement.colocated=true", "placement.rollout.gpus=0.5"],
            "method.kind lspo publishes twice a step",
        ),
        (["meta.per_example=true"], "needs demonstrations in meta.guidance, got adapter; add it"),
        (
            ["meta.w_objective=sft", "meta.penalty=1"],
            "by 1 - meta.penalty (null: method.mix), which is 0; lower meta.penalty",
        ),
        (
            ["meta.w_objective=sft", "meta.guidance=[adapter,mix]", "method.mix=1"],
            "by 1 - meta.penalty (null: method.mix), which is 0; lower meta.penalty",
        ),
        (
            ["demonstrations.split_by=nll", "meta.guidance=[adapter]"],
            "add demonstrations to meta.guidance (method.kind bridge)",
        ),
        (
            ["demonstrations.split_by=length", "demonstrations.source_column=s"],
            "split_by length makes sources where rows name none; remove source_column, or split_by",
        ),
        (["method.rl.clipp=0.1"], "unknown config key method.rl.clipp"),
        (["method.rl.kind=grpo", "method.rl.clpi=0.1"], "did you mean method.rl.clip?"),
        (["method.rl.kind=grpo", "method.rl.clip=-1"], "method.rl.clip: Input should be greater"),
        (["method.rl.kind=best"], "unknown method.rl.kind 'best'; allowed: reweighted, grpo,"),
        (["method.rl.kl.weight=-1"], "method.rl.kl.weight: Input should be greater"),
        (
            ["reward.parts={format: {kind: format, stile: x}}"],
            "unknown config key reward.parts.format.stile; did you mean reward.parts.format.style?",
        ),
        (["reward.parts={f: {kind: x}}"], "unknown reward.parts.f.kind 'x'; allowed: format,"),
        (
            ["prompts.mixture=[{name: a, path: x, weigth: 1}]"],
            "unknown config key prompts.mixture.0.weigth; did you mean prompts.mixture.0.weight?",
        ),
        (["prompts.verifier=python"], "needs reward.function, which goes with reward.kind python"),
        (["prompts.path=null"], "reasoning-gym), got none"),
        (
            ["method.kind=rl", "demonstrations.path=null", "evaluation.num_demonstrations=8"],
            "evaluation.num_demonstrations measures demonstrations: give one of",
        ),
    ],
)
def test_what_cannot_work_together_is_refused(
    minimal: Path, overrides: list[str], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(minimal, overrides)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_variants_of_the_estimator_have_their_methods_default(minimal: Path) -> None:
    assert load_config(minimal).method.rl.kind == "reweighted"  # type: ignore[union-attr]
    hpt = load_config(minimal, ["method.kind=hpt", "method.rl.clip=0.3"])
    assert hpt.method.rl.kind == "dr_grpo"  # type: ignore[union-attr]
    assert hpt.method.rl_settings.entropy_weight == 1e-3
    other = load_config(minimal, ["method.kind=hpt", "method.rl={kind: grpo}"])
    assert other.method.rl_settings.entropy_weight == 0.0
    swapped = load_config(minimal, ["method.rl.clip_low=0.1", "method.rl.kind=gspo"])
    assert swapped.method.rl.clip_low == 0.1  # type: ignore[union-attr]


@pytest.mark.parametrize("steps", ["[3, 2]", "[0, 50]", "[-1, 2]"])
def test_profiled_steps_are_steps_of_the_run(minimal: Path, steps: str) -> None:
    with pytest.raises(ConfigError, match=r"observability\.profile_steps"):
        load_config(minimal, ["run.num_steps=50", f"observability.profile_steps={steps}"])


SOURCES = {
    "mixture": "demonstrations={mixture: [{name: a, path: a.jsonl}, {name: b, path: b.jsonl}]}",
    "source_column": "demonstrations={path: a.jsonl, source_column: origin}",
    "split_by": "demonstrations={path: a.jsonl, split_by: length}",
    "none": "demonstrations={path: a.jsonl}",
}


@pytest.mark.parametrize(
    ("sources", "more", "guidance"),
    [
        ("mixture", (), ("demonstrations",)),
        ("source_column", (), ("demonstrations",)),
        ("split_by", (), ("demonstrations",)),
        ("none", (), ("adapter",)),
        ("mixture", ("meta.guidance=[adapter]",), ("adapter",)),
        ("mixture", ("learner.num_minibatches=2", "prompts.per_step=8"), ("adapter",)),
        ("mixture", ("method.mix=1", "meta.w_objective=frozen"), ("adapter",)),
        ("mixture", ("method.kind=rl",), ("adapter",)),
    ],
)
def test_sources_of_demonstrations_are_weighed_unless_something_else_is_said(
    minimal: Path, sources: str, more: tuple[str, ...], guidance: tuple[str, ...]
) -> None:
    assert load_config(minimal, (SOURCES[sources], *more)).meta.guidance == guidance
