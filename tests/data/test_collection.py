"""Mixtures, dropped rows, lazily rendered rows: what a step sees never depends on history."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import coop_rl.data.collection as collection
from coop_rl.config import RunConfig, load_config
from coop_rl.data.collection import Mixture
from coop_rl.data.load import load_run_data
from coop_rl.data.order import MixtureOrder, SeededOrder
from coop_rl.data.rendering import load_tokenizer
from coop_rl.driver.demonstrations import Demonstrations
from coop_rl.errors import ConfigError, DataError

ROOT = Path(__file__).parents[2]
DEMO, MODEL = ROOT / "configs/local/demo.yaml", ROOT / "configs/local/demo/model"


def write(path: Path, num_rows: int, *bad: str, first: int = 0) -> Path:
    rows = [
        {"id": f"r{i}", "prompt": f"{i}+1=?\n", "answer": str(i + 1), "reasoning": f"{i}+1={i + 1}"}
        for i in range(first, first + num_rows)
    ]
    path.write_text(
        "".join(f"{json.dumps(row)}\n" for row in rows) + "".join(f"{b}\n" for b in bad)
    )
    return path


def configure(folder: Path, *overrides: str) -> RunConfig:
    paths = {
        s: write(folder / f"{s}.jsonl", 30) for s in ("prompts", "demonstrations", "evaluation")
    }
    sets = [
        f"prompts.path={paths['prompts']}",
        f"demonstrations.path={paths['demonstrations']}",
        f"evaluation.data.path={paths['evaluation']}",
        f"model.path={MODEL}",
        "prompts.per_step=8",
        "demonstrations.per_step=8",
    ]
    return load_config(DEMO, [*sets, *overrides])


def mixed(folder: Path, *overrides: str) -> RunConfig:
    a, b = write(folder / "a.jsonl", 30), write(folder / "b.jsonl", 20, first=100)
    entries = f"[{{name: a, path: {a}, weight: 3}}, {{name: b, path: {b}, weight: 1}}]"
    sets = ["prompts.path=null", f"prompts.mixture={entries}"]
    sets += ["demonstrations.path=null", f"demonstrations.mixture={entries}"]
    return configure(folder, *sets, *overrides)


def test_a_mixture_has_its_weights_in_every_batch_and_visits_every_row() -> None:
    order = MixtureOrder([30, 20], [3, 1], per_step=8, seed=1)
    batches = [order.batch(step) for step in range(20)]
    assert all(Counter(i < 30 for i in batch) == {True: 6, False: 2} for batch in batches)
    first = [i for batch in batches for i in batch if i < 30]
    assert sorted(first[:30]) == list(range(30))
    assert first[:30] != first[30:60]


@pytest.mark.parametrize("step", [0, 4, 5, 9, 37])
def test_a_resumed_mixture_gives_the_same_batch(step: int) -> None:
    running = MixtureOrder([7, 20, 3], [0.5, 0.2, 0.3], per_step=4, seed=1)
    expected = [running.batch(k) for k in range(step + 1)][-1]
    assert MixtureOrder([7, 20, 3], [0.5, 0.2, 0.3], per_step=4, seed=1).batch(step) == expected


def test_odd_weights_hold_over_time() -> None:
    weights = np.array([0.61, 0.27, 0.12])
    order = MixtureOrder([50, 50, 50], weights.tolist(), per_step=3, seed=0)
    drawn = np.zeros(3)
    for step in range(300):
        drawn += np.bincount([i // 50 for i in order.batch(step)], minlength=3)
        assert np.abs(drawn - weights * drawn.sum()).max() <= 1.0


def test_one_source_has_the_order_it_always_had() -> None:
    order = Mixture.of(range(11)).order(4, 3, stream=1)
    assert [order.batch(k) for k in range(9)] == [
        SeededOrder(11, 4, 3, 1).batch(k) for k in range(9)
    ]


def test_entries_of_a_mixture_name_ids_sources_and_verifiers(tmp_path: Path) -> None:
    config = mixed(tmp_path)
    data = load_run_data(config)
    assert len(data.prompts) == 50
    assert (data.prompts[0].id, data.prompts[49].id) == ("a/r0", "b/r119")
    assert data.prompts[49].source == "b"
    assert data.sources == ("a", "b")
    shown = Demonstrations(config, data.demonstrations)
    assert Counter(d.source for d in shown.next_batch(3, "next", ())) == {"a": 6, "b": 2}


def test_a_mixture_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a source of 20 rows gives about 36.0 of the 48 rows"):
        load_run_data(_heavy(tmp_path))
    for override, message in (
        ("prompts.path=x.jsonl", "either mixture or one of"),
        ("prompts.mixture=[{name: a, path: x}, {name: a, path: y}]", "must differ"),
        ("prompts.mixture=[{name: a}]", "got none"),
    ):
        with pytest.raises(ConfigError, match=message):
            mixed(tmp_path, override)


def _heavy(folder: Path) -> RunConfig:
    a, b = write(folder / "a.jsonl", 60), write(folder / "b.jsonl", 20, first=100)
    entries = f"[{{name: a, path: {a}, weight: 1}}, {{name: b, path: {b}, weight: 3}}]"
    return configure(
        folder, "prompts.path=null", f"prompts.mixture={entries}", "prompts.per_step=48"
    )


BAD = (
    "not json",
    '{"prompt": "1=?\\n"}',
    '{"id": "r0", "prompt": "1=?\\n", "answer": "1"}',
    json.dumps({"id": "long", "prompt": "1" * 400, "answer": "1"}),
    '{"id": "gold", "prompt": "1=?\\n", "answer": "#1"}',
)


def test_bad_rows_are_left_out_and_summed_up(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", 30, *BAD)
    config = configure(tmp_path, f"prompts.path={path}")
    with pytest.raises(DataError, match=r"bad.jsonl:31: not JSON.*\(5 rows of .* are bad\)"):
        load_run_data(config)
    data = load_run_data(configure(tmp_path, f"prompts.path={path}", "prompts.max_dropped=0.2"))
    assert len(data.prompts) == 30
    dropped = data.dropped[0]
    assert (dropped.total, dropped.num_rows) == (5, 35)
    assert {kind: count for kind, count, _ in dropped.kinds} == {
        "not JSON": 1, "column missing": 1, "id seen before": 1, "too long": 1,
        "gold answer not verifiable": 1,
    }  # fmt: skip
    assert all("bad.jsonl:3" in message for _, _, message in dropped.kinds)


def test_large_sources_are_rendered_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same items as rendered before; a bad row found late stands for the next good one."""
    path = write(tmp_path / "bad.jsonl", 30, BAD[3])
    sets = (f"prompts.path={path}", "prompts.max_dropped=0.1")
    eager = load_run_data(configure(tmp_path, *sets)).prompts
    monkeypatch.setattr(collection, "EAGER_ROWS", 10)
    lazy = load_run_data(configure(tmp_path, *sets)).prompts
    assert len(lazy) == 31
    assert [lazy[i] for i in range(30)] == [eager[i] for i in range(30)]
    assert lazy[30] == lazy[0]
    with pytest.raises(DataError, match="prompts may have"):
        load_run_data(configure(tmp_path, f"prompts.path={path}"))
    kept, tail = lazy.split_tail(3)
    assert (len(kept), [p.id for p in tail]) == (28, ["r28", "r29", "r28"])


