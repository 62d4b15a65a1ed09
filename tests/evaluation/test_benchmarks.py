"""Benchmark names, files, and what their verifiers are told; the texts are never kept here."""

import json
from pathlib import Path

import pytest

from coop_rl.errors import ConfigError, DataError
from coop_rl.evaluation.benchmarks import BENCHMARKS, benchmark_rows, find_benchmark

SHARED = Path(__file__).parents[3] / "shared/data/benchmarks"
NUM_ROWS = {
    "math500": 500,
    "minerva_math": 272,
    "olympiadbench": 675,
    "aime24": 30,
    "aime25": 30,
    "amc23": 40,
    "gsm8k": 1319,
    "knights_knaves": 500,
}


def write(folder: Path, name: str, *rows: object) -> str:
    path = folder / name / "test.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(folder)


def test_an_unknown_name_lists_all() -> None:
    with pytest.raises(ConfigError, match="unknown benchmark 'gsm9k'; allowed: math500, minerva"):
        find_benchmark("gsm9k")


@pytest.mark.parametrize("name", NUM_ROWS)
def test_shared_benchmarks_are_read_whole(name: str) -> None:
    if not SHARED.is_dir():
        pytest.skip("shared data is not here")
    rows = benchmark_rows(BENCHMARKS[name], str(SHARED), None)
    assert len(rows) == NUM_ROWS[name]
    assert all(row.columns["prompt"] and row.columns["answer"] for row in rows)
    with_details = sum(bool(row.details) for row in rows)
    assert with_details == {"minerva_math": 61, "olympiadbench": 1}.get(name, 0)
    assert set(NUM_ROWS) == set(BENCHMARKS)


def test_golds_written_as_tex_and_tolerances_reach_the_verifier(tmp_path: Path) -> None:
    row = {"id": "a", "problem": "?", "answer": "4.5e33", "answer_tex": "4.5 \\times 10^{33}"}
    write(tmp_path, "minerva_math", row)
    (found,) = benchmark_rows(BENCHMARKS["minerva_math"], str(tmp_path), None)
    assert json.loads(found.details) == {"golds": ["4.5 \\times 10^{33}"]}
    write(tmp_path, "olympiadbench", {"problem": "?", "answer": "4.2", "tolerance": "1e-1"})
    (found,) = benchmark_rows(BENCHMARKS["olympiadbench"], str(tmp_path), None)
    assert json.loads(found.details) == {"tolerance": 0.1}
    assert found.id == "1"


def test_gsm8k_as_published_gives_the_answer_after_the_marks(tmp_path: Path) -> None:
    folder = write(tmp_path, "gsm8k", {"problem": "?", "answer": "1 + 1 = 2\n#### 1,002"})
    (row,) = benchmark_rows(BENCHMARKS["gsm8k"], folder, None)
    assert row.columns["answer"] == "1002"


def test_only_the_rows_wanted_are_read(tmp_path: Path) -> None:
    rows = [{"id": str(i), "problem": "?", "answer": i} for i in range(9)]
    folder = write(tmp_path, "aime24", *rows, "no row at all")
    assert [r.id for r in benchmark_rows(BENCHMARKS["aime24"], folder, 3)] == ["0", "1", "2"]


def test_the_folder_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, "aime24", {"problem": "?", "answer": 3})
    monkeypatch.setenv("COOP_RL_DATA", folder)
    assert len(benchmark_rows(BENCHMARKS["aime24"], None, None)) == 1


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"problem": "?"}, "column 'answer' must be text, got None"),
        ({"problem": "", "answer": "1"}, "column 'problem' must be text"),
        (["?", "1"], "a row must be a JSON object"),
        ({"problem": "\ud83d", "answer": "1"}, "column 'prompt' holds half a character"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path: Path, row: object, expected: str) -> None:
    folder = write(tmp_path, "aime24", {"problem": "?", "answer": "1"}, row)
    with pytest.raises(DataError) as refused:
        benchmark_rows(BENCHMARKS["aime24"], folder, None)
    assert "aime24/test.jsonl:2: " in str(refused.value)
    assert expected in str(refused.value)


def test_a_missing_file_says_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give the folder above as --data-dir"):
        benchmark_rows(BENCHMARKS["aime24"], str(tmp_path), None)
    with pytest.raises(DataError, match="is not on the hub; give the folder with"):
        benchmark_rows(BENCHMARKS["knights_knaves"], None, None)
