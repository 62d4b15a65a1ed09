"""A step's figures, and that the table knows every name."""

import math
from dataclasses import replace

import pytest

from coop_rl.metric_names import METRICS, describe
from coop_rl.observability.metrics import step_metrics
from coop_rl.tracing.stages import Stages
from coop_rl.types import SkipReason, Updates
from tests.observability.records import GUIDANCE, RIGHT, bridge, group, sft

TIMINGS = {"time/step_s": 4.0, "time/generate_s": 3.0, "sync/bytes": 10.0, "sync/seconds": 0.5}


def test_figures_of_a_step() -> None:
    metrics = step_metrics(bridge(), TIMINGS)
    expected = {
        "step": 3,
        "version": 3,
        "tokens/generated": 9,
        "tokens/trained_rl": 9,
        "tokens/trained_sft": 20,
        "tokens/trained_shadow": 9,
        "reward/mean": 0.75,  # of the four that were scored
        "reward/std": 0.75**0.5 / 2,
        "reward/accuracy": 0.75,
        "reward/timeouts": 1,
        "reward/crashed": 1,
        "groups/all_right": 1 / 3,
        "groups/all_wrong": 1 / 3,
        "response/length_mean": 1.5,
        "response/truncated": 0.5,
        "policy/entropy": 0.5,
        "policy/mismatch_kl": 1e-6,
        "policy/lag": 1,
        "loss/rl": -0.1,
        "loss/sft": 0.7,
        "gain/value": 0.012,
        "gain/stderr": 0.004,
        "gain/ess": 0.9,
        "shadow/kl": 0.02,
        "guidance/skipped": 0,
        "guidance/adapter_norm": 1.5,
        "grad/skipped": 0,
        "time/generate_s": 3.0,
        "sync/bytes": 10.0,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)


def test_responses_that_began_with_a_part_of_a_demonstration_are_reported_apart() -> None:
    record = bridge()
    plain = step_metrics(record, TIMINGS)
    helped = group("d", RIGHT, RIGHT, RIGHT)
    helped = replace(helped, prompt=replace(helped.prompt, given_ids=(7, 8), given_text="2+2="))
    sampled = replace(record.sampled, groups=(*record.sampled.groups, helped))
    metrics = step_metrics(replace(record, sampled=sampled), TIMINGS)
    assert metrics == plain | {
        "tokens/generated": 15,
        "groups/given": 1 / 4,
        "reward/given": 1.0,
        "reward/given_accuracy": 1.0,
        "response/given": 2.0,
    }
    assert all(describe(name) for name in metrics)


def test_what_was_not_measured_is_null() -> None:
    metrics = step_metrics(bridge(), {})
    for name in ("grad/rl_norm", "grad/sft_norm", "grad/cosine", "guidance/bracket_cosine"):
        assert metrics[name] is None
    record = bridge()
    low_ess = replace(record, gain=replace(record.gain, value=None, stderr=None))  # type: ignore[type-var]
    assert step_metrics(low_ess, {})["gain/value"] is None


def test_skipped_updates_are_counted() -> None:
    record = replace(bridge(), update=replace(GUIDANCE, skipped=SkipReason.LOW_ESS))
    assert step_metrics(record, {})["guidance/skipped"] == 1
    assert step_metrics(record, {})["guidance/skipped_low_ess"] == 1
    assert "guidance/skipped_low_ess" not in step_metrics(bridge(), {})
    skipped = replace(bridge().joint, updates=Updates(1, math.inf, is_applied=False))
    record = replace(bridge(), joint=skipped)
    assert step_metrics(record, {})["grad/skipped"] == 1


def test_sft_has_no_rollouts_and_no_shadow() -> None:
    metrics = step_metrics(sft(), {})
    assert metrics["tokens/generated"] == 0
    assert metrics["tokens/trained_shadow"] == 0
    assert "reward/mean" not in metrics
    assert metrics["gain/value"] is None


@pytest.mark.parametrize("record", [bridge(), sft()])
def test_the_table_knows_every_metric(record) -> None:
    assert [name for name in step_metrics(record, TIMINGS) if describe(name) is None] == []


def test_the_table_knows_patterns_and_no_more() -> None:
    assert describe("time/publish_s") == METRICS["time/<stage>_s"]
    assert describe("eval/sums/avg@16") == METRICS["eval/<name>/avg@<k>"]
    assert describe("eval/sums/avg@16_low") is not None
    for name in ("time/step", "eval/sums", "reward/other", "eval/a/b/pass@1"):
        assert describe(name) is None


def test_stages_add_up_and_are_taken_once() -> None:
    stages = Stages()
    for _ in range(2):
        with stages.stage("generate"):
            pass
    with pytest.raises(ZeroDivisionError), stages.stage("train"):
        _ = 1 / 0
    stages.count("sync/bytes", 3)
    stages.count("sync/bytes", 4)
    assert stages.take("sync") == {"sync/bytes": 7}
    assert set(stages.take()) == {"time/generate_s", "time/train_s"}
    assert stages.take() == {}
