"""From config and files to tokens, on the demo model's tokenizer; refusals say what to change."""

import json
from pathlib import Path
from typing import Any

import pytest

from coop_rl.config import RunConfig, load_config
from coop_rl.data.load import load_run_data
from coop_rl.data.model_folder import local_folder, read_model_facts
from coop_rl.data.rendering import fill, load_tokenizer
from coop_rl.driver.demonstrations import Demonstrations
from coop_rl.errors import ConfigError, DataError, ModelError
from coop_rl.types import ScoredGroup

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs/local/demo.yaml"
MODEL = ROOT / "configs/local/demo/model"
PROMPT = {"prompt": "1+2=?\n", "answer": "3"}
TRACE = {**PROMPT, "reasoning": "1+2=3"}
SHIPPED = sorted((ROOT / "configs").glob("[cp]*/*.yaml"))


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def build(tmp_path: Path):
    """Return a config on small files, some of its fields replaced."""
    files = {
        "prompts": write(tmp_path / "prompts.jsonl", [PROMPT] * 4),
        "demonstrations": write(tmp_path / "demonstrations.jsonl", [TRACE] * 4),
        "evaluation.data": write(tmp_path / "held_out.jsonl", [PROMPT] * 4),
    }

    def config(*overrides: str) -> RunConfig:
        sets = [f"{section}.path={path}" for section, path in files.items()]
        sizes = ["prompts.per_step=2", "demonstrations.per_step=2", f"model.path={MODEL}"]
        sizes += ["rollout.max_tokens=56"]
        return load_config(DEMO, [*sets, *sizes, *overrides])

    return config


def test_demo_data_loads() -> None:
    data = load_run_data(
        load_config(
            DEMO,
            [
                f"model.path={MODEL}",
                *(
                    f"{s}.path={ROOT}/configs/local/demo/{f}.jsonl"
                    for s, f in (
                        ("prompts", "prompts"),
                        ("demonstrations", "demonstrations"),
                        ("evaluation.data", "held_out"),
                    )
                ),
            ],
        )
    )
    assert [len(x) for x in (data.prompts, data.demonstrations, data.held_out)] == [2048, 2048, 256]
    assert len({prompt.id for prompt in data.prompts}) == 2048
    assert data.prompts[0].text == "22+65+44=?\n"
    assert len(data.prompts[0].token_ids) == len(data.prompts[0].text)
    eos = load_tokenizer(str(MODEL)).eos_token_id
    assert data.demonstrations[0].response_ids[-1] == eos
    assert eos not in data.demonstrations[0].response_ids[:-1]


def test_templates_render_prompt_and_response(build) -> None:
    data = load_run_data(
        build(
            "prompts.template='Q: {prompt}A:'",
            "demonstrations.response_template='{reasoning} #{answer}'",
        )
    )
    assert data.prompts[0].text == "Q: 1+2=?\nA:"
    tokenizer = load_tokenizer(str(MODEL))
    assert tokenizer.decode(data.demonstrations[0].response_ids) == "1+2=3 #3<eos>"


def test_fill_leaves_other_braces_alone() -> None:
    template, values = r"{reasoning}\boxed{} {answer}", {"reasoning": "{answer}", "answer": "4"}
    assert fill(template, values) == r"{answer}\boxed{} 4"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_demonstrations_of_shipped_configs_end_as_their_questions_ask(path: Path) -> None:
    config = load_config(path)
    assert "\\boxed{}" in config.prompts.question_template
    text = fill(config.demonstrations.response_template, {"reasoning": "So", "answer": "42"})
    assert text.endswith("\\boxed{42}")


def test_chat_template_is_used_where_there_is_one(build, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no chat template; set prompts\.template"):
        load_run_data(build("prompts.template=null"))
    tokenizer = load_tokenizer(str(MODEL))
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}:"
    folder = tmp_path / "chat"
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(MODEL / name)
    data = load_run_data(build("prompts.template=null", f"model.path={folder}"))
    assert data.prompts[0].text == "<user>1+2=?\n:"


def test_only_what_the_method_uses_is_read(build) -> None:
    rl = load_run_data(build("method.kind=rl", "demonstrations.path=/none"))
    sft = load_run_data(build("method.kind=sft", "prompts.path=/none"))
    assert (len(rl.demonstrations), len(sft.prompts)) == (0, 0)
    assert (len(rl.prompts), len(sft.demonstrations), len(sft.held_out)) == (4, 4, 4)


