"""How learner rank 0 drives the rollout actors' side of a weight sync.

The structural counterpart of vLLM's `VLLMWeightSyncClient`, with a deadline on every call: vLLM's
own Ray client waits without one.
"""

from collections.abc import Callable, Sequence
from typing import Any

from ray.actor import ActorHandle

from coop_rl.distributed.calls import Call, gather
from coop_rl.errors import RunError, WeightSyncError


class RayWeightSyncClient:
    """Calls the same weight-update method on every rollout actor at once."""

    def __init__(
        self,
        actors: Sequence[ActorHandle[Any]],
        workers_per_actor: int,
        timeout_s: float,
        before_finish: Callable[[], None],
    ) -> None:
        """Address `actors`; each is `workers_per_actor` ranks of the transfer group.

        `before_finish` is called once all is sent: engines that slept take their cache back then.
        """
        self._before_finish = before_finish
        self._actors = list(actors)
        self._workers_per_actor = workers_per_actor
        self._timeout_s = timeout_s
        self.version = ""
        """The version `finish_weight_update` stamps on everything sampled afterwards."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let every engine join the transfer group behind the sender, ranks in actor order."""
        self._call(
            "join weight transfer",
            [
                actor.init_weight_transfer.remote(
                    {
                        **init_info,
                        "rank_offset": init_info["rank_offset"] + i * self._workers_per_actor,
                    }
                )
                for i, actor in enumerate(self._actors)
            ],
        )

    def start_weight_update(self) -> None:
        """Pause generation and open the update."""
        self._call("start weight update", [a.start_weight_update.remote() for a in self._actors])

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Receive what the sender broadcasts meanwhile."""
        self._call("receive weights", [a.update_weights.remote(update_info) for a in self._actors])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Close the update, stamp the version, resume generation."""
        self._before_finish()
        version = weight_version or self.version
        self._call(
            "finish weight update", [a.finish_weight_update.remote(version) for a in self._actors]
        )

    def _call(self, phase: str, refs: list[Any]) -> None:
        calls = [Call(f"rollout-{i}", phase, ref) for i, ref in enumerate(refs)]
        try:
            gather(calls, self._timeout_s)
        except RunError as error:
            raise WeightSyncError(f"weight sync {self.version}: {error}") from None
