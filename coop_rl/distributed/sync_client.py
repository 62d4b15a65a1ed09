"""How learner rank 0 drives the rollout actors' side of a weight sync; called by the publisher.

The structural counterpart of vLLM's `VLLMWeightSyncClient`, with a deadline on every call and an
outcome for every engine: vLLM's own Ray client waits without a limit, and knows of the first
failure only.
"""

from collections.abc import Callable, Sequence
from typing import Any

from coop_rl.distributed.actors import RolloutActor
from coop_rl.distributed.calls import Call, gather_all
from coop_rl.distributed.member import Member
from coop_rl.errors import ActorLostError, RunError, WeightSyncError

PRESENCE_LIMIT_S = 30.0
"""How long an engine's actor may take to answer before a group is formed with it."""
GRACE_S = 5.0
"""How long engines may take to end a transfer that failed for one of them: its group is closed."""


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
        self.lost: dict[str, str] = {}
        """Why engines are lost, by name; whoever is in it takes part in no sync any more."""

    def require_present(self) -> None:
        """Ask every actor for an answer: who does not join a group is waited for to its limit."""
        self._wait(
            [Call(e.name, "answer", e.handle.__ray_ready__.remote()) for e in self._engines],
            PRESENCE_LIMIT_S,
        )

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
        receiving = [e.call(RolloutActor.receive_weights, update_info) for e in self._engines]
        # Where one is stopped, the collective's limit is first: it ends the others' calls.
        self._wait(receiving, self._timeout_s + 2 * GRACE_S, GRACE_S)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Close the update, stamp the version, resume generation."""
        self._before_finish()
        version = weight_version or self.version
        self._wait([e.call(RolloutActor.finish_weight_update, version) for e in self._engines])

    def _wait(
        self,
        calls: Sequence[Call[None]],
        timeout_s: float | None = None,
        grace_s: float | None = None,
    ) -> None:
        """Wait for all calls, and note who is lost.

        Where an engine has several workers, one that only failed is lost too: vLLM takes the late
        answer of a worker to one call for its answer to the next.

        Raises:
            WeightSyncError: A call failed; tells of a lost engine rather than of its peers.
        """
        outcomes = gather_all(calls, timeout_s or self._timeout_s, grace_s)
        failed = {
            call.actor: outcome
            for call, outcome in zip(calls, outcomes, strict=True)
            if isinstance(outcome, RunError)
        }
        lost = {n: e for n, e in failed.items() if isinstance(e, ActorLostError)}
        if lost and self._workers_per_engine > 1:
            self.lost |= {name: str(error) for name, error in failed.items()}
        self.lost |= {name: str(error) for name, error in lost.items()}
        if failed:
            first = next(iter((lost or failed).values()))
            raise WeightSyncError(f"weight sync {self.version}: {first}")
