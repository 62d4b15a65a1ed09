"""Driver time per group and driver memory with 1,024 scripted engines.

`python bench/controller.py` measures the product's `TeamRollouts`, `Generation`, `Window` and
`Router` at lag 1 in two ways:

    scheduling   engines, scoring and their clock are simulated; CPU seconds of this process for
                 order, window, routing, dynamic sampling and version checks. Ray is left out.
    with ray     real Ray calls to two asynchronous actors that stand under 1,024 names and sleep as
                 long as their responses would take, and to a scoring actor; CPU seconds of this
                 process: submitting, waiting, fetching the responses. Of the thread that the loop
                 runs in, and of all threads, Ray's own included.

Response lengths are log-normal (median 100 tokens, sigma 1, cut at 1,000; mean about 160). Memory
is what tracemalloc counts and the resident set, after every step. Writes
bench/results.d/controller.json.
"""

import argparse
import asyncio
import gc
import heapq
import logging
import math
import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import psutil
import ray
from report import Measure, of_ratios, save
from rich.console import Console
from rich.table import Table

from coop_rl.algorithm.methods import build_method
from coop_rl.config import RunConfig, load_config
from coop_rl.data.collection import Mixture
from coop_rl.distributed.member import Member
from coop_rl.driver.fleet import Fleet
from coop_rl.driver.generation import TeamGeneration
from coop_rl.driver.rollouts import TeamRollouts
from coop_rl.driver.scoring import Scoring
from coop_rl.driver.stop import StopRequest
from coop_rl.rollout.worker import RolloutWorker
from coop_rl.tracing.stages import Stages
from coop_rl.types import (
    PolicyVersion,
    Prompt,
    Reward,
    Rollout,
    RolloutGroup,
    SamplingSettings,
    ScoredGroup,
)
from tests.support.scripted_engine import ScriptedEngine

NUM_ENGINES, NUM_SAMPLES = 1024, 8
MEDIAN_TOKENS, SIGMA, MAX_TOKENS = 100, 1.0, 1000
TOKENS_PER_SECOND = 1000.0
"""Of one response, in the real-Ray run: short, so that the driver and not the sleep is busy."""
MIB = 2**20


def draw_length(source: random.Random) -> int:
    """Return a response's tokens."""
    drawn = source.lognormvariate(math.log(MEDIAN_TOKENS), SIGMA)
    return max(1, min(MAX_TOKENS, round(drawn)))


def script(_prompt: Sequence[int], _sampling: SamplingSettings, seed: int) -> Sequence[int]:
    """Answer with a long-tailed number of tokens."""
    source = random.Random(seed)
    return [source.randrange(100_000) for _ in range(draw_length(source))]


def score(group: RolloutGroup) -> ScoredGroup:
    """Judge by the length: some groups say nothing, as in a run."""
    rewards = tuple(Reward(float(len(r.token_ids) > 80), False) for r in group.rollouts)
    return ScoredGroup(group.prompt, group.rollouts, rewards)


class SimulatedGeneration(TeamGeneration):
    """Calls that end by a simulated clock."""

    def __init__(self, config: RunConfig, num_engines: int) -> None:
        """Start at 0 s."""
        self._clock, self._count = 0.0, 0
        self._ends: list[tuple[float, Any, Prompt]] = []
        self._source = random.Random(0)
        self._lengths: dict[int, int] = {}
        actor: Any = SimpleNamespace(
            generate=SimpleNamespace(remote=self._begin_sampling),
            score=SimpleNamespace(remote=self._begin_scoring),
        )
        engines: list[Member[Any]] = [Member(f"rollout-{i}", actor) for i in range(num_engines)]
        scoring = Scoring([Member("reward", actor)])
        super().__init__(config, Fleet(engines), scoring, StopRequest())
        self.outside_s = 0.0
        """CPU seconds of the simulation itself."""

    def _begin_sampling(self, prompt: Prompt, _sampling: SamplingSettings) -> int:
        """Let a group end later; return what stands for it."""
        self._count += 1
        length = max(draw_length(self._source) for _ in range(NUM_SAMPLES))
        heapq.heappush(self._ends, (self._clock + length, self._count, prompt))
        return self._count

    def _begin_scoring(self, _group: int) -> int:
        """Scoring ends as soon as its group is taken in."""
        self._count += 1
        return self._count

    def wait_until(self, is_done: Callable[[], bool]) -> None:
        """Let calls end in the clock's order."""
        while not is_done():
            self.end_one()

    def end_one(self) -> None:
        """Let the next group end, and be scored at once."""
        began = time.process_time()
        self._clock, ref, prompt = heapq.heappop(self._ends)
        rollout = Rollout((1,), (0.0,), "", False, self._version)
        rewards = tuple(Reward(float(i == self._count % 9), True) for i in range(NUM_SAMPLES))
        group = ScoredGroup(prompt, (rollout,) * NUM_SAMPLES, rewards)
        self.outside_s += time.process_time() - began
        self._on_sampled(ref)
        self._scoring.scored(self._scoring.refs()[-1], group)

    def end_all(self) -> None:
        """Drain, as before a publish."""
        while self._ends:
            self.end_one()


