"""A hostile answer costs its own verdict only, in bounded time; broken verifiers do not start."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import psutil
import pytest

from coop_rl.errors import RunError
from coop_rl.rewards.pool import RewardPool
from coop_rl.rewards.verdict import CRASHED, TIMEOUT, Answer
from coop_rl.types import Reward
from tests.rewards.verifiers import ALWAYS_RIGHT, ALWAYS_WRONG, FAILING, section

RIGHT, WRONG = Reward(1.0, True, answer="4"), Reward(0.0, False, answer="5")
LIMIT_S = 1.0
MOST_S = LIMIT_S + 4.0
"""The batch's limit, the answer's, two new processes (0.3 s each on an idle machine)."""


@pytest.fixture(scope="module")
def pool() -> Iterator[RewardPool]:
    pool = RewardPool(section(num_workers=2, time_limit_s=LIMIT_S), FAILING)
    yield pool
    pool.close()


def answers(*texts: str) -> list[Answer]:
    return [Answer(text, "4") for text in texts]


def workers() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]


def test_order_is_kept(pool: RewardPool) -> None:
    rights = [i % 3 == 0 for i in range(200)]
    verdicts = pool.score(answers(*(f"{i} #{4 if right else 5}" for i, right in enumerate(rights))))
    assert [v.is_correct for v in verdicts] == rights
    assert pool.score([]) == []


def test_hanging_answer_is_killed_and_alone_pays(pool: RewardPool) -> None:
    started = time.monotonic()
    verdicts = pool.score(answers("#4", "hang", "#5", "#4"))
    assert time.monotonic() - started < MOST_S
    assert verdicts == [RIGHT, TIMEOUT, WRONG, RIGHT]


def test_hang_inside_c_code_is_killed_as_quickly(pool: RewardPool) -> None:
    """No Python signal handler runs there."""
    started = time.monotonic()
    assert pool.score(answers("hang in C")) == [TIMEOUT]
    assert time.monotonic() - started < MOST_S


def test_slow_but_allowed_answers_are_scored(pool: RewardPool) -> None:
    """They exceed a batch's limit, not their own."""
    verdicts = pool.score(answers("#4", "slow", "#4"))
    assert [v.is_correct for v in verdicts] == [True, False, True]


@pytest.mark.parametrize("text", ["die", "exit", "raise", "memory", "recursion", "nan"])
def test_failing_answer_is_crashed_and_alone_pays(pool: RewardPool, text: str) -> None:
    assert pool.score(answers("#4", text, "#5", "#4")) == [RIGHT, CRASHED, WRONG, RIGHT]


def test_worker_lost_once_costs_nothing(pool: RewardPool, tmp_path: Path) -> None:
    assert pool.score(answers("#4", f"die once {tmp_path / 'a'}#4")) == [RIGHT, RIGHT]


def test_idle_workers_killed_from_outside_are_replaced(pool: RewardPool) -> None:
    pool.score(answers("#4"))
    for worker in workers():
        worker.send_signal(signal.SIGKILL)
    assert pool.score(answers("#4", "#5")) == [RIGHT, WRONG]
    for worker in workers():
        worker.send_signal(signal.SIGKILL)
    time.sleep(0.5)  # the kernel has reaped them
    assert pool.score(answers("#4", "#5")) == [RIGHT, WRONG]


def test_hostile_text_is_only_text(pool: RewardPool) -> None:
    texts = ["", "#" * 100_000, "\x00#4\x00", "\ud800 #4", "#4\u202e", "#4" * 200_000, "\x1b[2J#4"]
    assert [v.is_correct for v in pool.score(answers(*texts))] == [
        False, False, False, True, False, True, True,
    ]  # fmt: skip


def test_made_and_used_on_threads_that_end() -> None:
    made: list[RewardPool] = []
    scored: list[list[Reward]] = []
    for action in (
        lambda: made.append(RewardPool(section())),
        lambda: scored.append(made[0].score(answers("#4"))),
    ):
        thread = threading.Thread(target=action)
        thread.start()
        thread.join()
    assert scored == [[RIGHT]]
    made[0].close()


def test_closing_ends_the_processes() -> None:
    before = {p.pid for p in workers()}
    pool = RewardPool(section(num_workers=2))
    started = [p for p in workers() if p.pid not in before]
    assert len(started) == 2
    pool.close()
    assert not [p for p in started if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_closing_ends_who_waits() -> None:
    pool = RewardPool(section(time_limit_s=60), FAILING)
    ended: list[type] = []

    def wait(text: str) -> None:
        try:
            pool.score(answers(text))
        except (RunError, CancelledError) as error:
            ended.append(type(error))

    threads = [threading.Thread(target=wait, args=(text,)) for text in ("hang", "#4")]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    pool.close()
    for thread in threads:
        thread.join(timeout=20)
    assert set(ended) == {RunError, CancelledError}


@pytest.mark.parametrize(
    ("verifier", "message"),
    [(ALWAYS_WRONG, "must call .* right, got"), (ALWAYS_RIGHT, "must call .* wrong, got")],
)
def test_canary_refuses_a_broken_verifier(verifier, message: str) -> None:
    with pytest.raises(RunError, match=message):
        RewardPool(section(), verifier)


def test_workers_do_not_import_torch() -> None:
    imports = "import sys, coop_rl.rewards.worker, coop_rl.rewards.registry"
    code = f"{imports}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def _hold_pool(pids: "multiprocessing.Queue[list[int]]") -> None:
    pool = RewardPool(section(time_limit_s=60), FAILING)
    pids.put([p.pid for p in psutil.Process().children()])
    pool.score(answers("hang"))


def test_workers_end_with_a_killed_parent() -> None:
    """Even one that is busy: nothing of a run may be left."""
    context = multiprocessing.get_context("spawn")
    pids: multiprocessing.Queue[list[int]] = context.Queue()
    parent = context.Process(target=_hold_pool, args=(pids,))
    parent.start()
    children = [psutil.Process(pid) for pid in pids.get(timeout=30)]
    time.sleep(0.5)
    assert parent.pid
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert alive == []
