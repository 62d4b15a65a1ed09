"""Edges of learned guidance through the real loop: what every step holds, whatever the start."""

from pathlib import Path

import pytest

from tests.whole_loop.rig import configure, start


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
