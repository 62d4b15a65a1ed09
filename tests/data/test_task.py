"""Generated tasks: distinct questions, none of the evaluation's, clear errors."""

import json
from pathlib import Path

import pytest

from coop_rl.config import RunConfig, load_config
from coop_rl.config.data import ReasoningGymTask
from coop_rl.data.load import load_run_data
from coop_rl.data.task import generate_rows
from coop_rl.errors import ConfigError, DataError

DEMO = Path("configs/local/demo.yaml")
LEVEL = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def task(num_rows: int, seed: int = 0, **more) -> ReasoningGymTask:
    return ReasoningGymTask(
        name="chain_sum", settings={**LEVEL, **more}, num_rows=num_rows, seed=seed
    )


def test_rows_are_distinct_and_the_same_every_time() -> None:
    rows = generate_rows("prompts", task(150), 150)
    assert len({row.columns["prompt"] for row in rows}) == 150
    assert len({row.id for row in rows}) == 150
    assert rows == generate_rows("prompts", task(150), 150)
    assert rows != generate_rows("prompts", task(150, seed=9), 150)
    for row in rows:
        left, sign, right = row.columns["expression"].split()
        value = int(left) + int(right) if sign == "+" else int(left) - int(right)
        assert row.columns["answer"] == str(value)
        assert f"{row.columns['expression']} =" in row.columns["prompt"]


def test_excluded_questions_never_occur_and_all_others_do() -> None:
    held_out = {row.columns["prompt"] for row in generate_rows("e", task(128), 128)}
    rest = {row.columns["prompt"] for row in generate_rows("p", task(72, seed=7), 72, held_out)}
    assert len(rest) == 72
    assert not rest & held_out


def test_level_with_too_few_questions_is_refused() -> None:
    with pytest.raises(DataError, match=r"gave only 200 different questions .*201 are wanted"):
        generate_rows("prompts", task(201), 201)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("chain_some", {}, "not registered"),
        ("chain_sum", {"digits": 1}, "unexpected keyword argument 'digits'"),
        ("chain_sum", {"min_terms": 3, "max_terms": 2}, "max_terms must be >= min_terms"),
    ],
)
def test_unknown_task_or_setting_is_refused(name, settings, message) -> None:
    wrong = ReasoningGymTask(name=name, settings=settings, num_rows=1)
    with pytest.raises(ConfigError, match=message):
        generate_rows("prompts", wrong, 1)


def set_task(section: str, num_rows: int, seed: int = 5) -> str:
    return f"{section}.task={task(num_rows, seed).model_dump_json()}"


def config(*overrides: str) -> RunConfig:
    sets = []
    for section, rows in (("prompts", 72), ("demonstrations", 72), ("evaluation.data", 128)):
        sets += [f"{section}.path=null", set_task(section, rows)]
    return load_config(
        DEMO,
        [
            *sets,
            "evaluation.num_items=128",
            "demonstrations.reasoning_column=expression",
            'demonstrations.response_template="{reasoning} = {answer}"',
            "reward.kind=number",
            *overrides,
        ],
    )


def test_training_never_gets_a_question_of_the_evaluation() -> None:
    data = load_run_data(config())
    held_out = {prompt.token_ids for prompt in data.held_out}
    assert len(held_out) == 128
    assert not held_out & {prompt.token_ids for prompt in data.prompts}
    assert not held_out & {d.prompt_ids for d in data.demonstrations}


def test_nor_one_of_an_evaluation_file(tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.jsonl"
    taken = generate_rows("e", task(150), 150)
    held_out.write_text("".join(json.dumps(row.columns) + "\n" for row in taken))
    path = [f"evaluation.data.path={held_out}", "evaluation.data.task=null"]
    fitting = [f"{s}.task.num_rows=50" for s in ("prompts", "demonstrations")]
    sizes = ["prompts.per_step=8", "demonstrations.per_step=8", "evaluation.num_items=150"]
    data = load_run_data(config(*path, *fitting, *sizes))
    assert len(data.prompts) == 50
    assert not {p.text for p in data.held_out} & {p.text for p in data.prompts}


def test_nor_one_of_any_of_its_sets() -> None:
    asked = {row.columns["prompt"] for row in generate_rows("e", task(30, seed=10**6), 30)}
    sections = ("prompts", "demonstrations")
    fewer = [f"{s}.{field}" for s in sections for field in ("task.num_rows=20", "per_step=8")]
    alone = load_run_data(config())
    assert asked & {prompt.text.strip() for prompt in alone.prompts}
    data = load_run_data(config(*fewer, set_task("evaluation.more_data.more", 30, seed=10**6)))
    assert len(data.prompts) == 20
    assert not asked & {prompt.text.strip() for prompt in data.prompts}


def test_file_and_task_together_or_neither_are_refused() -> None:
    with pytest.raises(ConfigError, match="got path and task"):
        config("prompts.path=rows.jsonl")
    with pytest.raises(ConfigError, match="got none"):
        load_config(DEMO, ["prompts.path=null"])