def test_long_rows_are_refused_with_tokens_got_and_allowed(
    build, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    long = write(tmp_path / "long.jsonl", [PROMPT, {**TRACE, "prompt": "1" * 400}])
    with pytest.raises(DataError, match=r"long.jsonl:2: prompts may have 200 tokens .*got 400"):
        load_run_data(build(f"prompts.path={long}"))
    rows = write(tmp_path / "long_traces.jsonl", [TRACE, {**TRACE, "reasoning": "1" * 250}])
    with pytest.raises(
        DataError, match=r"long_traces.jsonl:2: .* 256 tokens together, got 6 \+ 254"
    ):
        load_run_data(build(f"demonstrations.path={rows}"))
    assert capfd.readouterr() == ("", "")


def test_answers_and_templates_that_never_score_are_refused(build, tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", [PROMPT, {**PROMPT, "answer": "C#"}])
    with pytest.raises(DataError, match=r"bad.jsonl:2: no response can be right, .*'C#'"):
        load_run_data(build(f"prompts.path={bad}"))
    with pytest.raises(
        ConfigError, match=r"no demonstration .* change demonstrations.response_template"
    ):
        load_run_data(build("demonstrations.response_template='{reasoning} = {answer}'"))


def test_config_that_does_not_fit_the_data_is_refused(build) -> None:
    with pytest.raises(DataError, match=r"prompts.per_step must be at most the 4 rows"):
        load_run_data(build("prompts.per_step=5"))
    with pytest.raises(ConfigError, match=r"prompts.template must contain \{prompt\}"):
        load_run_data(build("prompts.template=Q"))
    with pytest.raises(ConfigError, match=r"reward.shuffle needs"):
        load_run_data(build("prompts.per_step=1", "reward.shuffle=true"))
    with pytest.raises(ModelError, match=r"model.max_length must be at most 256, .* got 512"):
        load_run_data(build("model.max_length=512"))


@pytest.mark.parametrize(
    "path", ["/none/model", "./none", "configs/local/none", "none/a/b", "tests/x"]
)
def test_missing_folder_is_not_looked_up_on_the_hub(path: str) -> None:
    with pytest.raises(ModelError, match="there is no model folder"):
        local_folder(path)


def test_a_folder_in_which_vllm_finds_no_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model[1]").mkdir()
    with pytest.raises(ModelError, match=r"model\[1\] has \[, with which vLLM finds no weights"):
        local_folder(str(tmp_path / "model[1]"))


def test_hub_ids_are_told_from_folders() -> None:
    assert local_folder("Qwen/Qwen3-0.6B") is None
    assert local_folder("gpt2") is None
    assert local_folder(str(MODEL)) == MODEL


def test_incomplete_model_folders_are_refused(build, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    section = build(f"model.path={folder}").model
    with pytest.raises(ModelError, match=r"has no config.json"):
        read_model_facts(section)
    (folder / "config.json").write_text('{"vocab_size": 9}')
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"weights as \*.safetensors, got pytorch_model.bin"):
        read_model_facts(section)
    (folder / "model.safetensors").touch()
    with pytest.raises(ModelError, match=r"names no context length; set model.max_length"):
        read_model_facts(section)
    section = build(f"model.path={folder}", "model.max_length=64").model
    assert read_model_facts(section).max_length == 64
    with pytest.raises(ModelError, match=r"no usable tokenizer .* in the folder"):
        load_tokenizer(str(folder))


def test_tokenizer_of_another_model_is_refused(build, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    load_tokenizer(str(MODEL)).save_pretrained(folder)
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text('{"vocab_size": 20, "max_position_embeddings": 256}')
    with pytest.raises(ModelError, match=r"tokenizer gives token .*, the model knows 20"):
        load_run_data(build(f"model.path={folder}"))


def test_demonstrations_come_in_seeded_order(build) -> None:
    config = build("demonstrations.per_step=3")
    data = load_run_data(config)
    first, again = (Demonstrations(config, data.demonstrations) for _ in range(2))
    steps = [first.next_batch(step, "next", ()) for step in range(4)]
    assert again.next_batch(2, "next", ()) == steps[2]
    assert first.next_batch(2, "none", ()) == ()
    assert sorted(d.id for batch in steps for d in batch) == sorted("1234" * 3)


def test_matching_demonstrations_are_those_of_the_prompts(build, tmp_path: Path) -> None:
    rows = [{"prompt": f"1+{n}=?\n", "answer": str(n + 1), "reasoning": "x"} for n in range(4)]
    shown = write(tmp_path / "shown.jsonl", rows[:3])
    asked = write(tmp_path / "asked.jsonl", rows[1:])
    config = build("method.kind=luffy", f"prompts.path={asked}", f"demonstrations.path={shown}")
    data = load_run_data(config)
    groups = [ScoredGroup(prompt, (), ()) for prompt in data.prompts]
    found = Demonstrations(config, data.demonstrations).next_batch(0, "matching", groups)
    assert [d.id for d in found] == [prompt.id for prompt in data.prompts[:2]]
    assert [d.prompt_ids for d in found] == [prompt.token_ids for prompt in data.prompts[:2]]
    other = write(tmp_path / "other.jsonl", [{"prompt": "9+9=?\n", "answer": "18"}] * 3)
    with pytest.raises(DataError, match="needs demonstrations of the prompts it samples"):
        load_run_data(
            build("method.kind=hpt", f"prompts.path={other}", f"demonstrations.path={shown}")
        )


def test_validation_rows_are_kept_from_training(build, tmp_path: Path) -> None:
    rows = [{**TRACE, "prompt": f"1+2={n}\n"} for n in range(40)]
    path = f"demonstrations.path={write(tmp_path / 'many.jsonl', rows)}"
    assert len(load_run_data(build(path)).validation) == 0
    kept = load_run_data(build(path, "method.kind=cold_start"))
    assert (len(kept.demonstrations), len(kept.validation)) == (36, 4)
    assert not {d.prompt_ids for d in kept.demonstrations} & {d.prompt_ids for d in kept.validation}
    asked = load_run_data(build(path, "evaluation.num_demonstrations=7"))
    assert len(asked.validation) == 7
    measured = load_run_data(build(path, "method.kind=rl", "evaluation.num_demonstrations=7"))
    assert (len(measured.demonstrations), measured.validation) == (0, asked.validation)
    for num_kept, left in ((39, 1), (55, 0)):
        with pytest.raises(DataError, match=rf"per_step must be at most the {left} rows"):
            load_run_data(build(path, f"evaluation.num_demonstrations={num_kept}"))


def test_sources_come_from_their_column(build, tmp_path: Path) -> None:
    rows = [{**TRACE, "origin": name} for name in ("a", "b", "a", "c")]
    path = f"demonstrations.path={write(tmp_path / 'sources.jsonl', rows)}"
    data = load_run_data(build(path, "demonstrations.source_column=origin"))
    assert [d.source for d in data.demonstrations] == ["a", "b", "a", "c"]
    assert {d.source for d in load_run_data(build(path)).demonstrations} == {"demonstrations"}


SHOWN = 'method={kind: self_distil, template: "{prompt}{demonstration}\\n{prompt}"}'


def test_a_teachers_prompt_holds_the_question_and_its_demonstration(build) -> None:
    data = load_run_data(build(SHOWN))
    tokenizer = load_tokenizer(str(MODEL))
    shown = data.demonstrations[0]
    assert tokenizer.decode(shown.teacher_prompt_ids) == "1+2=?\n1+2=3\n#3\n1+2=?\n"
    assert shown.prompt_ids == data.prompts[0].token_ids
    assert data.decode(shown.response_ids) == "1+2=3\n#3"
    assert load_run_data(build()).demonstrations[0].teacher_prompt_ids == ()


def test_a_teachers_prompt_that_leaves_no_room_for_the_response_is_refused(build) -> None:
    said = "prompts with a demonstration in them may have 20 tokens .context 76 less 56"
    with pytest.raises(DataError, match=said):
        load_run_data(build(SHOWN, "model.max_length=76"))


def test_prefix_is_refused_where_no_prompt_comes_up_again(build) -> None:
    """There are 4 prompts, and 2 of them in a step."""
    assert len(load_run_data(build("method.kind=prefix", "run.num_steps=3")).prompts) == 4
    with pytest.raises(DataError, match=r"2 steps of prompts\.per_step 2 do not go through the 4"):
        load_run_data(build("method.kind=prefix", "run.num_steps=2"))
