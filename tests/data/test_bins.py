"""Sources for demonstrations that name none: bins of equal size, by length or by a given value."""

import json
from pathlib import Path

import pytest

from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.config import load_config
from coop_rl.config.data import DemonstrationsSection
from coop_rl.data import bins
from coop_rl.data.bins import bin_names, split_by_length, split_by_values
from coop_rl.data.collection import Mixture
from coop_rl.data.load import load_run_data
from coop_rl.errors import DataError
from coop_rl.types import Demonstration

DEMO = Path("configs/local/demo.yaml")
GUIDED = "meta.guidance=[demonstrations]"


def section(split_by: str, count: int) -> DemonstrationsSection:
    return DemonstrationsSection(path="d.jsonl", split_by=split_by, bins=count)


def rows_of(lengths: list[int]) -> Mixture[Demonstration]:
    return Mixture.of([Demonstration(str(i), (1,), (2,) * n) for i, n in enumerate(lengths)])


def test_bins_of_length_are_ordered_and_of_equal_size() -> None:
    lengths = [5, 1, 9, 3, 7, 2, 8, 4]
    split = split_by_length(rows_of(lengths), section("length", 4))
    found: dict[str, list[int]] = {d.source: [] for d in split}
    for demonstration in split:
        found[demonstration.source].append(len(demonstration.response_ids))
    assert {name: sorted(of) for name, of in found.items()} == {
        "length-1": [1, 2],
        "length-2": [3, 4],
        "length-3": [5, 7],
        "length-4": [8, 9],
    }


def test_only_the_source_changes_and_the_order_of_steps_stays() -> None:
    rows = rows_of([3, 1, 2, 6, 5, 4])
    split = split_by_length(rows, section("length", 2))
    assert [(d.id, d.prompt_ids, d.response_ids) for d in split] == [
        (d.id, d.prompt_ids, d.response_ids) for d in rows
    ]
    before, after = rows.order(2, 0), split.order(2, 0)
    assert [before.batch(k) for k in range(5)] == [after.batch(k) for k in range(5)]


def test_bins_of_a_value_follow_the_rows_positions() -> None:
    split = split_by_values(rows_of([1] * 4), [0.9, 0.1, 0.5, 0.7], section("nll", 2))
    assert [d.source for d in split] == ["nll-2", "nll-1", "nll-1", "nll-2"]


@pytest.mark.parametrize(
    ("values", "count", "sizes"),
    [
        ([1, 1, 1, 0, 0], 2, [2, 3]),  # the median is the largest value
        ([0, 0, 0, 0, 0, 0.5, 0.75, 1], 4, [5, 1, 1, 1]),
        ([0, 0.25, 0.25, 0.25, 0.5, 1, 1, 1], 3, [4, 1, 3]),
        ([0, 0, 0.25, 0.5, 0.5, 1], 3, [2, 3, 1]),
    ],
)
def test_values_that_repeat_stay_together_and_no_bin_is_empty(
    values: list[float], count: int, sizes: list[int]
) -> None:
    wanted = section("difficulty", count)
    split = split_by_values(rows_of([1] * len(values)), values, wanted)
    assert [sum(d.source == name for d in split) for name in bin_names(wanted)] == sizes


def test_levels_of_difficulty_come_from_samples() -> None:
    with pytest.raises(DataError, match=r"2 values in all; lower .* or raise demon\S*_samples"):
        split_by_values(rows_of([1] * 4), [0, 0, 1, 1], section("difficulty", 3))


def test_rows_that_are_alike_make_no_bins() -> None:
    with pytest.raises(DataError, match=r"cannot make 3 bins of 5 rows: .* lower demonstrations"):
        split_by_length(rows_of([4, 4, 4, 4, 9]), section("length", 3))


def test_edges_of_many_rows_come_from_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bins, "EAGER_ROWS", 50)
    monkeypatch.setattr(bins, "CHECKED_ROWS", 10)
    split = split_by_length(rows_of(list(range(1, 101))), section("length", 2))
    first = [len(d.response_ids) for d in split if d.source == "length-1"]
    assert first == list(range(1, len(first) + 1))
    assert 40 <= len(first) <= 60
    with pytest.raises(
        DataError, match=r"at most 50, got 100; set demonstrations\.split_by length"
    ):
        bins.require_few_rows(split, section("nll", 2))


def test_the_demos_file_is_split_and_packed_by_bin() -> None:
    overrides = [GUIDED, "demonstrations.split_by=length", "demonstrations.bins=2"]
    data = load_run_data(load_config(DEMO, overrides))
    names = ("length-1", "length-2")
    assert data.sources == names
    counts = [sum(d.source == name for d in data.demonstrations) for name in names]
    assert sum(counts) == len(data.demonstrations)
    assert min(counts) > 0
    batch = pack([], list(data.demonstrations[:64]), PackShape(1, 16384), names)
    assert [part.source for part in batch.sft] == list(names)


def test_difficulty_asks_the_demonstrations_own_prompts() -> None:
    overrides = [GUIDED, "demonstrations.split_by=difficulty", "demonstrations.bins=2"]
    data = load_run_data(load_config(DEMO, overrides))
    assert data.sources == ("difficulty-1", "difficulty-2")
    shown = [d.prompt_ids for d in data.demonstrations]
    assert [prompt.token_ids for prompt in data.asked] == shown
    assert all(prompt.answer for prompt in data.asked)


def test_difficulty_needs_answers_that_can_be_checked(tmp_path: Path) -> None:
    rows = [{"prompt": f"{i}+1=\n", "reasoning": "so", "answer": str(i + 1)} for i in range(40)]
    rows[7]["answer"] = "1#2"
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = [GUIDED, f"demonstrations.path={file}", "demonstrations.split_by=difficulty"]
    with pytest.raises(DataError, match=r"d\.jsonl:8: no response can be right"):
        load_run_data(load_config(DEMO, overrides))
    overrides.append("demonstrations.max_dropped=0.5")
    with pytest.raises(DataError, match=r"got 1 of 40 without, the first with id 8; set demonstr"):
        load_run_data(load_config(DEMO, overrides))


def test_bins_by_nll_are_named_before_they_are_measured() -> None:
    config = load_config(DEMO, [GUIDED, "demonstrations.split_by=nll", "demonstrations.bins=2"])
    data = load_run_data(config)
    assert data.sources == bin_names(config.demonstrations) == ("nll-1", "nll-2")
    assert {d.source for d in data.demonstrations} == {"demonstrations"}
