"""Sets as the engines get them: question, template, verifier, and room for the response."""

import json
from pathlib import Path

import pytest

from coop_rl.config import load_serving_config
from coop_rl.errors import DataError
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


def test_a_part_of_a_benchmark_does_not_go_by_its_name(tmp_path: Path) -> None:
    overrides = ("evaluation.benchmark_items=1", "rollout.max_tokens=8", "model.max_length=256")
    (found,) = sets(tmp_path, *overrides)
    assert (found.name, len(found.prompts)) == ("minerva_math-first1", 1)