def test_templates_of_question_system_and_thinking(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(MODEL))
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}:"
    folder = tmp_path / "chat"
    tokenizer.save_pretrained(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(MODEL / name)
    sets = ("prompts.template=null", f"model.path={folder}", "prompts.system='1'")
    data = load_run_data(configure(tmp_path, *sets, "prompts.question_template='{prompt}2'"))
    assert data.prompts[0].text == "<system>1<user>0+1=?\n2:"
    with pytest.raises(ConfigError, match="set template null"):
        configure(tmp_path, "prompts.system='1'")
    with pytest.raises(ConfigError, match=r"question_template must contain \{prompt\}"):
        load_run_data(configure(tmp_path, "prompts.question_template=x"))


def test_several_files_patterns_and_parquet(tmp_path: Path) -> None:
    import datasets

    folder = tmp_path / "parts"
    folder.mkdir()
    for first in (0, 10):
        write(folder / f"p{first}.jsonl", 10, first=first)
    many = load_run_data(configure(tmp_path, f"prompts.path={folder}/p*.jsonl")).prompts
    assert [p.id for p in (many[0], many[19])] == ["r0", "r19"]
    table = datasets.Dataset.from_json(str(tmp_path / "prompts.jsonl"), cache_dir=str(tmp_path))
    table.to_parquet(tmp_path / "t.parquet")
    table.save_to_disk(str(tmp_path / "saved"))
    plain = load_run_data(configure(tmp_path)).prompts
    for source in (
        f"prompts.path={tmp_path}/t.parquet",
        f"prompts.dataset={{name: {tmp_path}/saved}}",
    ):
        null = [] if "path=" in source else ["prompts.path=null"]
        read = load_run_data(configure(tmp_path, *null, source)).prompts
        assert list(read) == list(plain)
    for source, message in (
        (f"prompts.path={tmp_path}/none*.jsonl", "matches no file"),
        (f"prompts.path=[{tmp_path}/t.parquet, {folder}/p0.jsonl]", "mixes parquet"),
        (f"prompts.path={tmp_path}/none.parquet", "No such file"),
    ):
        with pytest.raises(DataError, match=message):
            load_run_data(configure(tmp_path, source))


def test_streamed_rows_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COOP_RL_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "local"
    source.mkdir()
    write(source / "train.jsonl", 30)
    sets = (
        "prompts.path=null",
        f"prompts.dataset={{name: {source}, streaming: true, num_rows: 12}}",
    )
    first = load_run_data(configure(tmp_path, *sets)).prompts
    (source / "train.jsonl").unlink()
    again = load_run_data(configure(tmp_path, *sets)).prompts
    assert [p.id for p in first] == [f"r{i}" for i in range(12)]
    assert list(again) == list(first)
    with pytest.raises(ConfigError, match="give num_rows"):
        configure(tmp_path, "prompts.path=null", "prompts.dataset={name: x, streaming: true}")
