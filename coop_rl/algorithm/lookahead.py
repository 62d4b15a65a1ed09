r"""The one-step look-ahead: what lambda and the weights of data did to the reward after a step.

docs/algorithm.md section 5, guidance kinds `mix` and `demonstrations`. The gain of a step,

    G = J_RL(theta_{k+1}) - J_RL(theta_k + RL-only step)

depends on the step's weights through theta_{k+1} only. Weighing data by the derivative of an
objective after one step is arXiv 1803.09050 (plain SGD there); the step differentiated here is
clipping and AdamW (arXiv 1711.05101, algorithm 2) as torch and DeepSpeed compute them.

**The step.** Components c are `rl` and the sources s that have demonstrations in the step (P), each
with the gradient h_c of its loss, normalised by its own count:

    h = sum_c a_c h_c                    a_rl = lambda,  a_s = (1 - lambda) v_s / V,  V = sum_P v_s
    g = clip(n) h                        n = |h|,  clip(n) = min( 1, max_norm / (n + 1e-6) )
    m = beta1 m' + (1 - beta1) g         v = beta2 v' + (1 - beta2) g^2
    r = sqrt( v / (1 - beta2^t) )        theta_{k+1} = (1 - rate decay) theta_k
                                             - rate m / (1 - beta1^t) / (r + eps)

Weight decay, m' and v' do not depend on a. So, with D diagonal and C symmetric,

    u_c = d theta_{k+1} / d a_c = D C h_c
    C   = clip ( I - h h^T / (n (n + 1e-6)) )      where clipping is active, else I
    D   = - rate / (1 - beta1^t) ( (1 - beta1) / (r + eps)
              - m (1 - beta2) g / ( (1 - beta2^t) r (r + eps)^2 ) )                [AdamW]
    D   = - rate                                                                   [plain SGD]

In D the first term is the factor (1 - beta1)/(1 - beta1^t), the second how v follows g. At t = 1
they cancel but for eps: AdamW's first step is rate * sign(g), which small changes leave alone.

**The derivatives.** With z_c = < grad J_RL(theta_{k+1}), u_c >:

    dG/dlambda = z_rl - zbar,  zbar = sum_P v_s z_s / V
    v = f + (1 - S f) p,  p = softmax(phi)         S sources, floor f: none is lost for good
    dG/dphi_i  = (1 - lambda) (1 - S f) / V p_i ( x_i - sum_j p_j x_j )
    x_s = z_s - zbar for s in P, else 0            with all in P: p_i ( z_i - sum_j p_j z_j ), V = 1

Per example, with weights c_e = E softmax(psi)_e (mean 1) on the E examples of a step, whose losses
l_e enter as a_s / T_s * sum_e c_e l_e, and y_e = d J_RL(theta_{k+1}) / d c_e:

    y_e        = a_s / T_s < q, grad l_e(theta_k) >,      q = C D grad J_RL(theta_{k+1})
    dG/dpsi_e  = c_e ( y_e - 1/E sum_f c_f y_f )

so that one vector q (`clip_differential` of D grad J_RL) and the change of every l_e along it
serve all examples.

**grad J_RL(theta_{k+1})** is minus the RL gradient of the *next*, independent batch. The batch that
made the step must not judge it: its noise is in h_rl as well, z_rl would hold - < noise, D noise >,
which is positive, and lambda would rise whatever the truth. L_RL may differ from -J_RL by a
positive factor (token counts), which scales all derivatives alike and must not matter to who
follows them.

**The scale.** Nor may theta's rate matter, nor how far a step happens to move theta: |u_c| falls
severalfold in AdamW's first steps. So who follows the derivatives takes them over

    |grad J_RL(theta_{k+1})| ( mean_c |u_c|^2 )^(1/2)

which makes z_c the cosine between what the reward asks for and what component c did, times |u_c|
over that mean. It is one positive number a step, so no sign and no ratio changes.

Vectors may be cut into shards over ranks: everything here is elementwise, and norms and dot
products over all shards are handed in as numbers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

RL = "rl"
"""The component of the RL loss; the others are sources of demonstrations."""
CLIP_EPS = 1e-6
"""What torch and DeepSpeed add to the norm they divide by."""


@dataclass(frozen=True, slots=True)
class AdamWRule:
    """One AdamW step, as a function of the gradient."""

    lr: float
    """The step's rate."""
    betas: tuple[float, float]
    eps: float = 1e-8

    def slope(
        self,
        gradient: torch.Tensor,
        exp_avg: torch.Tensor,
        exp_avg_sq: torch.Tensor,
        num_steps: int,
    ) -> torch.Tensor:
        """Return D: elementwise d theta_{k+1} / d g, like `gradient` in shape and type.

        Both terms over one denominator: the difference of the two, in fp32, would be rounding
        error where they nearly cancel. Where v is 0, no gradient was ever seen (or its square
        underflowed) and D is its limit for g -> 0, - rate (1 - beta1) / (1 - beta1^t) / eps.

        Args:
            gradient: g, clipped, as the step consumed it.
            exp_avg: m after the step.
            exp_avg_sq: v after the step.
            num_steps: t, this step included; >= 1.
        """
        beta1, beta2 = self.betas
        correction1, correction2 = 1.0 - beta1**num_steps, 1.0 - beta2**num_steps
        root = (exp_avg_sq / correction2).sqrt()
        numerator = torch.full_like(root, (1.0 - beta1) * self.eps)
        if num_steps > 1:  # at t = 1 the rest is exactly 0
            rest = (1.0 - beta1) * exp_avg_sq - (1.0 - beta2) * exp_avg * gradient
            numerator += torch.where(root > 0.0, rest / (correction2 * root), 0.0)
        return numerator / (root + self.eps).square() * (-self.lr / correction1)


