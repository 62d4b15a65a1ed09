"""The ledger adds up what a run spends, and goes on after a resume."""

from dataclasses import replace
from pathlib import Path

import pytest

from coop_rl.config import load_config
from coop_rl.metric_names import describe
from coop_rl.observability.ledger import Ledger
from tests.observability.records import GROUPS, bridge, sft

CONFIG = load_config(Path("configs/local/demo.yaml"))


def test_two_steps_add_up() -> None:
    ledger = Ledger(CONFIG)
    ledger.add(bridge(), 2.0)
    totals = ledger.add(sft(4), 3.0)
    generated = sum(len(r.token_ids) for g in GROUPS for r in g.rollouts)
    assert totals["ledger/tokens_generated"] == generated
    assert totals["ledger/tokens_rl"] == totals["ledger/tokens_shadow"] == 9
    assert totals["ledger/tokens_sft"] == 40
    assert totals["ledger/demonstrations"] == 4
    assert totals["ledger/updates"] == 2
    # 1000 parameters: 2 a generated token, 6 a trained one; joint 50 + 50, shadow 20
    assert totals["ledger/flops"] == 1000 * (2 * generated + 6 * (50 + 20 + 50))
    assert totals["time/device_s/rollout"] == pytest.approx(5.0)
    assert totals["time/device_s/learner_joint"] == pytest.approx(2.5)


def test_the_shadows_own_rollouts_and_dropped_groups_are_paid_for() -> None:
    record = bridge()
    plain = Ledger(CONFIG).add(record, 1.0)["ledger/tokens_generated"] or 0
    more = replace(record, fresh=GROUPS, sampled=replace(record.sampled, dropped=GROUPS))
    assert Ledger(CONFIG).add(more, 1.0)["ledger/tokens_generated"] == 3 * plain


def test_recomputed_activations_cost_another_forward_pass() -> None:
    config = load_config(Path("configs/local/demo.yaml"), ["learner.activation_checkpointing=true"])
    plain, recomputed = (Ledger(c).add(sft(), 1.0)["ledger/flops"] for c in (CONFIG, config))
    assert plain == 6 * 50 * 1000
    assert recomputed == 8 * 50 * 1000


def test_a_resumed_ledger_goes_on_from_the_row() -> None:
    whole, resumed = Ledger(CONFIG), Ledger(CONFIG)
    resumed.go_on(whole.add(bridge(), 1.5))
    assert resumed.add(bridge(4), 1.5) == whole.add(bridge(4), 1.5)


def test_the_table_knows_every_total() -> None:
    assert [n for n in Ledger(CONFIG).add(bridge(), 1.0) if describe(n) is None] == []
