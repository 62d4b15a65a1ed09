"""Operations of a model's passes over a grid of tokens, for `observability.throughput` and benches.

With S tokens computed, T scored, L layers of m weights, queries of width q, H hidden, V vocabulary:

    F = 2 L m S + 2 H V T + 4 L q (pairs of a query and a key it sees)

A shared prompt counts once. A training pass is 3 F. What is recomputed, and what kernels compute in
vain (masked pairs, padding), is the hardware's affair and not counted: so MFU reckons it.
"""

from coop_rl.models.varlen import spans_of
from coop_rl.planning.shape import ModelShape
from coop_rl.types import MicroBatch, TokenGrid


def attended_pairs(grid: TokenGrid) -> int:
    """Return the pairs of a token and one that it sees, itself included, padding left out.

    The grid lies in host memory. A segment of n queries that ends with its k keys has
    n k - n (n - 1) / 2 pairs.
    """
    spans = spans_of(grid)
    n, k = spans.cu_q.diff().long(), spans.cu_k.diff().long()
    pairs = n * k - n * (n - 1) // 2
    if grid.sequence_KL is not None:
        pairs = pairs[grid.sequence_KL.reshape(-1)[spans.cu_q[:-1].long()] >= 0]
    return int(pairs.sum())


def forward_flops(shape: ModelShape, num_tokens: int, num_scored: int, num_pairs: int) -> float:
    """Return F, the operations of one forward pass."""
    products = 2.0 * shape.num_layers * shape.layer_params * num_tokens
    head = 2.0 * shape.hidden * shape.vocab * num_scored
    return products + head + 4.0 * shape.num_layers * shape.query * num_pairs


def micro_batch_flops(shape: ModelShape, micro: MicroBatch) -> float:
    """Return the operations of one forward pass over a micro-batch; an anchor has none."""
    if not micro.num_tokens:
        return 0.0
    pairs = attended_pairs(micro.grid)
    return forward_flops(shape, micro.num_tokens, len(micro.grid.target_T), pairs)
