"""Edges of learned guidance through the real loop: what every step holds, whatever the start."""

from pathlib import Path

import pytest

from tests.whole_loop.rig import configure, start
from tests.whole_loop.toy import make_task


@pytest.mark.parametrize("kinds", ["mix", "adapter,mix,demonstrations"])
@pytest.mark.parametrize(("mix", "first"), [("0", 0.05), ("0.02", 0.05), ("1", 0.95)])
def test_learned_lambda_is_bounded_inside_from_the_first_step(
    tmp_path: Path, mix: str, first: float, kinds: str
) -> None:
    """At 0 or 1 one of the two losses would be missing, and with it what lambda learns from."""
    overrides = ("run.num_steps=3", f"method.mix={mix}", f"meta.guidance=[{kinds}]")
    run = start(configure(*overrides), tmp_path)
    for record in run.records:
        assert record.sampled.groups
        assert record.batch.minibatches[0].num_sft_tokens > 0
        assert 0.05 <= record.objective.rl_weight <= 0.95
    assert run.column("guidance/mix")[0] == pytest.approx(first)
    # Products of the first update say nothing; those of the second are there.
    assert {name for name, _ in run.records[2].joint.lookahead.components} > {"rl"}


def test_lambda_and_weights_are_learned_from_the_end_of_a_cold_start_on(tmp_path: Path) -> None:
    guidance = ("meta.guidance=[mix,demonstrations]", "method.cold_start_steps=2")
    run = start(configure(*guidance), tmp_path, make_task(6, 3, good="right", bad="wrong"))
    known = [bool(record.joint.lookahead.components) for record in run.records]
    assert known == [False, False, False, True, True, True]
    assert run.column("guidance/mix")[:3] == [0.0, 0.0, 0.5]
    assert 0.5 not in run.column("guidance/mix")[4:]


def test_sources_absent_from_a_step_leave_the_whole_of_sft_to_the_others(tmp_path: Path) -> None:
    """Eight sources, two demonstrations a step: at equal weights SFT alone, then half of theta."""
    sources = {f"s{i}": "right" for i in range(8)}
    task = make_task(6, 3, **sources)
    config = configure(
        "run.num_steps=4", "demonstrations.per_step=2", "meta.guidance=[demonstrations]"
    )
    run = start(config, tmp_path, task)
    for record in run.records:
        (batch,) = record.batch.minibatches
        present = [part.source for part in batch.sft]
        assert len(present) <= 2
        terms = record.objective.over(present).terms
        assert sum(t.share for t in terms if t.source in present) == pytest.approx(1.0)
        told = {t.source: t.share for t in record.objective.terms}
        assert sum(told.values()) == pytest.approx(1.0)
    # The mean NLL of what was shown, not a share of it: a fresh policy's is near log 12.
    assert run.column("loss/sft")[0] > 2.0
    assert {name for name, _ in run.records[2].joint.lookahead.components} == {
        "rl",
        *(part.source for part in run.records[1].batch.minibatches[0].sft),
    }
