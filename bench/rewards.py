"""The reward pool under hostile answers: 10,000 of them, time over the limit, memory, throughput.

python bench/rewards.py [NUMBER]      writes bench/rewards.json
"""

import json
import random
import sys
import time
from pathlib import Path

import psutil

from coop_rl.config.reward import RewardSection
from coop_rl.rewards.pool import RewardPool
from coop_rl.rewards.verdict import Answer

LIMIT_S = 1.0
CHUNK = 500
TEXT = "0123456789xyz+-*/^_(){}[]\\ ,.=!%$&#abc\x00\u202e\ud800\U0001f4a3\n"
BOMBS = (
    "9**9**9**9", "9^{9^{9^{9}}}", "10^{10^{10}}!", "((((9!)!)!)!)!", r"\binom{99999}{49999}",
    "(x+y+z)^{2000}", "(" * 3000, "9" * 5000, ",".join("1" * 20_000), "2^{99999999}",
    "1+" * 50_000, r"\frac{" * 500, "1000000000!", r"\frac{9999!^{9999}}{3}", "9999^{9999}!",
    r"\sum_{i=1}^{10^9} i", r"\int_0^1 x^{x^{x}} dx", r"\sqrt[9999]{9^{9999}}",
    r"(x+1)^{99}(y+1)^{99}(z+1)^{99}", "x^{9999}-1=0", r"\prod_{k=1}^{99999} k",
)  # fmt: skip


def hostile(num: int, seed: int) -> list[Answer]:
    """Return random texts, one in twenty a bomb, some of them 100 kB long."""
    rng = random.Random(seed)
    made = []
    for _ in range(num):
        draw = rng.random()
        if draw < 0.05:
            text = f"\\boxed{{{rng.choice(BOMBS)}}}"
        elif draw < 0.06:
            text = "".join(rng.choices(TEXT, k=200)) * 500
        else:
            text = "".join(rng.choices(TEXT, k=rng.randrange(120)))
            text = f"\\boxed{{{text}}}" if draw < 0.5 else text
        made.append(Answer(text, rng.choice(["4", r"\frac{1}{2}", "x^2", "(1,2)", "{1,2}"])))
    return made


def ordinary(num: int, seed: int) -> list[Answer]:
    """Return responses as a model that does sums writes them, two thirds of them right."""
    rng = random.Random(seed)
    made = []
    for i in range(num):
        a, b = rng.randrange(1, 10_000), rng.randrange(2, 100)
        wrong = i % 3 == 0
        text = f"We divide {a} by {b}.\nSo the answer is \\boxed{{\\frac{{{a + wrong}}}{{{b}}}}}."
        made.append(Answer(text, f"\\frac{{{a}}}{{{b}}}"))
    return made


def worker_mib() -> float:
    """Return the resident memory of all workers."""
    children = psutil.Process().children()
    return sum(c.memory_info().rss for c in children) / 2**20


def main(num: int) -> None:
    """Run everything, print and write the figures."""
    section = RewardSection.model_validate(
        {"kind": "math", "num_workers": 2, "time_limit_s": LIMIT_S}
    )
    pool = RewardPool(section)
    answers, memory, statuses = (
        hostile(num, 0),
        [],
        dict.fromkeys(("scored", "timeout", "crashed"), 0),
    )
    started = time.monotonic()
    for i in range(0, num, CHUNK):
        for verdict in pool.score(answers[i : i + CHUNK]):
            statuses[verdict.status] += 1
        memory.append(round(worker_mib()))
    hostile_s = time.monotonic() - started
    over: dict[str, float] = {}
    for bomb in (*BOMBS, *(a.text for a in answers[:100])):
        pool.score([Answer(r"\boxed{4}", "4")] * 2)  # both workers are up again
        started = time.monotonic()
        pool.score([Answer(f"\\boxed{{{bomb}}}", "4")])
        over[bomb[:30]] = time.monotonic() - started - LIMIT_S
    good = ordinary(6000, 1)
    pool.score(good[:600])
    rates = []
    for i in range(5):
        part = good[1000 * i + 600 : 1000 * i + 1600]
        started = time.monotonic()
        verdicts = pool.score(part)
        rates.append(len(part) / (time.monotonic() - started))
    pool.close()
    figures = {
        "hostile": num,
        **statuses,
        "hostile_s": round(hostile_s, 1),
        "killed_alone": sum(seconds > 0 for seconds in over.values()),
        "slowest_single_over_limit_s": round(max(over.values()), 2),
        "workers_mib_per_chunk": memory,
        "ordinary_per_s": [round(rate) for rate in sorted(rates)],
        "ordinary_right": sum(v.is_correct for v in verdicts) / len(verdicts),
    }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    Path(__file__).with_name("rewards.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main(int((sys.argv[1:] or ["10000"])[0]))