def configure(num_prompts: int, num_steps: int) -> RunConfig:
    """DAPO, so that dynamic sampling is measured too."""
    return load_config(
        Path("configs/local/demo.yaml"),
        [
            "method.kind=rl",
            "method.rl.kind=dapo",
            f"run.num_steps={num_steps}",
            f"prompts.per_step={num_prompts}",
            f"rollout.samples_per_prompt={NUM_SAMPLES}",
            f"rollout.max_tokens={MAX_TOKENS}",
            "rollout.max_num_seqs=16",
            "rollout.max_policy_lag=1",
        ],
    )


def prepare(config: RunConfig, generation: TeamGeneration) -> TeamRollouts:
    """Put the product's role on top of `generation`."""
    prompts = [Prompt(str(i), "", tuple(range(50)), "") for i in range(50_000)]
    estimator = build_method(config).estimator
    return TeamRollouts(config, generation, Mixture.of(prompts), estimator, Stages(), decode=str)


def simulate(
    num_prompts: int, num_steps: int, *, traces: bool, num_engines: int = NUM_ENGINES
) -> dict[str, Any]:
    """Run steps in simulated time; `traces`: measure memory instead of time."""
    config = configure(num_prompts, num_steps)
    generation = SimulatedGeneration(config, num_engines)
    rollouts = prepare(config, generation)
    version, sizes, num_groups = PolicyVersion(0, 0), [], 0
    if traces:
        tracemalloc.start()
    began = time.process_time()
    for step in range(num_steps):
        sampled = rollouts.next_batch(step, version)
        num_groups += len(sampled.groups) + len(sampled.dropped)
        generation.end_all()
        version = version.next()
        generation.change_weights(version, lambda: None, is_read=True)
        del sampled
        if traces:
            gc.collect()
            rss = psutil.Process().memory_info().rss
            held = tracemalloc.get_traced_memory()[0]
            sizes.append({"groups": num_groups, "traced_mib": held / MIB, "rss_mib": rss / MIB})
    spent = time.process_time() - began - generation.outside_s
    if traces:
        tracemalloc.stop()
        return {"memory": sizes}
    return {"num_groups": num_groups, "ms_per_group": 1e3 * spent / num_groups}


class ScriptedActor:
    """Many engines in one process."""

    def __init__(self) -> None:
        self._worker = RolloutWorker(ScriptedEngine(script))

    async def generate(self, prompt: Prompt, sampling: SamplingSettings) -> RolloutGroup:
        """Answer as late as the longest response is long."""
        group = await self._worker.generate_group(prompt, sampling)
        longest = max(len(rollout.token_ids) for rollout in group.rollouts)
        await asyncio.sleep(longest / TOKENS_PER_SECOND)
        return group


class ScoringActor:
    """Verdicts without a pool."""

    def score(self, group: RolloutGroup) -> ScoredGroup:
        """Judge."""
        return score(group)


