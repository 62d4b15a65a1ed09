"""Sources for demonstrations that name none: bins of equal size, by length or by a given value."""

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
        bins.require_few_rows(split)


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


def test_bins_by_nll_are_named_before_they_are_measured() -> None:
    config = load_config(DEMO, [GUIDED, "demonstrations.split_by=nll", "demonstrations.bins=2"])
    data = load_run_data(config)
    assert data.sources == bin_names(config.demonstrations) == ("nll-1", "nll-2")
    assert {d.source for d in data.demonstrations} == {"demonstrations"}
