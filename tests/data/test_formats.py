"""The field's row formats: what is read as what, as docs/data.md says."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from coop_rl.config.data import DataSource, TraceSource
from coop_rl.data.jsonl import MISSING, look_up, open_jsonl
from coop_rl.data.model_folder import ModelFacts
from coop_rl.data.rendering import Renderer, load_tokenizer
from coop_rl.data.rows import RowError, Wanted
from coop_rl.data.tables import open_parquet
from coop_rl.errors import ConfigError, DataError
from tests.data.test_collection import MODEL, configure

CHAT_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    "{% if enable_thinking is false %}<think></think>{% endif %}"
)
ASKED = {"role": "user", "content": "1+2=?"}
ANSWERED = {"role": "assistant", "content": "1+2=3\n#3"}
MESSAGES = [{"role": "system", "content": "0"}, {"role": "user", "content": "1"},
            {"role": "assistant", "content": "2"}, ASKED, ANSWERED]  # fmt: skip
SHAREGPT = [{"from": "human", "value": "1+2=?"}, {"from": "gpt", "value": "1+2=3\n#3"}]
GSM8K = {"question": "1+2=?", "answer": "1+2=<<1+2=3>>3\n#### 3"}
VERL = {"data_source": "x", "prompt": [ASKED], "reward_model": {"ground_truth": "3", "style": "r"}}
PARTS = [{"role": "user", "content": [{"type": "text", "text": "1+"}, {"type": "text", "text": "2=?"}]}]  # noqa: E501 # fmt: skip


def save(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def renderer(source: DataSource | TraceSource) -> Renderer:
    """Render with a template that shows every turn, into bytes as tokens."""
    tokenizer = load_tokenizer(str(MODEL))
    tokenizer.chat_template = CHAT_TEMPLATE
    vars(tokenizer)["encode"] = lambda text, **_: list(text.encode())
    return Renderer("prompts", source, tokenizer, ModelFacts(1000, None, 8), 8)


def read(folder: Path, row: object, source: DataSource | TraceSource) -> Any:
    wanted = Wanted(source.columns, source.optional_columns)
    opened = open_jsonl([save(folder / "rows.jsonl", row)], wanted)
    opened.bad.settle("rows", 1, 0.0)
    return opened.rows[0]


CHAT = {"template": None, "path": "x"}
LAST = "<user>1+2=?<assistant>"
BEFORE = "<system>0<user>1<assistant>2"


@pytest.mark.parametrize(
    ("row", "fields", "prompt", "answer"),
    [
        (VERL, {"answer_column": "reward_model.ground_truth"}, LAST, "3"),
        ({"reward_model.ground_truth": 7, **VERL}, {"answer_column": "reward_model.ground_truth"},
         LAST, "7"),
        ({"messages": MESSAGES, "answer": "3"}, {"prompt_column": "messages"}, BEFORE + LAST, "3"),
        ({"messages": MESSAGES[:4], "answer": "3"}, {"prompt_column": "messages"},
         BEFORE + LAST, "3"),
        ({"messages": MESSAGES}, {"prompt_column": "messages", "answer_column": "messages",
         "answer_marker": "#"}, BEFORE + LAST, "3"),
        ({"conversations": SHAREGPT, "answer": 3}, {"prompt_column": "conversations"}, LAST, "3"),
        ({"prompt": PARTS, "answer": "3"}, {}, LAST, "3"),
        ({"prompt": [ASKED], "answer": "3"}, {"system": "9"}, "<system>9" + LAST, "3"),
        ({"prompt": MESSAGES, "answer": "3"}, {"system": "9"}, BEFORE + LAST, "3"),
        ({"prompt": [ASKED], "answer": "3"}, {"question_template": "Q {prompt}"},
         "<user>Q 1+2=?<assistant>", "3"),
        ({"prompt": [ASKED], "answer": "3"}, {"template_arguments": {"enable_thinking": False}},
         LAST + "<think></think>", "3"),
        ({"prompt": [ASKED], "answer": "3"}, {"template": "Q {prompt}"}, "Q 1+2=?", "3"),
        (GSM8K, {"prompt_column": "question", "answer_marker": "####", "template": "{prompt}"},
         "1+2=?", "3"),
    ],
)  # fmt: skip
def test_prompts(tmp_path: Path, row: object, fields: dict[str, Any], prompt: str, answer: str):
    source = DataSource.model_validate(CHAT | fields)
    made = renderer(source).prompt(read(tmp_path, row, source))
    assert (made.text, made.answer) == (prompt, answer)


COMPLETION = {"prompt": "1+2=?", "completion": "1+2=3\n#3"}
BOTH = {"prompt_column": "messages", "response_column": "messages"}


@pytest.mark.parametrize(
    ("row", "fields", "prompt", "response"),
    [
        ({"messages": MESSAGES}, BOTH, BEFORE + LAST, "1+2=3\n#3"),
        ({"conversations": SHAREGPT}, {"prompt_column": "conversations",
         "response_column": "conversations"}, LAST, "1+2=3\n#3"),
        (COMPLETION, {"response_column": "completion"}, LAST, "1+2=3\n#3"),
        ({"prompt": [ASKED], "completion": [ANSWERED]}, {"response_column": "completion"},
         LAST, "1+2=3\n#3"),
        ({**COMPLETION, "completion": ["x", "1+2=3\n#3"]}, {"response_column": "completion.1"},
         LAST, "1+2=3\n#3"),
        (GSM8K, {"prompt_column": "question", "reasoning_column": "answer",
         "answer_marker": "####"}, LAST, "1+2=<<1+2=3>>3\n#3"),
    ],
)  # fmt: skip
def test_demonstrations(
    tmp_path: Path, row: object, fields: dict[str, Any], prompt: str, response: str
) -> None:
    source = TraceSource.model_validate(CHAT | {"name": "t"} | fields)
    made = renderer(source).demonstration(read(tmp_path, row, source), source)
    assert bytes(made.prompt_ids).decode() == prompt
    assert bytes(made.response_ids[:-1]).decode() == response


def turn(role: str, content: object, **more: object) -> dict[str, object]:
    return {"role": role, "content": content, **more}


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([ASKED, turn("tool", "7")], r"column 'messages': turn 2 is of 'tool'; allowed: system"),
        ([ASKED, turn("assistant", None)], "turn 2 must be text alone"),
        ([turn("user", [{"type": "image"}])], "turn 1 must be text alone"),
        ([ASKED, {**ANSWERED, "reasoning_content": "So"}], "turn 2 has reasoning_content, which"),
        ([ASKED, {**ANSWERED, "tool_calls": [{"id": 1}]}], "turn 2 has tool_calls, which is"),
        ([ASKED, turn("assistant", " ")], "the last turn is empty"),
        ([ASKED, turn("assistant", "\ud83d")], r"holds half a character \(\\ud83d, character 1"),
        ([ANSWERED], "must end in a turn of the user's"),
        ([ASKED, turn("system", "x")], "must end in a turn of the user's"),
        ([ASKED], "must end in a turn of the assistant's, got the user's"),
        (["x"], "column 'messages' must be text"),
        ([], "column 'messages' must be text"),
    ],
)
def test_chats_that_cannot_be_read_are_named(tmp_path: Path, chat: list[Any], message: str) -> None:
    source = TraceSource.model_validate(CHAT | {"name": "t"} | BOTH)
    with pytest.raises(DataError, match=message):
        renderer(source).demonstration(read(tmp_path, {"messages": chat}, source), source)


def test_several_turns_need_a_chat_template(tmp_path: Path) -> None:
    source = DataSource.model_validate({"path": "x", "prompt_column": "messages"})
    row = read(tmp_path, {"messages": MESSAGES, "answer": "3"}, source)
    with pytest.raises(RowError, match=r"chat of 4 turns needs .*; set prompts.template null"):
        renderer(source).prompt(row)


def test_a_solution_without_its_marker_is_a_bad_row(tmp_path: Path) -> None:
    source = DataSource.model_validate({"path": "x", "answer_marker": "####"})
    for answer in ("3", "so ####", "so #### \n"):
        with pytest.raises(RowError, match="'answer' has no answer after a '####'"):
            renderer(source).prompt(read(tmp_path, {"prompt": "1", "answer": answer}, source))


@pytest.mark.parametrize("name", ["enable_thinkin", "messages", "add_generation_prompt"])
def test_arguments_the_chat_template_does_not_read_are_refused(name: str) -> None:
    source = DataSource.model_validate(CHAT | {"template_arguments": {name: True}})
    with pytest.raises(ConfigError, match=f"template_arguments: .* reads no {name}"):
        renderer(source)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"template": "{prompt}", "template_arguments": {"a": 1}}, "set template null"),
        ({"response_column": "r", "response_template": "{answer}"}, "give one of them"),
    ],
)
def test_fields_that_exclude_each_other(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TraceSource.model_validate(CHAT | {"name": "t"} | fields)


def test_a_missing_column_says_where_the_messages_are(tmp_path: Path) -> None:
    source = DataSource(path="x")
    with pytest.raises(
        DataError, match=r"'prompt' is missing.*\('messages' holds messages: docs/data"
    ):
        read(tmp_path, {"messages": MESSAGES}, source)


def test_names_go_into_objects_and_lists() -> None:
    row = {"a": {"b": [{"c": 1}]}, "a.b": 2}
    assert look_up(row, "a.b") == 2
    assert look_up({"a": row["a"]}, "a.b.0.c") == 1
    for name in ("a.c", "a.b.1", "a.b.x", "a.b.0.c.d", "d"):
        assert look_up({"a": row["a"]}, name) is MISSING


def plain(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def packed(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()))
    return path


ROWS = [{"prompt": f"{i}+1=?", "answer": str(i + 1)} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    ("name", "write", "text"),
    [
        ("rows.jsonl.gz", packed, LINES),
        ("rows.jsonl", packed, LINES.rstrip()),
        ("rows.jsonl.gz", plain, LINES),
        ("rows.json", plain, json.dumps(ROWS, indent=1)),
        ("rows.json", plain, "\ufeff" + LINES),
        ("rows.json.gz", packed, json.dumps(ROWS)),
    ],
)
def test_gzip_and_arrays_are_read_like_lines(
    tmp_path: Path, name: str, write: Callable[[Path, str], Path], text: str
) -> None:
    """Also with a bad row, a limit, and beside a plain file."""
    path, wanted = write(tmp_path / name, text), Wanted(("prompt", "answer"))
    rows = open_jsonl([path], wanted).rows
    assert [(row.id, row.place, row.columns) for row in rows] == [
        (str(i), f"{path}:{i}", row) for i, row in enumerate(ROWS, start=1)
    ]
    assert [row.id for row in open_jsonl([path], wanted, limit=2).rows] == ["1", "2"]
    other = save(tmp_path / "other.jsonl", {"prompt": "x"}, *ROWS)
    both = open_jsonl([other, path, other], wanted)
    assert [row.columns for row in both.rows] == ROWS * 2 + ROWS
    assert both.bad.total == 2


def test_verl_rows_of_a_parquet_file(tmp_path: Path) -> None:
    import datasets

    path = tmp_path / "verl.parquet"
    rows = [{**VERL, "extra_info": {"index": i, "split": "train"}} for i in range(2)]
    datasets.Dataset.from_list(rows).to_parquet(path)
    source = DataSource(path="x", answer_column="reward_model.ground_truth", template=None)
    opened = open_parquet([path], Wanted(source.columns), None)
    assert [renderer(source).prompt(row).text for row in opened.rows] == [LAST] * 2
    assert opened.rows[0].columns == {"reward_model.ground_truth": "3"}
    whole = open_parquet([path], Wanted(source.columns, is_whole=True), None).rows[1].whole
    assert json.loads(whole) == rows[1]
    with pytest.raises(DataError, match="'answer' is missing, got data_source, prompt, reward_mo"):
        open_parquet([path], Wanted(("prompt", "answer")), None)


LOCAL = Path(__file__).parents[3] / "shared/data/train"


@pytest.mark.parametrize("name", ["gsm8k", "math", "aime_1983_2023", "knights_knaves"])
def test_local_sets_are_read(name: str) -> None:
    path = LOCAL / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip("no local sets")
    read = open_jsonl([path], Wanted(("problem", "answer"), ("solution",)), limit=200)
    assert (len(read.rows), read.bad.total) == (200, 0)


def test_a_run_on_messages(tmp_path: Path) -> None:
    """Prompts and demonstrations of one file share their tokens; no gold is needed to imitate."""
    from coop_rl.data.load import load_run_data

    chats = [
        {"messages": [turn("user", f"{i}+1=?\n"), turn("assistant", f"{i}+1={i + 1}\n#{i + 1}")]}
        for i in range(8)
    ]
    path = save(tmp_path / "chats.jsonl", *chats)
    config = configure(
        tmp_path,
        f"prompts.path={path}",
        "prompts.prompt_column=messages",
        "prompts.answer_column=messages",
        "prompts.answer_marker='#'",
        f"demonstrations.path={path}",
        "demonstrations.prompt_column=messages",
        "demonstrations.response_column=messages",
    )
    data = load_run_data(config)
    assert [d.prompt_ids for d in data.demonstrations] == [p.token_ids for p in data.prompts]
    assert [p.answer for p in data.prompts] == [str(i + 1) for i in range(8)]
    assert data.decode(data.demonstrations[3].response_ids) == "3+1=4\n#4"
