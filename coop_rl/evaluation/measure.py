"""One evaluation of one policy on one set: greedy once, sampled n times, every response kept."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from coop_rl.config.schema import ServingConfig
from coop_rl.evaluation.estimators import is_majority_correct
from coop_rl.evaluation.responses import response_file
from coop_rl.evaluation.result import EvaluationResult
from coop_rl.evaluation.sets import EvaluationSet
from coop_rl.rollout.capacity import sequences_at_once
from coop_rl.types import PolicyVersion, Prompt, SamplingSettings, ScoredGroup

R = TypeVar("R")
Generate = Callable[[Sequence[Prompt], SamplingSettings, PolicyVersion], Sequence[ScoredGroup]]
Request = tuple[Sequence[Prompt], SamplingSettings]
"""Prompts of which scored groups are asked for."""
Asking = Generator[Request, Sequence[ScoredGroup], R]
"""An evaluation that waits, after each request, for its groups: whoever drives it may block, or do
something else meanwhile."""
EVALUATION_SEED = 1_000_003_000_001
"""Sampling seed of every evaluation, far from those of training steps: the same random numbers
before and after, so the paired difference has less noise."""
RESPONSES_PER_PLACE = 8
"""Responses asked for at once, per place of the engines: deep enough that they are rarely idle, and
a failure loses no more than this."""


def measure(
    config: ServingConfig,
    chosen: EvaluationSet,
    generate: Generate,
    version: PolicyVersion,
    step: int,
    responses: Path | None = None,
) -> EvaluationResult:
    """Evaluate a policy on a set, and wait for it.

    Args:
        config: Sections `evaluation` and `rollout` count.
        chosen: The set.
        generate: Samples and scores groups at a version.
        version: What the rollout actors call the policy they serve.
        step: Steps trained before.
        responses: JSONL file that gets every response; None: none.

    Raises:
        RunError: An actor is lost, or the file cannot be written.
    """
    return answered(ask(config, chosen, step, responses), generate, version)


def answered(asking: Asking[R], generate: Generate, version: PolicyVersion) -> R:
    """Answer every request by `generate`, and return what the evaluation does."""
    with closing(asking):
        try:
            request = next(asking)
            while True:
                request = asking.send(generate(*request, version))
        except StopIteration as done:
            result: R = done.value
            return result


def ask(
    config: ServingConfig, chosen: EvaluationSet, step: int, responses: Path | None
) -> Asking[EvaluationResult]:
    """Ask for the groups of an evaluation, a part at a time; the arguments are `measure`'s."""
    started = time.monotonic()
    n = config.evaluation.num_samples
    with response_file(responses) as append:

        def run(num_samples: int, temperature: float, kind: str) -> Asking[list[ScoredGroup]]:
            groups: list[ScoredGroup] = []
            sampling = _sampling(config, num_samples, temperature)
            for prompts in _chunks(config, chosen.prompts, num_samples):
                done = yield prompts, sampling
                append(done, kind)
                groups += done
            return groups

        greedy = yield from run(1, 0.0, "greedy")
        sampled = yield from run(n, config.evaluation.temperature, "sampled")
    return _result(config, chosen, step, greedy, sampled, time.monotonic() - started)


def _result(
    config: ServingConfig,
    chosen: EvaluationSet,
    step: int,
    greedy: Sequence[ScoredGroup],
    sampled: Sequence[ScoredGroup],
    seconds: float,
) -> EvaluationResult:
    rollouts = [rollout for group in (*greedy, *sampled) for rollout in group.rollouts]
    rewards = [reward for group in (*greedy, *sampled) for reward in group.rewards]
    num_tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    return EvaluationResult(
        name=chosen.name,
        step=step,
        ids=tuple(group.prompt.id for group in greedy),
        greedy_correct=tuple(group.rewards[0].is_correct for group in greedy),
        num_correct=tuple(sum(r.is_correct for r in group.rewards) for group in sampled),
        majority_correct=tuple(
            is_majority_correct(
                [r.answer for r in group.rewards], [r.is_correct for r in group.rewards]
            )
            for group in sampled
        ),
        num_samples=config.evaluation.num_samples,
        pass_ks=config.evaluation.pass_ks,
        truncated=fmean([rollout.is_truncated for rollout in rollouts]),
        format=fmean([reward.has_format for reward in rewards]),
        unscored=fmean([reward.status != "scored" for reward in rewards]),
        length_mean=num_tokens / len(rollouts),
        num_tokens=num_tokens,
        seconds=seconds,
    )


def _sampling(config: ServingConfig, num_samples: int, temperature: float) -> SamplingSettings:
    top_p = config.evaluation.top_p if temperature else 1.0
    return SamplingSettings(
        num_samples, temperature, top_p, config.max_evaluation_tokens, EVALUATION_SEED
    )


def _chunks(
    config: ServingConfig, prompts: Sequence[Prompt], num_samples: int
) -> Iterator[Sequence[Prompt]]:
    places = config.rollout.max_actors * sequences_at_once(config)
    size = max(1, RESPONSES_PER_PLACE * places // num_samples)
    for start in range(0, len(prompts), size):
        yield prompts[start : start + size]
