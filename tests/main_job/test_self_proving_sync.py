"""What goes wrong between learners and engines stops the run and names the actor and a tensor.

The whole job runs, in this process, with one faulty actor class in place of ours; the classes are
local, so that they travel to Ray's workers by value.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from coop_rl.commands.train import run_training
from coop_rl.config import load_config
from coop_rl.distributed import build
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.errors import RunError
from tests.main_job.harness import DEMO, SMALL, metrics

FAULTY_SYNC = 3
"""After those of the start and of step 0: the one that ends step 1."""
SMALL_BUCKETS = 400_000
"""Bytes; several buckets for the demo's model."""


def fault_in_sending(kind: str) -> type:
    """Return a learner that damages a tensor, skips a bucket, or sends the weights of before."""

    class FaultyLearner(LearnerActor):
        def start(self, host, port):
            from coop_rl.weights import publisher
            from coop_rl.weights.buckets import BucketSender
            from coop_rl.weights.gloo_engine import GlooTrainerWeightTransferEngine

            class Faulty(BucketSender):
                num_syncs = 0
                sent_before: dict = {}  # noqa: RUF012

                def send(self, pairs):
                    Faulty.num_syncs += 1
                    super().send(pairs)

                def _fill(self, bucket, iterator):
                    buffer = super()._fill(bucket, iterator)
                    if Faulty.num_syncs < FAULTY_SYNC:
                        self.sent_before[bucket.index] = buffer.clone()
                    elif kind == "stale":
                        return self.sent_before[bucket.index]
                    return buffer

                def _is_faulty(self, bucket, wanted):
                    is_now = Faulty.num_syncs == FAULTY_SYNC and bucket.index == 1
                    return kind == wanted and is_now

                def _transmit(self, bucket, buffer):
                    if not self._is_faulty(bucket, "skip"):
                        super()._transmit(bucket, buffer)

                def _send_payload(self, bucket, buffer):
                    if self._is_faulty(bucket, "damage"):
                        buffer[bucket.offsets[-1] + 5] ^= 1
                    super()._send_payload(bucket, buffer)

            vars(publisher)["DEFAULT_BUCKET_BYTES"] = SMALL_BUCKETS
            GlooTrainerWeightTransferEngine.sender_class = Faulty
            return super().start(host, port)

    return FaultyLearner


def stale_adapter() -> type:
    """Return a learner that, in one group, acknowledges a push of w without loading it."""

    class StaleLearner(LearnerActor):
        def start(self, host, port):
            pid = super().start(host, port)
            if self._learner.branch == "shadow":
                vars(self._learner.adapter)["load_flat"] = lambda _: None
            return pid

    return StaleLearner


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("faulty", "message", "num_steps_done"),
    [
        pytest.param(
            lambda: fault_in_sending("damage"),
            r"theta2\.adapter2: .*tensor model\.layers\.\S+\.weight in bucket 1 is damaged",
            1,
            marks=pytest.mark.prove,  # As in tests/weights, but in a whole run.
        ),
        pytest.param(
            lambda: fault_in_sending("skip"),
            r"theta2\.adapter2: .*bucket 1 \(first tensor model\.layers\.\S+\) was skipped",
            1,
            marks=pytest.mark.prove,  # As in tests/weights, but in a whole run.
        ),
        (
            lambda: fault_in_sending("stale"),
            r"rollout-0 does not compute with the weights published as theta2\.adapter2: .*"
            r"it holds another model\.embed_tokens\.weight and \d+ more",
            1,
        ),
        (
            stale_adapter,
            r"learner-shadow-0 holds another w than the meta-controller pushed: model\.\S+lora_B",
            0,
        ),
    ],
    ids=["damaged tensor", "skipped bucket", "stale engine", "stale w in one group"],
)
def test_a_fault_stops_the_run_and_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    faulty: Callable[[], type],
    message: str,
    num_steps_done: int,
) -> None:
    monkeypatch.setattr(build, "LearnerActor", faulty())
    overrides = [*SMALL, "run.num_steps=4", "sync.canary_every=1", "sync.timeout_s=30"]
    with pytest.raises(RunError) as caught:
        run_training(load_config(DEMO, overrides), tmp_path / "run", "never")
    assert re.search(message, str(caught.value)), caught.value
    rows = [row for row in metrics(tmp_path / "run") if "reward/mean" in row]
    assert len(rows) == num_steps_done
    assert all(row["sync/canary_mean"] < 1e-4 for row in rows)
