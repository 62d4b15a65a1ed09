r"""Telling theta-hat from theta where the model computes in fewer bits than its masters have.

At small rates the masters of theta and theta-hat differ by less than the spacing of bf16: nearly
all weights round to the same number, and the bracket is the noise of the rest. The bracket is a
difference of first order in theta-hat - theta, so it may be taken over a longer way and divided:

    ( g(theta) - g(theta + c (theta-hat - theta)) ) / c

with c such that the typical weight moves by SPACINGS of its spacings, and never below 1:

    c = max( 1, SPACINGS * sum |theta| 2^-7 / sum |theta-hat - theta| )     over weights that differ

(bf16 numbers in [2^e, 2^(e+1)) lie 2^(e-7) apart.) Measured at run time: the share of weights that
differ after rounding, of those whose masters do (`Resolution`).
"""

from collections.abc import Sequence

import torch

from coop_rl.learner.statistics import Reducer, pieces
from coop_rl.types import Resolution

SPACINGS = 2.0
RELATIVE_SPACING = 2.0**-7
Parts = Sequence[torch.Tensor]


@torch.no_grad()
def resolve(theta: Parts, difference: Parts, reducer: Reducer) -> Resolution:
    """Choose c, and measure what it resolves.

    Args:
        theta: This rank's masters.
        difference: theta-hat - theta, cut alike.
        reducer: Sums over the ranks.
    """
    sums_3 = torch.zeros(3, dtype=torch.float64, device=reducer.device)
    for value, change in _pairs(theta, difference):
        moved = change != 0
        sums_3[0] += value[moved].abs().double().sum()
        sums_3[1] += change.abs().double().sum()
        sums_3[2] += moved.sum()
    reducer.all_reduce_sum(sums_3)
    size, distance, num_moved = sums_3.tolist()
    if num_moved == 0:
        return Resolution()
    amplification = max(1.0, SPACINGS * RELATIVE_SPACING * size / distance)
    differing = torch.zeros(1, dtype=torch.float64, device=reducer.device)
    for value, change in _pairs(theta, difference):
        there = (value + amplification * change).bfloat16()
        differing += ((there != value.bfloat16()) & (change != 0)).sum()
    reducer.all_reduce_sum(differing)
    return Resolution(amplification, float(differing) / num_moved)


def _pairs(theta: Parts, difference: Parts) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        pair
        for value, change in zip(theta, difference, strict=True)
        for pair in zip(pieces(value), pieces(change), strict=True)
    ]
