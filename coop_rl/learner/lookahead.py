"""What one update of theta does to the next batch's return, per component of its gradient.

    step k:     h = sum_c a_c h_c --clip, AdamW--> theta_{k+1}      u_c = d theta_{k+1} / d a_c
    step k + 1: an independent batch gives grad J_RL(theta_{k+1})   z_c = <grad J_RL, u_c>

`mix` and `demonstrations` guidance follow the z_c (mathematics: `algorithm.lookahead`). The u_c are
kept as this rank's shards, one for RL and one for every source of demonstrations, from step k to
k + 1. For single demonstrations y_e is a central difference of its loss along q = C D grad J_RL,
taken at theta_{k+1} instead of theta_k, which differ by one step.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from coop_rl.algorithm.estimators.base import sum_by_row
from coop_rl.algorithm.lookahead import RL, AdamWRule, clip_differential, clip_factor, response
from coop_rl.learner.engine import StepStats, TrainingEngine
from coop_rl.learner.state_io import Finish, StateReader, StateWriter
from coop_rl.learner.statistics import dot
from coop_rl.types import LookaheadProducts, MicroBatch, Objective, SourceBatch, TokenGrid

SHIFT_NORM = 1e-2
"""Norm of the shift of theta in the central differences."""
Parts = list[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Kept:
    """What the products of single demonstrations need of an update: this rank's shards of it."""

    slope: Parts
    """D, the derivative of AdamW's update with respect to the gradient, value by value."""
    fused: Parts
    """h, the fused gradient."""
    norm: float
    """|h| over all ranks."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The demonstrations of an update, as their single weights saw them."""

    batch: SourceBatch
    factor: float
    """Weight of a token's NLL in the loss, for a demonstration of weight 1."""