def clip_factor(norm: float, max_norm: float) -> float:
    """Return what clipping multiplies a gradient of this norm by."""
    return min(1.0, max_norm / (norm + CLIP_EPS))


def clip_differential(
    vector: torch.Tensor, fused: torch.Tensor, norm: float, product: float, max_norm: float
) -> torch.Tensor:
    """Return C `vector`, the change of the clipped gradient with the fused one along `vector`.

    Args:
        vector: A shard of any direction.
        fused: The same shard of h, not clipped.
        norm: |h| over all shards.
        product: < h, vector > over all shards.
        max_norm: Where clipping begins.
    """
    factor = clip_factor(norm, max_norm)
    if factor == 1.0:
        return vector
    return factor * (vector - fused * (product / (norm * (norm + CLIP_EPS))))


def response(
    slope: torch.Tensor | float,
    component: torch.Tensor,
    fused: torch.Tensor,
    norm: float,
    product: float,
    max_norm: float,
) -> torch.Tensor:
    """Return u_c = D C h_c, a shard of d theta_{k+1} / d a_c.

    Args:
        slope: D's shard; for plain SGD minus the rate.
        component: h_c's shard.
        fused: h's shard, not clipped.
        norm: |h| over all shards.
        product: < h, h_c > over all shards.
        max_norm: Where clipping begins.
    """
    return slope * clip_differential(component, fused, norm, product, max_norm)


def softmax(logits: Mapping[str, float]) -> dict[str, float]:
    """Return the softmax of named logits, in their order."""
    largest = max(logits.values())
    exponentials = {name: math.exp(value - largest) for name, value in logits.items()}
    total = math.fsum(exponentials.values())
    return {name: value / total for name, value in exponentials.items()}


def source_weights(logits: Mapping[str, float], floor: float) -> dict[str, float]:
    """Return v, which sums to 1.

    Args:
        logits: phi by source; at least one.
        floor: f, the smallest weight.

    Raises:
        ValueError: S f > 1.
    """
    free = _free_share(len(logits), floor)
    return {source: floor + free * p for source, p in softmax(logits).items()}


def mix_derivative(products: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return dG/dlambda.

    Args:
        products: z_c by component; a source that is missing had no demonstration in the step.
        weights: v by source; {"": 1.0} where sources are not told apart.
    """
    return products[RL] - _mean_over_present(products, weights)


def source_derivatives(
    products: Mapping[str, float], logits: Mapping[str, float], mix: float, floor: float
) -> dict[str, float]:
    """Return dG/dphi by source; the values sum to 0.

    Args:
        products: z_c by component; a source that is missing had no demonstration in the step.
        logits: phi by source, as they were at the step.
        mix: lambda of the step.
        floor: f.

    Raises:
        ValueError: S f > 1.
    """
    v, p = source_weights(logits, floor), softmax(logits)
    present = math.fsum(v[source] for source in p if source in products)
    scale = (1.0 - mix) * _free_share(len(logits), floor) / present
    mean = _mean_over_present(products, v)
    x = {source: products[source] - mean if source in products else 0.0 for source in p}
    pull = math.fsum(p[source] * x[source] for source in p)
    return {source: scale * p[source] * (x[source] - pull) for source in p}


def example_weights(logits: Mapping[str, float]) -> dict[str, float]:
    """Return c, with mean 1, of the examples of one step; `logits` is psi by example."""
    return {name: len(logits) * p for name, p in softmax(logits).items()}


def example_derivatives(
    slopes: Mapping[str, float], logits: Mapping[str, float]
) -> dict[str, float]:
    """Return dG/dpsi by example; the values sum to 0.

    Args:
        slopes: y_e of every example of the step.
        logits: psi of the same examples, as they were at the step.
    """
    c = example_weights(logits)
    mean = math.fsum(c[name] * slopes[name] for name in c) / len(c)
    return {name: c[name] * (slopes[name] - mean) for name in c}


def _mean_over_present(products: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return zbar: the mean of z over the sources present in the step, by their share of it."""
    present = {source: v for source, v in weights.items() if source in products}
    total = math.fsum(present.values())
    # The share first: a source by itself has exactly 1, and pulls exactly 0 away from itself.
    return math.fsum(v / total * products[source] for source, v in present.items())


def _free_share(num_sources: int, floor: float) -> float:
    """Return 1 - S f: what the floor leaves to be shared."""
    free = 1.0 - num_sources * floor
    if free < 0.0:
        raise ValueError(f"{num_sources} sources can't each weigh at least {floor}")
    return free
