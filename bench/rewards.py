"""The reward pool under hostile answers and killed workers: time, memory, verdicts, throughput.

python bench/rewards.py [NUMBER]      default 10,000 answers; writes bench/rewards.json

Every hostile answer is a call of its own, from as many threads as there are workers, so each one's
time is known.
"""

import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from coop_rl.config.reward import RewardSection
from coop_rl.rewards.math_answer import render_math
from coop_rl.rewards.pool import RewardPool
from coop_rl.rewards.verdict import Answer, Verifier, VerifierSettings
from coop_rl.types import Reward

LIMIT_S = 1.0
WORKERS = 2
CHUNK = 500
ROUNDS = 5
MATH500 = Path("../shared/data/benchmarks/math500/test.jsonl")
GOLDS = ("4", r"\frac{1}{2}", "x^2", "(1,2)", r"\{1,2\}")
TEX = "0123456789xyz+-*/^_(){}[]\\ ,.=!%$&#abc\x00\u202e\U0001f4a3\n"
BOMBS = (
    "9**9**9**9", "9^{9^{9^{9}}}", "10^{10^{10}}!", "((((9!)!)!)!)!", r"\binom{99999}{49999}",
    "(x+y+z)^{2000}", "(" * 3000, "9" * 5000, ",".join("1" * 20_000), "2^{99999999}",
    "1+" * 50_000, r"\frac{" * 500, "1000000000!", r"\frac{9999!^{9999}}{3}", "9999^{9999}!",
    r"\sum_{i=1}^{10^9} i", r"\int_0^1 x^{x^{x}} dx", r"\sqrt[9999]{9^{9999}}",
    r"(x+1)^{99}(y+1)^{99}(z+1)^{99}", "x^{9999}-1=0", r"\prod_{k=1}^{99999} k",
    r"\{" + ",".join(map(str, range(20_000))) + r"\}", "7^{7^{7^{7}}} \\bmod 10^{9}",
    r"\frac{1}{" * 400 + "2" + "}" * 400, "9" * 100_000,
)  # fmt: skip
PLAIN = (" " * 100_000 + r"\boxed", r"\boxed{1} " * 10_000, "1," * 30_000 + "x", "\x00" * 1000)


def verify_unfiltered(answer: Answer, _settings: VerifierSettings) -> Reward:
    """Judge by math-verify alone: no filter turns bombs away."""
    from math_verify import parse, verify

    gold = parse(f"\\boxed{{{answer.gold}}}", parsing_timeout=None)
    response = parse(answer.text, parsing_timeout=None)
    is_correct = bool(verify(gold, response, timeout_seconds=None))
    return Reward(float(is_correct), is_correct)


UNFILTERED = Verifier(verify_unfiltered, render_math, ("math_verify", "sympy"))


def generated(num: int) -> list[str]:
    """Return texts by hypothesis: any Unicode, and TeX-like ones, half of them in a box."""
    texts: list[str] = []

    @seed(0)
    @settings(
        max_examples=num, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.one_of(st.text(), st.text(TEX, max_size=120)), st.booleans())
    def collect(text: str, is_boxed: bool) -> None:
        texts.append(f"\\boxed{{{text}}}" if is_boxed else text)

    collect()
    return texts


def hostile(num: int) -> list[Answer]:
    """Return generated texts, one in twenty a bomb, some 100 kB long."""
    rng = random.Random(0)
    texts = generated(num)
    made = []
    for _ in range(num):
        draw = rng.random()
        if draw < 0.05:
            text = f"\\boxed{{{rng.choice(BOMBS)}}}"
        elif draw < 0.06:
            text = rng.choice(PLAIN)
        elif draw < 0.07:
            text = "".join(rng.choices(TEX + "\ud800", k=200)) * 500
        else:
            text = rng.choice(texts)
        made.append(Answer(text, rng.choice(GOLDS)))
    return made


def ordinary(num: int, first: int) -> list[Answer]:
    """Return responses as a model that does sums writes them, two thirds of them right."""
    rng = random.Random(first)
    made = []
    for i in range(num):
        a, b = rng.randrange(1, 10_000), rng.randrange(2, 100)
        text = f"Divide {a} by {b}.\nThe answer is \\boxed{{\\frac{{{a + (i % 3 == 0)}}}{{{b}}}}}."
        made.append(Answer(text, f"\\frac{{{a}}}{{{b}}}"))
    return made