class Lookahead:
    """Keeps the shards of one update until the next batch's RL gradient is there."""

    def __init__(
        self,
        engine: TrainingEngine,
        betas: tuple[float, float],
        max_grad_norm: float,
        has_examples: bool,
    ) -> None:
        """Read gradients and moments of `engine`; `has_examples`: single demonstrations as well."""
        self._engine = engine
        self._betas = betas
        self._max_norm = max_grad_norm
        self._has_examples = has_examples
        self._components: dict[str, Parts] = {}
        self._fused: Parts = []
        self._shown: list[Shown] = []
        self._kept: dict[str, Parts] = {}
        self._kept_update: Kept | None = None
        self._kept_shown: list[Shown] = []
        self.products = LookaheadProducts()
        """Of the last `measure`; empty until an update is known."""

    def measure(self, rl_parts: Parts | None) -> None:
        """Take the kept update's products with this step's gradient of L_RL, at theta_{k+1}."""
        self.products = LookaheadProducts()
        if not self._kept or rl_parts is None:
            return
        names, responses = list(self._kept), list(self._kept.values())
        dots = [-dot(rl_parts, u) for u in responses]
        squares = [sum(dot(u, u) for u in responses) / len(responses), dot(rl_parts, rl_parts)]
        *products, u_square, rl_square = self._reduced([*dots, *squares])
        components = tuple(zip(names, products, strict=True))
        examples: tuple[tuple[str, float], ...] = ()
        if self._kept_update:
            examples = self._measure_examples(rl_parts, self._kept_update)
        scale = math.sqrt(u_square * rl_square)
        self.products = LookaheadProducts(components, examples, scale)

    def begin(self, rl_parts: Parts, rl_weight: float) -> None:
        """Start to take an update's gradient apart."""
        self._components = {RL: rl_parts}
        self._fused = [part * rl_weight for part in rl_parts]
        self._shown = []

    def add_source(self, batch: SourceBatch, objective: Objective, total: Parts) -> None:
        """Add what a source contributed; `total` is the fused gradient with it."""
        share = sum(term.share for term in objective.terms if term.source == batch.source)
        weight = objective.sft_weight * share
        self._components[batch.source] = [
            (now - before) / weight for now, before in zip(total, self._fused, strict=True)
        ]
        self._fused = total
        self._shown.append(Shown(batch, weight / batch.num_tokens))

    def keep(self, lr: float, stats: StepStats) -> None:
        """Differentiate the update that was just taken."""
        self._kept, self._kept_update, self._kept_shown = {}, None, []
        # AdamW's first step is the gradient's sign, whatever the weights: it has nothing to say.
        is_first = self._engine.num_updates() <= 1
        if is_first or not stats.is_applied or not self._components:
            return
        rule = AdamWRule(lr=lr, betas=self._betas)
        clip = clip_factor(stats.grad_norm, self._max_norm)
        num_updates = self._engine.num_updates()
        slope = [
            rule.slope(
                clip * part, m.exp_avg.view_as(part), m.exp_avg_sq.view_as(part), num_updates
            )
            for part, m in zip(self._fused, self._engine.moment_parts(), strict=True)
        ]
        names = list(self._components)
        dots = self._reduced([dot(self._fused, self._components[name]) for name in names])
        for name, product in zip(names, dots, strict=True):
            parts = zip(slope, self._components[name], self._fused, strict=True)
            self._kept[name] = [
                response(d, h_c, h, stats.grad_norm, product, self._max_norm) for d, h_c, h in parts
            ]
        if self._has_examples:
            self._kept_update = Kept(slope, self._fused, stats.grad_norm)
            self._kept_shown = self._shown
        self._components = {}

    def _measure_examples(self, rl_parts: Parts, kept: Kept) -> tuple[tuple[str, float], ...]:
        sloped = [-d * part for d, part in zip(kept.slope, rl_parts, strict=True)]
        (product,) = self._reduced([dot(kept.fused, sloped)])
        direction = [
            clip_differential(part, h, kept.norm, product, self._max_norm)
            for part, h in zip(sloped, kept.fused, strict=True)
        ]
        (square,) = self._reduced([dot(direction, direction)])
        if square == 0.0:
            return ()
        step = SHIFT_NORM / square**0.5
        with self._engine.shifted(direction, step):
            above = [self._row_losses(shown) for shown in self._kept_shown]
        with self._engine.shifted(direction, -step):
            below = [self._row_losses(shown) for shown in self._kept_shown]
        measured: list[tuple[str, float]] = []
        for shown, high, low in zip(self._kept_shown, above, below, strict=True):
            slopes = (shown.factor * (high - low) / (2 * step)).tolist()
            measured += zip(shown.batch.ids, slopes, strict=True)
        return tuple(measured)

    @torch.no_grad()
    def _row_losses(self, shown: Shown) -> torch.Tensor:
        """Return the summed NLL of every demonstration, over all ranks, fp64."""
        device = self._engine.device
        total = torch.zeros(len(shown.batch.ids), dtype=torch.float64, device=device)
        for micro in shown.batch.ranks[self._engine.rank]:
            log_prob_T = self._engine(micro.grid).log_prob_T.double()
            nll_B = -sum_by_row(log_prob_T, micro.row_T.to(device), len(micro.row_B))
            total[micro.row_B.to(device)] = nll_B
        self._engine.all_reduce_sum(total)
        return total

    def _reduced(self, dots: Sequence[float]) -> list[float]:
        """Sum dot products over the ranks."""
        total = torch.tensor(dots, dtype=torch.float64, device=self._engine.device)
        self._engine.all_reduce_sum(total)
        values: list[float] = total.tolist()
        return values

    def save(self, folder: Path, *, writes_later: bool = False) -> Finish:
        """Take in this rank's shards, for `StateWriter.finish`.

        A run resumed on other ranks, or at another ZeRO stage, goes without them for a step.
        """
        rank = self._engine.rank
        writer = StateWriter(folder / f"lookahead-{rank}", writes_later=writes_later)
        vectors = {f"u/{name}": parts for name, parts in self._kept.items()}
        if self._kept_update:
            vectors |= {"slope": self._kept_update.slope, "fused": self._kept_update.fused}
        for key, parts in vectors.items():
            for number, part in enumerate(parts):
                writer.add(f"{key}/{number}", part)
        for index, shown in enumerate(self._kept_shown):
            for number, micro in enumerate(shown.batch.ranks[rank]):
                for name, tensor in _tensors_of(micro).items():
                    writer.add(f"shown/{index}/{number}/{name}", tensor)
        return partial(
            writer.finish,
            {
                "names": list(self._kept),
                "world_size": self._engine.world_size,
                "cut": self._cut(),
                "norm": self._kept_update.norm if self._kept_update else None,
                "shown": [
                    {
                        "source": shown.batch.source,
                        "num_tokens": shown.batch.num_tokens,
                        "ids": shown.batch.ids,
                        "factor": shown.factor,
                        "micros": [list(_tensors_of(m)) for m in shown.batch.ranks[rank]],
                    }
                    for shown in self._kept_shown
                ],
            },
        )

    def _cut(self) -> list[int]:
        """Return how theta is cut, which says whether shards fit."""
        return [part.numel() for part in self._engine.master_parts()]

    def load(self, folder: Path) -> None:
        """Read what `save` wrote where theta was cut alike."""
        # Rank 0 has written in every world.
        world_size = StateReader(folder / "lookahead-0").values["world_size"]
        if world_size != self._engine.world_size:
            return
        reader = StateReader(folder / f"lookahead-{self._engine.rank}")
        values = reader.values
        if values.get("cut", self._cut()) != self._cut():
            return
        self._kept = {name: self._read_parts(reader, f"u/{name}") for name in values["names"]}
        if values["norm"] is not None:
            slope, fused = (self._read_parts(reader, key) for key in ("slope", "fused"))
            self._kept_update = Kept(slope, fused, values["norm"])
        self._kept_shown = [
            self._read_shown(reader, index, facts) for index, facts in enumerate(values["shown"])
        ]

    def _read_parts(self, reader: StateReader, key: str) -> Parts:
        keys = [f"{key}/{number}" for number in range(len(self._engine.moment_parts()))]
        return [part.to(self._engine.device) for _, part in reader.read(keys)]

    def _read_shown(self, reader: StateReader, index: int, facts: Mapping[str, Any]) -> Shown:
        micros = []
        for number, names in enumerate(facts["micros"]):
            pairs = reader.read([f"shown/{index}/{number}/{name}" for name in names])
            micros.append(_micro_batch(dict(zip(names, (t for _, t in pairs), strict=True))))
        ranks: list[tuple[MicroBatch, ...]] = [()] * self._engine.world_size
        ranks[self._engine.rank] = tuple(micros)
        batch = SourceBatch(facts["source"], tuple(ranks), facts["num_tokens"], tuple(facts["ids"]))
        return Shown(batch, facts["factor"])


def _tensors_of(micro: MicroBatch) -> dict[str, torch.Tensor]:
    """Return what losses of rows need: neither weights nor behaviour."""
    parts = micro.grid._asdict() | {"row_T": micro.row_T, "row_B": micro.row_B}
    return {name: tensor for name, tensor in parts.items() if tensor is not None}


def _micro_batch(tensors: Mapping[str, torch.Tensor]) -> MicroBatch:
    """Return what `_tensors_of` took apart."""
    grid = TokenGrid(*(tensors.get(name) for name in TokenGrid._fields))  # type: ignore[arg-type]
    nothing = torch.zeros(0)
    return MicroBatch(grid, tensors["row_T"], tensors["row_B"], nothing, nothing, 0)
