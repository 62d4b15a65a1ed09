"""Demonstrations split by a measure of the base model: `demonstrations.split_by` nll or difficulty.

    nll           demonstrations --> joint learners --> log-probs of their responses
    difficulty    their prompts --> rollout actors, reward actor --> share of wrong responses

Measured after the actors have started and before any state is restored or published: learners and
engines hold the base model then, in a resumed run as well. Called by `commands.training`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean

from coop_rl.config import RunConfig
from coop_rl.data.bins import split_by_values
from coop_rl.data.collection import Mixture
from coop_rl.data.load import RunData
from coop_rl.distributed.calls import gather
from coop_rl.distributed.learner_actor import LearnerActor
from coop_rl.distributed.team import Team
from coop_rl.driver.generation import AskedGeneration
from coop_rl.driver.rollouts import SEED_STRIDE
from coop_rl.errors import RunDirectoryError
from coop_rl.files import write_text
from coop_rl.types import (
    Demonstration,
    PolicyVersion,
    Prompt,
    SamplingSettings,
    ScoredGroup,
    TokenRow,
)

ROWS_PER_CALL = 256
BASE = PolicyVersion(0, 0)
"""What an engine calls the weights it was started with."""
DIFFICULTY_SEED = 375_017
"""Added to the seed: the base model's tries draw apart from training's."""


def split_demonstrations(
    config: RunConfig,
    data: RunData,
    team: Team,
    generation: AskedGeneration,
    file: Path,
    report: Callable[[str], None],
) -> Mixture[Demonstration]:
    """Return the demonstrations under their bins' names, where a measure of the base model splits.

    Args:
        config: The run.
        data: Its demonstrations, and their prompts where they are asked for.
        team: Started, with the base model in its learners.
        generation: The policy's, with the base model in its engines.
        file: Keeps difficulties, which are not sampled again when the run is resumed.
        report: Gets a line before and after, since sampling may take long.
    """
    section = config.demonstrations
    if section.split_by == "nll":
        scored = [(d.prompt_ids, d.response_ids) for d in data.demonstrations]
        values = [value for part in _parts(scored) for value in _mean_nlls(config, team, part)]
    elif section.split_by == "difficulty":
        values = _kept_difficulties(config, data.asked, generation, file, report)
    else:
        return data.demonstrations
    return split_by_values(data.demonstrations, values, section)


def _parts(rows: Sequence[TokenRow]) -> Iterator[list[TokenRow]]:
    for first in range(0, len(rows), ROWS_PER_CALL):
        yield list(rows[first : first + ROWS_PER_CALL])


def _mean_nlls(config: RunConfig, team: Team, rows: list[TokenRow]) -> list[float]:
    """Return each response's negative log-likelihood a token, nats."""
    calls = [rank.call(LearnerActor.score, rows) for rank in team.joint]
    scores = gather(calls, config.placement.call_timeout_s)[0]
    return [-sum(log_probs) / len(log_probs) for log_probs in scores]


def _kept_difficulties(
    config: RunConfig,
    asked: Sequence[Prompt],
    generation: AskedGeneration,
    file: Path,
    report: Callable[[str], None],
) -> list[float]:
    """Return each prompt's difficulty, as the run measured it when it began.

    Raises:
        RunDirectoryError: It was measured for other demonstrations.
    """
    if not file.is_file():
        count = config.demonstrations.difficulty_samples
        report(f"the base model tries the prompts of {len(asked):,} demonstrations, {count} x each")
        values = difficulties(config, asked, generation)
        report(f"it is right in {1 - fmean(values):.1%} of its responses to them")
        write_text(file, json.dumps({"difficulty": values}) + "\n")
        return values
    kept: list[float] = json.loads(file.read_text(encoding="utf-8"))["difficulty"]
    if len(kept) != len(asked):
        raise RunDirectoryError(
            f"{file} holds the difficulty of {len(kept)} demonstrations, the data now has "
            f"{len(asked)}; give the run its old data, or another --run-dir"
        )
    return kept


def difficulties(
    config: RunConfig, asked: Sequence[Prompt], generation: AskedGeneration
) -> list[float]:
    """Return the share of wrong responses to each prompt; one that occurs again is asked once."""
    distinct = list({prompt.token_ids: prompt for prompt in asked}.values())
    sampling = SamplingSettings(
        num_samples=config.demonstrations.difficulty_samples,
        temperature=config.rollout.temperature,
        top_p=1.0,
        max_tokens=config.rollout.max_tokens,
        seed=config.run.seed * SEED_STRIDE + DIFFICULTY_SEED,
    )
    found: list[Sequence[ScoredGroup]] = []
    generation.begin(distinct, sampling, BASE, found.append)
    generation.wait_through(lambda: bool(found))
    wrong = {
        group.prompt.token_ids: fmean(not reward.is_correct for reward in group.rewards)
        for group in found[0]
    }
    return [wrong[prompt.token_ids] for prompt in asked]
