"""Groups out of an engine: seeds, order, versions, failure."""

import asyncio
from dataclasses import replace

import pytest

from coop_rl.errors import ActorLostError
from coop_rl.rollout.worker import RolloutWorker, sample_seed
from coop_rl.types import PolicyVersion, Prompt, SamplingSettings
from tests.support.scripted_engine import ScriptedEngine

PROMPTS = [Prompt(id=f"p{i}", text=f"{i}", token_ids=(i + 1, 2, 3), answer="") for i in range(5)]
SAMPLING = SamplingSettings(num_samples=6, temperature=1.0, top_p=1.0, max_tokens=9, seed=11)


def generate(prompts, sampling=SAMPLING):
    async def run():
        worker = RolloutWorker(ScriptedEngine())
        return await asyncio.gather(*(worker.generate_group(p, sampling) for p in prompts))

    return asyncio.run(run())


def test_group_has_all_samples_of_its_prompt():
    (group,) = generate(PROMPTS[:1])
    assert group.prompt == PROMPTS[0]
    assert len(group.rollouts) == SAMPLING.num_samples
    assert len({r.token_ids for r in group.rollouts}) > 1
    for rollout in group.rollouts:
        assert len(rollout.behaviour_log_probs) == len(rollout.token_ids) >= 1
        assert rollout.version == PolicyVersion(0, 0)


def test_group_does_not_depend_on_company_or_order():
    together = generate(PROMPTS)
    alone = [generate([p])[0] for p in reversed(PROMPTS)]
    assert together == alone[::-1]


def test_what_is_given_of_a_response_is_sampled_from_and_not_part_of_it():
    prompt = PROMPTS[0]
    begun = replace(prompt, token_ids=prompt.token_ids[:1], given_ids=prompt.token_ids[1:])
    assert generate([begun])[0].rollouts == generate([prompt])[0].rollouts


def test_another_seed_gives_other_samples():
    other = SamplingSettings(num_samples=6, temperature=1.0, top_p=1.0, max_tokens=9, seed=12)
    assert generate(PROMPTS[:1]) != generate(PROMPTS[:1], other)


def test_seeds_are_stable_and_distinct():
    # A literal: the same run must sample the same on another machine and in another process.
    assert sample_seed(0, "p0", 0) == 5447502534203523653
    seeds = {sample_seed(s, p, i) for s in range(20) for p in ("1", "11", "2") for i in range(20)}
    assert len(seeds) == 20 * 3 * 20
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_request_frozen_by_an_update_carries_the_version_that_samples_it():
    async def run():
        engine = ScriptedEngine()
        worker = RolloutWorker(engine)
        await engine.start_weight_update()
        pending = asyncio.create_task(worker.generate_group(PROMPTS[0], SAMPLING))
        await asyncio.sleep(0.01)
        assert not pending.done()
        await engine.update_weights({})
        await engine.finish_weight_update("theta3.adapter3")
        return await pending

    group = asyncio.run(run())
    assert {r.version for r in group.rollouts} == {PolicyVersion(3, 3)}


def test_dead_engine_raises_actor_lost():
    async def run():
        engine = ScriptedEngine()
        engine.kill()
        await RolloutWorker(engine).generate_group(PROMPTS[0], SAMPLING)

    with pytest.raises(ActorLostError):
        asyncio.run(run())