def solutions() -> list[Answer]:
    """Return MATH-500's reference solutions, each with its gold and with the next one's."""
    rows = [json.loads(line) for line in MATH500.read_text(encoding="utf-8").splitlines()]
    pairs = zip(rows, rows[1:] + rows[:1], strict=True)
    return [Answer(a["solution"], gold) for a, b in pairs for gold in (a["answer"], b["answer"])]


def worker_processes() -> list[psutil.Process]:
    """Return the pool's processes."""
    found = []
    for child in psutil.Process().children():
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:  # it has ended meanwhile
            continue
    return found


def each_alone(pool: RewardPool, answers: Sequence[Answer]) -> dict[str, Any]:
    """Judge each answer in a call of its own; return times, statuses and the workers' memory."""
    took: list[float] = []
    statuses: Counter[str] = Counter()
    memory = []

    def judge(answer: Answer) -> str:
        started = time.monotonic()
        (verdict,) = pool.score([answer])
        took.append(time.monotonic() - started)
        return verdict.status

    started = time.monotonic()
    with ThreadPoolExecutor(WORKERS) as threads:
        for i in range(0, len(answers), CHUNK):
            statuses.update(threads.map(judge, answers[i : i + CHUNK]))
            memory.append(round(sum(p.memory_info().rss for p in worker_processes()) / 2**20))
    return {
        "answers": len(answers),
        **{status: statuses[status] for status in ("scored", "timeout", "crashed")},
        "seconds": round(time.monotonic() - started, 1),
        "longest_call_over_limit_s": round(max(took) - LIMIT_S, 2),
        "workers_mib": memory,
    }


def under_kills(pool: RewardPool) -> dict[str, Any]:
    """Judge while workers are killed from outside, one or both at once; count what changes."""
    rng = random.Random(0)
    stop = threading.Event()
    kills: list[int] = []

    def kill() -> None:
        while not stop.wait(rng.uniform(1.0, 5.0)):  # a process needs about a second to come up
            workers = worker_processes()
            for victim in rng.sample(workers, rng.randint(min(1, len(workers)), len(workers))):
                victim.kill()
                kills.append(victim.pid)

    killer = threading.Thread(target=kill)
    killer.start()
    changed, longest = 0, 0.0
    for i in range(ROUNDS):
        answers = ordinary(6000, 100 + i)
        started = time.monotonic()
        verdicts = pool.score(answers)
        longest = max(longest, time.monotonic() - started)
        expected = [j % 3 != 0 for j in range(len(answers))]
        got = [v.is_correct if v.status == "scored" else None for v in verdicts]
        changed += sum(a != b for a, b in zip(got, expected, strict=True))
    stop.set()
    killer.join()
    return {
        "answers": ROUNDS * 6000,
        "kills": len(kills),
        "changed": changed,
        "longest_round_s": round(longest, 1),
    }


def rates(pool: RewardPool, make: Callable[[int], Sequence[Answer]]) -> list[int]:
    """Return answers per second of several rounds, sorted."""
    pool.score(make(0))
    found = []
    for i in range(1, ROUNDS + 1):
        answers = make(i)
        started = time.monotonic()
        pool.score(answers)
        found.append(round(len(answers) / (time.monotonic() - started)))
    return sorted(found)


def main(num: int) -> None:
    """Run everything, print and write the figures."""
    section = RewardSection.model_validate(
        {"kind": "math", "num_workers": WORKERS, "time_limit_s": LIMIT_S}
    )
    pool = RewardPool(section)
    figures: dict[str, Any] = {"ordinary_per_s": rates(pool, lambda i: ordinary(1000, i))}
    if MATH500.is_file():
        answers = solutions()
        figures["math500_per_s"] = rates(pool, lambda i: answers[i::6])
    hostile_answers = hostile(num)
    figures["hostile"] = each_alone(pool, hostile_answers)
    figures["killed"] = under_kills(pool)
    pool.close()
    unfiltered = RewardPool(section, UNFILTERED)
    figures["hostile_without_filter"] = each_alone(unfiltered, hostile_answers[: num // 10])
    unfiltered.close()
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    Path(__file__).with_name("rewards.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["10000"])[0]))
