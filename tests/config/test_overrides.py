"""`--set`: read as it is meant, and blamed and quoted where it is wrong; hints for other names."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from coop_rl.config import load_config, load_serving_config
from coop_rl.config.editor_schema import editor_schema
from coop_rl.config.hints import OURS
from coop_rl.config.read import parse_yaml
from coop_rl.config.section_path import all_fields
from coop_rl.errors import ConfigError
from tests.config.test_load import MINIMAL, SHIPPED, minimal

__all__ = ["minimal"]


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("run.name=1e5", "1e5"),
        ("run.name=2026-11-28", "2026-11-28"),
        ("run.name=007", "007"),
        ("run.num_steps=1e3", 1000),
        ("learner.lr=1e-4", 1e-4),
        ("learner.betas=0.9,0.99", (0.9, 0.99)),
        ("reward.marker=####", "####"),
        ("demonstrations.response_template={reasoning} #### {answer}",
         "{reasoning} #### {answer}"),
        ("prompts.question_template={prompt}", "{prompt}"),
        ("prompts.question_template={prompt} # a", "{prompt} # a"),
        (r'prompts.question_template="{prompt}\nThink."', "{prompt}\nThink."),
        ("prompts.answer_column=yes", "yes"),
        ("prompts.template=null", None),
        ("evaluation.benchmarks=math500", ("math500",)),
        ("evaluation.benchmarks=[math500]", ("math500",)),
        ("evaluation.benchmarks=math500, gsm8k", ("math500", "gsm8k")),
        ("evaluation.pass_at=2,4", (2, 4)),
        ("meta.guidance=mix", ("mix",)),
        ("adapter.targets=q_proj,k_proj", ("q_proj", "k_proj")),
        ("prompts.details_columns=golds", ["golds"]),
        ("prompts.path=[/a, /b]", ["/a", "/b"]),
        ("prompts.path=/a, b", "/a, b"),
        ("prompts.verifier=null", None),
    ],
)  # fmt: skip
def test_a_value_is_read_as_its_field_wants_it(minimal: Path, override: str, value: object) -> None:
    config = load_config(minimal, [override])
    section, name = override.partition("=")[0].split(".")
    assert getattr(getattr(config, section), name) == value


def test_settings_of_a_task_keep_their_types(minimal: Path) -> None:
    task = "prompts.task={name: chain_sum, num_rows: 5, settings: {a: 1e-4, b: x, c: true}}"
    config = load_config(minimal, ["prompts.path=null", task, "prompts.task.settings.a=1e-5"])
    assert config.prompts.task is not None
    assert config.prompts.task.settings == {"a": 1e-5, "b": "x", "c": True}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["learner.learning_rate=1"], "learner.learning_rate; did you mean learner.lr?"),
        (["adapter.learning_rate=1"], "adapter.learning_rate; did you mean adapter.lr?"),
        (["learning_rate=1"], "unknown config key learning_rate; did you mean learner.lr?"),
        (["rollout.n=4"], "did you mean rollout.samples_per_prompt?"),
        (["adapter.r=8"], "did you mean adapter.rank?"),
        (["method.rl.kl_coef=0.1"], "did you mean method.rl.kl.weight?"),
        (["method.rl.kind=ppo", "method.rl.cliprange=0.1"], "did you mean method.rl.clip?"),
        (["actor_rollout_ref.rollout.n=4"], "did you mean rollout.samples_per_prompt?"),
        (["trainer.total_training_steps=4"], "did you mean run.num_steps?"),
        (["learner.samples_per_prompt=3"], "did you mean rollout.samples_per_prompt?"),
        (["learner.lrr=1"], "did you mean learner.lr?"),
        (["method.kind=grpo"], "; grpo is an estimator: set method.rl.kind grpo"),
        (["method.kind=DR-GRPO"], "; dr_grpo is an estimator: set method.rl.kind dr_grpo"),
        (["method.rl.kind=sft"], "; sft is a method: set method.kind sft"),
        (["method.rl.kind=reinforce++"], "; did you mean reinforce_pp?"),
        (["method.kind=brigde"], "; did you mean bridge?"),
        (["method=grpo"], "method: must be a section, with fields of its own, got 'grpo'"),
        (["run.num_steps=abc"], "unable to parse string as an integer, got 'abc'"),
        (["method.kind=alternate", "rollout.max_policy_lag=1"], "grows too old"),
        (["run.seed=1", "learner=5"], "learner: must be a section"),
    ],
)
def test_an_error_blames_the_option_and_says_what_was_meant(
    minimal: Path, overrides: list[str], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(minimal, overrides)
    assert f"--set {overrides[-1]}: " in str(caught.value)
    assert said in str(caught.value)
    assert "seed" not in str(caught.value)


def test_a_misspelt_section_is_named_rather_than_the_one_that_is_missing(minimal: Path) -> None:
    minimal.write_text(minimal.read_text().replace("model:", "modle:"))
    with pytest.raises(ConfigError, match=r"unknown config key modle; did you mean model\?"):
        load_config(minimal)


def test_a_section_without_a_field_is_an_empty_one(minimal: Path) -> None:
    minimal.write_text(minimal.read_text() + "learner:\n")
    assert load_config(minimal).learner.lr == 1e-6
    assert load_config(minimal, ["learner.lr=1"]).learner.lr == 1


def test_an_error_of_the_file_names_the_file_whatever_was_set(minimal: Path) -> None:
    minimal.write_text(minimal.read_text() + "learner: {lrr: 1}\n")
    with pytest.raises(ConfigError) as caught:
        load_config(minimal, ["learner.lr=1", "run.seed=1"])
    assert str(caught.value).startswith(f"{minimal}: unknown config key learner.lrr; did you mean")


def test_another_option_is_blamed_as_it_was_typed(minimal: Path) -> None:
    steps = "observability.profile_steps=[3, 9]"
    with pytest.raises(ConfigError, match=r"^--profile 3 9: observability\.profile_steps"):
        load_config(minimal, [steps], {steps: "--profile 3 9"})
    items = "evaluation.num_items=0"
    with pytest.raises(ConfigError, match=r"^--num-items 0: evaluation\.num_items"):
        load_serving_config(minimal, {}, [items], {items: "--num-items 0"})


def test_every_name_of_other_frameworks_leads_to_a_field() -> None:
    fields = {dotted for places in all_fields().values() for dotted in places}
    assert set(OURS.values()) <= fields
    assert not OURS.keys() & all_fields().keys()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-11-28", "2026-11-28"),
        ("2026-13-45", "2026-13-45"),
        ("1e-4", 1e-4),
        ("-1E5", -1e5),
        ("'1e5'", "1e5"),
        ("1.5e-3", 1.5e-3),
        ("12e", "12e"),
        ("5", 5),
    ],
)
def test_scalars_of_a_file(text: str, value: object) -> None:
    assert parse_yaml(text, "x") == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run: {name: 2026-11-28, num_steps: 2026-11-28}", "got '2026-11-28'"),
        ("run: {name: 1e5, num_steps: 3}", "should be a valid string, in quotes if need be, got"),
        ("run: !!int x", "is not valid YAML"),
        ("run: !!int ''", "is not valid YAML"),
        ("run: !!bool x", "is not valid YAML"),
        ("run: !!timestamp x", "is not valid YAML"),
        ('extends: "a\\0"', "cannot read config"),
        ('extends: "\\ud83d"', "cannot read config"),
        ('"\\n": 1', r"unknown config key \n"),
        ("run: !!python/name:os.system x", "is not valid YAML"),
        ("run: " + "[" * 2000, "is not valid YAML"),
        ("1: 2", "Keys should be strings"),
        ("a: &a [*a]", "unknown config key a"),
        (b"run: {name: \xff}", "is not UTF-8"),
        ("run: {name: \x1b[31m}", "is not valid YAML"),
        ("learner: 5\nrun: {name: x, num_steps: 1}", "learner: must be a section"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"model: {path: m}\n" + (text if isinstance(text, bytes) else text.encode()))
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["model.max_length=9"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_editors_know_what_may_be_left_out() -> None:
    checker = Draft202012Validator(editor_schema())

    def problems(values: object) -> list[str]:
        return [error.message for error in checker.iter_errors(values)]

    for path in SHIPPED:
        assert problems(parse_yaml(path.read_text(), path.name)) == [], path
    assert problems(json.loads(json.dumps(MINIMAL))) == []
    assert problems({"extends": "a.yaml", "run": {"name": "x"}}) == []
    assert problems({"run": {"name": "x"}, "model": {"path": "m"}}) == [
        "'num_steps' is a required property"
    ]
    assert problems({"run": {"name": "x", "num_steps": 1}}) == ["'model' is a required property"]
    assert problems({"extends": 5})


def test_a_section_that_the_method_never_reads_is_not_required(minimal: Path) -> None:
    def load(left_out: str, kind: str, *more: str) -> None:
        kept = {name: section for name, section in MINIMAL.items() if name != left_out}
        minimal.write_text(json.dumps(kept))
        load_config(minimal, [f"method.kind={kind}", *more])

    load("demonstrations", "rl")
    load("prompts", "sft")
    load("prompts", "sft", "learner.num_minibatches=64", "demonstrations.per_step=64")
    for left_out, kind in (
        ("demonstrations", "bridge"),
        ("prompts", "rl"),
        ("demonstrations", "sft"),
    ):
        with pytest.raises(
            ConfigError, match=f"learns from {left_out}: give one of {left_out}.mix"
        ):
            load(left_out, kind)


def test_half_a_character_would_be_in_no_config_json() -> None:
    with pytest.raises(ConfigError, match="a text holds half a character"):
        load_config(Path("configs/local/demo.yaml"), ["prompts.path=\ud83d"])
