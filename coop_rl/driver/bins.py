"""Demonstrations split by how well the base model predicts them (`demonstrations.split_by: nll`).

Measured once, by the joint learners, after they have started and before any state is restored: they
hold the base model then, in a resumed run as well. Called by `commands.training`.
"""

from collections.abc import Iterator, Sequence

from coop_rl.config import RunConfig
from coop_rl.data.bins import require_few_rows, split_by_values
from coop_rl.data.collection import Mixture
from coop_rl.distributed.calls import gather
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.team import Team
from coop_rl.types import Demonstration, TokenRow

ROWS_PER_CALL = 256


def split_by_nll(
    config: RunConfig, team: Team, rows: Mixture[Demonstration]
) -> Mixture[Demonstration]:
    """Return the rows under their bins' names, where the config splits them by NLL."""
    if config.demonstrations.split_by != "nll":
        return rows
    require_few_rows(rows)
    scored = [(d.prompt_ids, d.response_ids) for d in rows]
    values = [value for part in _parts(scored) for value in _mean_nlls(config, team, part)]
    return split_by_values(rows, values, config.demonstrations)


def _parts(rows: Sequence[TokenRow]) -> Iterator[list[TokenRow]]:
    for first in range(0, len(rows), ROWS_PER_CALL):
        yield list(rows[first : first + ROWS_PER_CALL])


def _mean_nlls(config: RunConfig, team: Team, rows: list[TokenRow]) -> list[float]:
    """Return each response's negative log-likelihood a token, nats."""
    calls = [rank.call(LearnerActor.score, rows) for rank in team.joint]
    scores = gather(calls, config.placement.call_timeout_s)[0]
    return [-sum(log_probs) / len(log_probs) for log_probs in scores]
