"""Hostile answers and killed workers: bounded time and memory, and every answer judged once.

The whole of it, 10,000 answers, with figures: bench/rewards.py.
"""

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from coop_rl.config.reward import RewardSection
from coop_rl.rewards.pool import RewardPool
from coop_rl.rewards.process import MOST_LOST_PROCESSES
from coop_rl.rewards.verdict import CRASHED, TIMEOUT, Answer
from coop_rl.types import Reward
from tests.rewards.test_math_answer import BOMBS
from tests.rewards.verifiers import FAILING, NOTING

LIMIT_S = 1.0
BURNING = [
    r"\boxed{\frac{9999999999!}{2}}",
    r"\boxed{9999^{9999}!}",
    r"\boxed{\binom{99999}{49999}}",
]
"""What the pre-filter may let through."""


def answers(num: int, seed: int) -> list[Answer]:
    """Return ordinary answers with bombs and junk among them."""
    rng = random.Random(seed)
    junk = [
        "\x00",
        "\u202e" * 50,
        "\ud800",
        "\U0001f4a3" * 99,
        "a" * 100_000,
        "$" * 5000,
        "\\" * 999,
    ]
    made = []
    for i in range(num):
        draw = rng.random()
        if draw < 0.05:
            made.append(Answer(f"\\boxed{{{rng.choice(BOMBS)}}}", "4"))
        elif draw < 0.3:
            made.append(Answer("".join(rng.choices([*junk, "4", " ", "{", "}"], k=4)), "x"))
        else:
            made.append(Answer(f"so \\boxed{{\\frac{{{i}}}{{2}}}}", f"{i}/2" if i % 3 else "x"))
    return made


@pytest.fixture(scope="module")
def pool() -> Iterator[RewardPool]:
    pool = RewardPool(
        RewardSection.model_validate({"kind": "math", "num_workers": 2, "time_limit_s": LIMIT_S})
    )
    yield pool
    pool.close()


def test_hostile_answers_are_all_judged(pool: RewardPool) -> None:
    batch = answers(400, seed=1)
    verdicts = pool.score(batch)
    expected = [a.text.startswith("so") and a.gold != "x" for a in batch]
    assert [v.is_correct for v in verdicts] == expected
    ordinary = [v for a, v in zip(batch, verdicts, strict=True) if a.text.startswith("so")]
    assert {v.status for v in ordinary} == {"scored"}


@pytest.mark.parametrize("bomb", BURNING)
def test_what_burns_costs_its_own_limit(pool: RewardPool, bomb: str) -> None:
    pool.score([Answer(r"\boxed{4}", "4")] * 2)
    started = time.monotonic()
    (verdict,) = pool.score([Answer(bomb, "4")])
    # On a busy machine the kill itself is late; bench/rewards.py holds it to one second.
    assert time.monotonic() - started < LIMIT_S + 5.0
    assert not verdict.is_correct


def test_other_callers_go_on_while_an_answer_burns() -> None:
    section = RewardSection.model_validate({"num_workers": 2, "time_limit_s": 8.0})
    pool = RewardPool(section, FAILING)
    burned: list = []
    thread = threading.Thread(target=lambda: burned.extend(pool.score([Answer("hang", "4")])))
    thread.start()
    time.sleep(0.3)
    started = time.monotonic()
    for _ in range(20):
        (verdict,) = pool.score([Answer("#4", "4")])
        assert verdict.is_correct
    assert time.monotonic() - started < 6.0
    assert thread.is_alive()
    thread.join()
    pool.close()
    assert burned == [TIMEOUT]


def workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has ended meanwhile
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def test_killed_workers_lose_no_answer_and_judge_none_twice() -> None:
    """One of them and both, while they judge, idle and start.

    The kills are few: on a busy machine they could come faster than processes start.
    """
    section = RewardSection.model_validate({"kind": "math", "num_workers": 2})
    pool = RewardPool(section)
    rng = random.Random(3)
    batch = [Answer(f"\\boxed{{{i}.5}}", f"{i}.5" if i % 3 else "x") for i in range(2000)]
    expected = [i % 3 != 0 for i in range(2000)]
    kills = []

    def kill() -> None:
        for both in (False, True, False, False, True):
            time.sleep(rng.uniform(0.2, 0.8))
            alive = workers()
            for victim in alive if both else alive[:1]:
                victim.kill()
                kills.append(victim.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    started = time.monotonic()
    verdicts: list[Reward] = []
    while killer.is_alive() or not verdicts:
        verdicts = pool.score(batch)
        assert [v.is_correct for v in verdicts] == expected
        assert {v.status for v in verdicts} == {"scored"}
    # Workers that share a pipe stall for a minute.
    assert time.monotonic() - started < 45.0
    killer.join()
    pool.close()
    assert len(kills) >= 5


def test_neighbours_of_a_hostile_answer_are_judged_once(tmp_path: Path) -> None:
    """Verdicts come one by one, so a kill costs nobody else a second judgement."""
    section = RewardSection.model_validate({"time_limit_s": 1.0})
    pool = RewardPool(section, NOTING)
    texts = ["a", "b", "hang", "c", "die", "d"]
    verdicts = pool.score([Answer(text, "", str(tmp_path / "notes")) for text in texts])
    pool.close()
    assert verdicts[2] == TIMEOUT
    assert verdicts[4] == CRASHED
    assert [v.is_correct for v in verdicts] == [True, True, False, True, False, True]
    notes = Counter((tmp_path / "notes").read_text().split())
    assert notes == {"a": 1, "b": 1, "hang": 1, "c": 1, "die": MOST_LOST_PROCESSES, "d": 1}