def run_with_ray(num_prompts: int, num_steps: int) -> dict[str, Any]:
    """Run steps on real Ray; the engines stamp version 0, which the lag of this run allows."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        engines: Any = ray.remote(num_cpus=0)(ScriptedActor)
        handles = [engines.options(max_concurrency=8192).remote() for _ in range(2)]
        verdicts: Any = ray.remote(num_cpus=0)(ScoringActor)
        members: list[Member[Any]] = [
            Member(f"rollout-{i}", handles[i % 2]) for i in range(NUM_ENGINES)
        ]
        reward: Member[Any] = Member("reward", verdicts.remote())
        config = configure(num_prompts, num_steps)
        generation = TeamGeneration(config, Fleet(members), Scoring([reward]), StopRequest())
        rollouts = prepare(config, generation)
        version, num_groups = PolicyVersion(0, 0), 0
        with generation.serving():
            cpu, own, wall = time.process_time(), time.thread_time(), time.monotonic()
            for step in range(num_steps):
                sampled = rollouts.next_batch(step, version)
                num_groups += len(sampled.groups) + len(sampled.dropped)
                num_tokens = [len(r.token_ids) for g in sampled.groups for r in g.rollouts]
            cpu, own = time.process_time() - cpu, time.thread_time() - own
            wall = time.monotonic() - wall
    finally:
        ray.shutdown()
    return {
        "num_groups": num_groups,
        "ms_per_group": 1e3 * own / num_groups,
        "all_threads_ms_per_group": 1e3 * cpu / num_groups,
        "wall_seconds": wall,
        "mean_tokens": sum(num_tokens) / len(num_tokens),
    }


def main() -> None:
    """Measure, write, show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=2048, help="groups of a step")
    parser.add_argument("--steps", type=int, default=12, help="simulated; the first warm up memory")
    parser.add_argument("--ray-prompts", type=int, default=512)
    parser.add_argument("--ray-steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    timed = [simulate(given.prompts, given.steps, traces=False) for _ in range(given.repeats)]
    memory = simulate(given.prompts, given.steps, traces=True)["memory"]
    with_ray = [run_with_ray(given.ray_prompts, given.ray_steps) for _ in range(given.repeats)]
    costs = sorted(run["ms_per_group"] for run in timed)
    table = Table("figure", "value", title=f"{NUM_ENGINES} scripted engines, lag 1")
    spread = f"{costs[len(costs) // 2]:.3f} ({costs[0]:.3f}-{costs[-1]:.3f})"
    table.add_row("scheduling, driver CPU ms per group", spread)
    whole = [run["all_threads_ms_per_group"] for run in with_ray]
    for name, spent in (("", [run["ms_per_group"] for run in with_ray]), (", all threads", whole)):
        table.add_row(f"with Ray, driver CPU ms per group{name}", f"{median(spent):.3f}")
    for row in memory:
        table.add_row(
            f"memory after {row['groups']:,} groups",
            f"{row['traced_mib']:.1f} MiB traced, {row['rss_mib']:.0f} MiB resident",
        )
    Console().print(table)
    save("controller", measures(costs, [run["ms_per_group"] for run in with_ray], whole, memory))


def measures(
    scheduling: Sequence[float],
    with_ray: Sequence[float],
    all_threads: Sequence[float],
    memory: Sequence[dict[str, float]],
) -> list[Measure]:
    """Return what the floors are about."""
    limit = {"floor": 1.0, "higher_is_better": False}
    # From the second half on: the first fills windows and caches.
    first, last = memory[len(memory) // 2], memory[-1]
    growth = last["rss_mib"] / first["rss_mib"]
    return [
        of_ratios("driver CPU ms per group, scheduling", scheduling, **limit),  # type: ignore[arg-type]
        of_ratios("driver CPU ms per group, with Ray's calls", with_ray, **limit),  # type: ignore[arg-type]
        of_ratios("the same, Ray's own threads included", all_threads, higher_is_better=False),
        Measure(
            f"driver memory after {last['groups']:,.0f} groups over {first['groups']:,.0f}",
            growth,
            growth,
            growth,
            1.05,
            higher_is_better=False,
            detail={"ours": last["rss_mib"], "reference": first["rss_mib"], "unit": "MiB"},
        ),
    ]


if __name__ == "__main__":
    main()
