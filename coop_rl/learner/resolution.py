r"""Telling theta-hat from theta where the model computes in fewer bits than its masters have.

At small rates the masters of theta and theta-hat differ by less than the spacing of bf16: nearly
all weights round to the same number, and the bracket is the noise of the rest. The bracket is of
first order in theta-hat - theta, so it may be taken over a longer way, on both sides of theta, so
that what is of second order cancels:

    h(theta) - h(theta-hat)  ~  ( h(theta - c d) - h(theta + c d) ) / (2 c),  d = theta-hat - theta

and in the same way the difference of the samples' log-probs. c is such that the typical weight
moves by SPACINGS of its spacings, and never below 1:

    c = max( 1, SPACINGS * sum |theta| 2^-7 / sum |d| )          over the weights with d != 0

(bf16 numbers in [2^e, 2^(e+1)) lie 2^(e-7) apart.) Measured at run time: the share of weights that
differ after rounding, of those whose masters do (`Resolution`).
"""

from collections.abc import Iterator, Sequence

import torch

from coop_rl.learner.statistics import Reducer, pieces
from coop_rl.types import Resolution

SPACINGS = 0.25
"""Fewer are lost in rounding, more leave the range where the difference is linear
(docs/results.md)."""
RELATIVE_SPACING = 2.0**-7
Parts = Sequence[torch.Tensor]


@torch.no_grad()
def resolve(theta: Parts, theta_hat: Parts, reducer: Reducer) -> Resolution:
    """Choose c, and measure what it resolves.

    Args:
        theta: This rank's masters, on any device.
        theta_hat: The shadow's, cut alike.
        reducer: Sums over the ranks.
    """
    sums_3 = torch.zeros(3, dtype=torch.float64, device=reducer.device)
    for value, change in _moved(theta, theta_hat):
        sums_3[0] += value.abs().double().sum()
        sums_3[1] += change.abs().double().sum()
        sums_3[2] += len(change)
    reducer.all_reduce_sum(sums_3)
    size, distance, num_moved = sums_3.tolist()
    if num_moved == 0:
        return Resolution()
    amplification = max(1.0, SPACINGS * RELATIVE_SPACING * size / distance)
    differing = torch.zeros(1, dtype=torch.float64, device=reducer.device)
    for value, change in _moved(theta, theta_hat):
        differing += ((value + amplification * change).bfloat16() != value.bfloat16()).sum()
    reducer.all_reduce_sum(differing)
    return Resolution(amplification, float(differing) / num_moved)


def _moved(theta: Parts, theta_hat: Parts) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (values of theta, their d) of the weights that differ, a piece at a time."""
    for of_theta, of_shadow in zip(theta, theta_hat, strict=True):
        for own, other in zip(pieces(of_theta), pieces(of_shadow), strict=True):
            value = own.to(other.device)
            change = other - value
            yield value[change != 0], change[change != 0]
