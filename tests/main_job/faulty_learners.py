"""Learners with one fault each, for a run in this process that takes them in place of ours.

The classes are local, so that they travel to Ray's workers by value.
"""

from pathlib import Path

import pytest

from coop_rl.commands.train import run_training
from coop_rl.config import load_config
from coop_rl.distributed import build
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.errors import RunError
from tests.main_job.harness import DEMO, SMALL

SMALL_BUCKETS = 400_000
"""Bytes; several buckets for the demo's model."""


def fault_in_sending(kind: str, num_good_steps: int) -> type:
    """Return a joint learner that, in the sync that ends the step after so many good ones, damages
    a tensor, skips a bucket, or sends the weights of before ("damage", "skip", "stale").
    """
    faulty_sync = num_good_steps + 2  # the first one comes before the first step

    class FaultyLearner(LearnerActor):
        def start(self, host, port):
            from coop_rl.weights import publisher
            from coop_rl.weights.buckets import BucketSender
            from coop_rl.weights.gloo_sender import GlooSender

            class Faulty(BucketSender):
                num_syncs = 0
                sent_before: dict = {}  # noqa: RUF012

                def send(self, pairs):
                    Faulty.num_syncs += 1
                    super().send(pairs)

                def _fill(self, bucket, iterator):
                    buffer = super()._fill(bucket, iterator)
                    if Faulty.num_syncs < faulty_sync:
                        self.sent_before[bucket.index] = buffer.clone()
                    elif kind == "stale":
                        return self.sent_before[bucket.index]
                    return buffer

                def _is_faulty(self, bucket, wanted):
                    is_now = Faulty.num_syncs == faulty_sync and bucket.index == 1
                    return kind == wanted and is_now

                def _transmit(self, bucket, buffer):
                    if not self._is_faulty(bucket, "skip"):
                        super()._transmit(bucket, buffer)

                def _send_payload(self, bucket, buffer):
                    if self._is_faulty(bucket, "damage"):
                        buffer[bucket.offsets[-1] + 5] ^= 1
                    super()._send_payload(bucket, buffer)

            started = super().start(host, port)
            if self._learner.branch == "joint":
                vars(publisher)["DEFAULT_BUCKET_BYTES"] = SMALL_BUCKETS
                GlooSender.sender_class = Faulty
            return started

    return FaultyLearner


def stale_adapter(num_good_steps: int) -> type:
    """Return a shadow learner that acknowledges a push of w without loading it, after so many."""

    class StaleLearner(LearnerActor):
        def start(self, host, port):
            started = super().start(host, port)
            adapter, pushes = self._learner.adapter, iter(range(num_good_steps))
            if self._learner.branch == "shadow":
                assert adapter is not None
                load = adapter.load_flat
                vars(adapter)["load_flat"] = lambda flat: (
                    None if next(pushes, None) is None else load(flat)
                )
            return started

    return StaleLearner


def run_until_fault(
    monkeypatch: pytest.MonkeyPatch, run_dir: Path, faulty: type, *overrides: str
) -> str:
    """Run the small demo in this process with `faulty` learners; return why it ended."""
    monkeypatch.setattr(build, "LearnerActor", faulty)
    with pytest.raises(RunError) as caught:
        run_training(load_config(DEMO, [*SMALL, *overrides]), run_dir, "never")
    return str(caught.value)
