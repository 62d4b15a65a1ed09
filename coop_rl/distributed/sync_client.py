"""How learner rank 0 drives the rollout actors' side of a weight sync; called by the publisher.

The structural counterpart of vLLM's `VLLMWeightSyncClient`, with a deadline on every call: vLLM's
own Ray client waits without one.
"""

from collections.abc import Callable, Sequence
from typing import Any

from coop_rl.distributed.actors import RolloutActor
from coop_rl.distributed.calls import Call, gather
from coop_rl.distributed.member import Member
from coop_rl.errors import RunError, WeightSyncError


class RayWeightSyncClient:
    """Calls the same weight-update method on every rollout actor at once."""

    def __init__(
        self,
        engines: Sequence[Member[RolloutActor]],
        workers_per_engine: int,
        timeout_s: float,
        before_finish: Callable[[], None],
    ) -> None:
        """Address `engines`; each is `workers_per_engine` ranks of the transfer group.

        `before_finish` is called once all is sent: engines that slept take their cache back then.
        """
        self._before_finish = before_finish
        self._engines = engines
        self._workers_per_engine = workers_per_engine
        self._timeout_s = timeout_s
        self.version = ""
        """The version `finish_weight_update` stamps on everything sampled afterwards."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let every engine join the transfer group behind the sender, ranks in actor order."""
        first = init_info["rank_offset"]
        infos = [
            init_info | {"rank_offset": first + i * self._workers_per_engine}
            for i in range(len(self._engines))
        ]
        self._wait(
            [
                engine.call(RolloutActor.join_weight_transfer, info)
                for engine, info in zip(self._engines, infos, strict=True)
            ]
        )

    def start_weight_update(self) -> None:
        """Pause generation and open the update."""
        self._wait([e.call(RolloutActor.start_weight_update) for e in self._engines])

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive what the sender broadcasts meanwhile."""
        self._wait([e.call(RolloutActor.receive_weights, update_info) for e in self._engines])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Close the update, stamp the version, resume generation."""
        self._before_finish()
        version = weight_version or self.version
        self._wait([e.call(RolloutActor.finish_weight_update, version) for e in self._engines])

    def _wait(self, calls: Sequence[Call[None]]) -> None:
        try:
            gather(calls, self._timeout_s)
        except RunError as error:
            raise WeightSyncError(f"weight sync {self.version}: {error}") from None
