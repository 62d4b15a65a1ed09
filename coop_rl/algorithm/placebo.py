"""The control of look-ahead guidance: products without what they say (`meta.lookahead: placebo`).

Each component of an update gets a product that was drawn, without replacement, from those of all
components of the last updates: the same sizes and the same noise, but nothing about whom they
belong to. lambda and the weights of sources then walk at random. What learned weights are worth is
what they gain over this, not over standing still. Called by `learner.scalar_guidance`.
"""

import math
import random
from collections.abc import Mapping, Sequence

POOL_STEPS = 16
"""Updates whose products are dealt."""
SALT = 7919
"""Keeps the draws apart from others of the run's seed."""
Products = Mapping[str, float]


class Placebo:
    """Deals products at random; the same for the same seed, step and past."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._pool: list[list[float]] = []

    def deal(self, step: int, products: Products) -> dict[str, float]:
        """Return a product for each component, drawn from those of the last updates."""
        if not all(math.isfinite(value) for value in products.values()):
            return dict(products)  # nothing moves by them
        self._pool = [*self._pool, list(products.values())][-POOL_STEPS:]
        values = [value for past in self._pool for value in past]
        return dict(zip(products, self._draw(step).sample(values, len(products)), strict=True))

    def shuffle(self, step: int, slopes: Products) -> dict[str, float]:
        """Return the slopes of a step's single demonstrations, each given to another at random."""
        dealt = self._draw(step).sample(list(slopes.values()), len(slopes))
        return dict(zip(slopes, dealt, strict=True))

    def _draw(self, step: int) -> random.Random:
        return random.Random(f"{SALT} {self._seed} {step}")

    def state(self) -> list[list[float]]:
        """Return the pool, as JSON."""
        return self._pool

    def load_state(self, state: Sequence[Sequence[float]]) -> None:
        """Go on from what `state` returned."""
        self._pool = [list(past) for past in state]
