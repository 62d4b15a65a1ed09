"""Sets as the engines get them: question, template, verifier, and room for the response."""

import json
from pathlib import Path

import pytest

from coop_rl.config import load_serving_config
from coop_rl.data.rendering import load_tokenizer
from coop_rl.errors import ConfigError, DataError
from coop_rl.evaluation.sets import serving_sets

ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "configs/local/demo/model")
ROWS = [
    {"id": "a", "problem": "1+1+1=?", "answer": "3", "answer_tex": "\\frac{6}{2}"},
    {"id": "b", "problem": "2+2+2=?", "answer": "6"},
]


def sets(folder: Path, *overrides: str):
    path = folder / "minerva_math/test.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    evaluation = {"benchmarks": ["minerva_math"], "data_dir": str(folder)}
    return serving_sets(
        load_serving_config(None, {"model": {"path": MODEL}, "evaluation": evaluation}, overrides)
    )


def test_a_model_without_a_chat_template_is_asked_plainly(tmp_path: Path) -> None:
    (found,) = sets(tmp_path, "rollout.max_tokens=8", "model.max_length=256")
    first, second = found.prompts
    assert found.name == "minerva_math"
    assert first.text == (
        "1+1+1=?\nPlease reason step by step, and put your final answer within \\boxed{}.\n"
    )
    assert (first.id, first.answer, first.verifier) == ("a", "3", "math")
    assert json.loads(first.details) == {"golds": ["\\frac{6}{2}"]}
    assert second.details == ""


def test_prompts_leave_room_for_the_response(tmp_path: Path) -> None:
    sets(tmp_path, "evaluation.max_tokens=8", "model.max_length=256", "rollout.max_tokens=999")
    with pytest.raises(DataError, match=r"minerva_math/test\.jsonl:1: prompts may have 6 tokens"):
        sets(tmp_path, "evaluation.max_tokens=250", "model.max_length=256")


def test_own_data_comes_first(tmp_path: Path) -> None:
    held_out = ROOT / "configs/local/demo/held_out.jsonl"
    found = sets(
        tmp_path,
        f"evaluation.data={{path: {held_out}}}",
        "evaluation.num_items=1",
        "rollout.max_tokens=8",
    )
    # A benchmark is whole, whatever of the data is used.
    assert [(s.name, len(s.prompts)) for s in found] == [("held_out", 1), ("minerva_math", 2)]
    assert found[0].prompts[0].verifier == ""


def test_more_data_comes_behind_it_each_set_by_itself(tmp_path: Path) -> None:
    held_out = ROOT / "configs/local/demo/held_out.jsonl"
    harder = tmp_path / "harder.jsonl"
    harder.write_text('{"prompt": "99+99=?", "answer": "198"}\n' * 3)
    found = sets(
        tmp_path,
        f"evaluation.data={{path: {held_out}}}",
        f"evaluation.more_data.harder={{path: {harder}, verifier: number}}",
        "evaluation.num_items=2",
        "rollout.max_tokens=8",
    )
    shown = [(s.name, len(s.prompts)) for s in found]
    assert shown == [("held_out", 2), ("harder", 2), ("minerva_math", 2)]
    assert {prompt.verifier for prompt in found[1].prompts} == {"number"}
    harder.write_text('{"prompt": "99+99=?"}\n')
    with pytest.raises(DataError, match=r"harder\.jsonl"):
        sets(tmp_path, f"evaluation.more_data.harder.path={harder}", "rollout.max_tokens=8")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("evaluation.more_data.gsm8k.path=mine.jsonl", "got gsm8k twice"),
        ("evaluation.more_data={a/b: {path: mine.jsonl}}", "more_data"),
        ("evaluation.more_data.harder={}", "more_data.harder"),
    ],
)
def test_what_names_no_set_is_refused(given: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_serving_config(
            None,
            {"model": {"path": MODEL}, "evaluation": {"benchmarks": ["gsm8k"]}},
            [given],
        )


def test_a_part_of_a_benchmark_does_not_go_by_its_name(tmp_path: Path) -> None:
    overrides = ("evaluation.benchmark_items=1", "rollout.max_tokens=8", "model.max_length=256")
    (found,) = sets(tmp_path, *overrides)
    assert (found.name, len(found.prompts)) == ("minerva_math-first1", 1)


def test_benchmarks_are_asked_with_arguments_of_the_chat_template(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = "evaluation.template_arguments={enable_thinking: false}"
    sizes = ("rollout.max_tokens=8", "model.max_length=256")
    with pytest.raises(ConfigError, match="are for the model's chat template, and it has none"):
        sets(tmp_path, arguments, *sizes)
    tokenizer = load_tokenizer(MODEL)
    tokenizer.chat_template = "{{ messages[0].content }}{% if not enable_thinking %}4{% endif %}"
    monkeypatch.setattr("coop_rl.evaluation.sets.load_tokenizer", lambda _: tokenizer)
    (found,) = sets(tmp_path, arguments, *sizes)
    assert found.prompts[0].text.endswith("within \\boxed{}.4")


def test_reward_functions_get_the_columns_of_a_benchmark(tmp_path: Path) -> None:
    """A term of the user's own is asked in evaluations too."""
    sizes = ("rollout.max_tokens=8", "model.max_length=256")
    parts = 'reward.parts={own: {kind: python, function: "a:b"}}'
    (found,) = sets(tmp_path, parts, *sizes)
    assert json.loads(found.prompts[0].columns) == ROWS[0]
    assert sets(tmp_path, *sizes)[0].prompts[0].columns == ""
