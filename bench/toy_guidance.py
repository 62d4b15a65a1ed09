"""Guidance on a toy whose expected reward is exact: `python bench/toy_guidance.py` (a minute).

The toy of tests/learner/test_guidance_learns.py, five seeds, as a table of Markdown: what becomes
of a harmful source's weight and of the reward, and where lambda goes.
"""

import numpy as np

from tests.learner.test_guidance_learns import HELPFUL_AND_HARMFUL, SEEDS, Toy


def weights(seed: int) -> list[str]:
    """Return the harmful source's last weight, and rewards with learned and with equal weights."""
    learned = Toy(seed, HELPFUL_AND_HARMFUL, "meta.guidance=[demonstrations]")
    fixed = Toy(seed, HELPFUL_AND_HARMFUL, "meta.guidance=[adapter]", "meta.w_objective=frozen")
    rewards = [np.mean(toy.run()[-10:]) for toy in (learned, fixed)]
    weight = dict(learned.guidance.guidance.source_weights)["bad"]
    return [f"{value:.3f}" for value in (weight, *rewards)]


def mixes(seed: int) -> str:
    """Return lambda after 40 steps where demonstrations harm, and where they help."""
    found = []
    for is_right in (False, True):
        toy = Toy(seed, {"demonstrations": [is_right]}, "meta.guidance=[mix]")
        toy.run(40)
        found.append(f"{toy.guidance.guidance.mix:.2f}")
    return " / ".join(found)


ROWS = (
    "final weight of the harmful source, started at 0.5, floor 0.01",
    "expected reward, mean of the last 10 steps, weights learned",
    "the same, equal weights kept",
    "λ after 40 steps of `mix`, started at 0.5: demonstrations harm / help",
)

if __name__ == "__main__":
    columns = [[*weights(seed), mixes(seed)] for seed in SEEDS]
    print(f"| seed | {' | '.join(map(str, SEEDS))} |\n|---|{'---|' * len(SEEDS)}")
    for name, cells in zip(ROWS, zip(*columns, strict=True), strict=True):
        print(f"| {name} | {' | '.join(cells)} |")
