"""docs/algorithm.md section 5: look-ahead derivatives against differences of the actual gain.

J_RL is enumerated, the step is torch's own, and every difference is taken by stepping again from
the same optimiser state with other weights.
"""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import pytest
import torch

from coop_rl.algorithm import lookahead
from coop_rl.algorithm.lookahead import AdamWRule

VOCABULARY, LENGTH = 3, 3
LR, BETAS, EPS = 0.05, (0.9, 0.95), 1e-8
NO_CLIP, TIGHT = 1e6, 0.005
MIX, FLOOR = 0.4, 0.05
DEMONSTRATIONS = {"books": [0, 7], "web": [25, 13, 4], "chat": [18, 19]}
"""source -> sequences."""
EXAMPLES = [(source, e) for source, sequences in DEMONSTRATIONS.items() for e in sequences]
LOGITS = {2: {"books": 0.3, "web": -0.4}, 3: {"books": 0.3, "web": -0.4, "chat": 0.1}}
"""Number of sources -> phi."""
SEQUENCES_NL = torch.tensor(list(itertools.product(range(VOCABULARY), repeat=LENGTH)))
SETTINGS = [
    pytest.param(kind, num_steps, max_norm, id=f"{kind}-t{num_steps}-{name}")
    for kind in ("sgd", "adamw", "adamw_decayed")
    for num_steps in (1, 10, 100)
    for max_norm, name in ((NO_CLIP, "free"), (TIGHT, "clipped"))
]


def sequence_log_probs(theta: torch.Tensor) -> torch.Tensor:
    """Autoregressive policy, one table for every step; theta's last row is never used."""
    table = theta.log_softmax(-1)
    first = torch.full((len(SEQUENCES_NL), 1), VOCABULARY)
    last = torch.cat([first, SEQUENCES_NL[:, :-1]], dim=1)
    return table[last, SEQUENCES_NL].sum(1)


def expected_reward(theta: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(9)
    reward_N = torch.rand(len(SEQUENCES_NL), generator=generator, dtype=torch.float64)
    return (sequence_log_probs(theta).exp() * reward_N).sum()


def gradient_of(function: Callable[[torch.Tensor], torch.Tensor], theta: torch.Tensor):
    theta = theta.detach().requires_grad_()
    return torch.autograd.grad(function(theta), theta)[0]


def example_gradient(theta: torch.Tensor, sequence: int) -> torch.Tensor:
    return gradient_of(lambda th: -sequence_log_probs(th)[sequence] / LENGTH, theta)


def components(theta: torch.Tensor, sources: list[str]) -> dict[str, torch.Tensor]:
    """h_c: gradients of the losses."""
    h = {lookahead.RL: gradient_of(lambda th: -expected_reward(th), theta)}
    for source in sources:
        examples = DEMONSTRATIONS[source]
        h[source] = sum(example_gradient(theta, e) for e in examples) / len(examples)
    return h


def fuse(h: dict[str, torch.Tensor], mix: float, logits: dict[str, float]) -> torch.Tensor:
    """The step over the sources that `h` has; SFT weighs 1 - mix whichever they are."""
    v = lookahead.source_weights(logits, FLOOR)
    present = [s for s in logits if s in h]
    sft = sum(v[s] * h[s] for s in present) / sum(v[s] for s in present)
    return mix * h[lookahead.RL] + (1.0 - mix) * sft


@dataclass
class Trainer:
    """theta and torch's optimiser, about to take step `num_steps`."""

    theta: torch.nn.Parameter
    optimizer: torch.optim.Optimizer
    max_norm: float

    def step(self, fused: torch.Tensor) -> None:
        self.theta.grad = fused.clone()
        torch.nn.utils.clip_grad_norm_([self.theta], self.max_norm)
        self.optimizer.step()

    def after(self, fused: torch.Tensor) -> "Trainer":
        """Step a copy."""
        other = copy.deepcopy(self)
        other.step(fused)
        return other


@cache
def make_trainer(kind: str, num_steps: int, max_norm: float) -> Trainer:
    generator = torch.Generator().manual_seed(0)

    def noise() -> torch.Tensor:
        return torch.randn(VOCABULARY + 2, VOCABULARY, generator=generator, dtype=torch.float64)

    theta = torch.nn.Parameter(noise())
    decay = 0.1 if kind == "adamw_decayed" else 0.0
    optimizer: torch.optim.Optimizer = (
        torch.optim.SGD([theta], lr=LR)
        if kind == "sgd"
        else torch.optim.AdamW([theta], lr=LR, betas=BETAS, eps=EPS, weight_decay=decay)
    )
    trainer = Trainer(theta, optimizer, max_norm)
    logits = dict.fromkeys(DEMONSTRATIONS, 0.0)
    for _ in range(num_steps - 1):
        fused = fuse(components(theta, list(logits)), MIX, logits)
        disturbance = noise()
        disturbance[-1] = 0.0
        trainer.step(fused + 0.3 * disturbance * (fused.norm() / disturbance.norm()))
    return trainer


@dataclass
class Step:
    """The step a trainer is about to take."""

    h: dict[str, torch.Tensor]
    fused: torch.Tensor
    after: Trainer
    max_norm: float

    @property
    def clipped(self) -> torch.Tensor:
        return self.fused * lookahead.clip_factor(float(self.fused.norm()), self.max_norm)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor, int]:
        state = self.after.optimizer.state[self.after.theta]
        return state["exp_avg"], state["exp_avg_sq"], int(state["step"])

    def slope(self) -> torch.Tensor | float:
        if isinstance(self.after.optimizer, torch.optim.SGD):
            return -LR
        return AdamWRule(LR, BETAS, EPS).slope(self.clipped, *self.moments())

    def responses(self, slope: torch.Tensor | float) -> dict[str, torch.Tensor]:
        """u_c."""
        norm = float(self.fused.norm())

        def respond(part: torch.Tensor) -> torch.Tensor:
            product = dot(self.fused, part)
            return lookahead.response(slope, part, self.fused, norm, product, self.max_norm)

        return {name: respond(part) for name, part in self.h.items()}

    def ahead(self) -> torch.Tensor:
        """Gradient of J_RL after the step."""
        return gradient_of(expected_reward, self.after.theta)

    def products(self, responses: dict[str, torch.Tensor]) -> dict[str, float]:
        """z_c."""
        ahead = self.ahead()
        return {name: dot(ahead, u) for name, u in responses.items()}


def one_step(trainer: Trainer, h: dict[str, torch.Tensor], logits: dict[str, float]) -> Step:
    fused = fuse(h, MIX, logits)
    return Step(h, fused, trainer.after(fused), trainer.max_norm)


def dot(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first * second).sum())


def difference(function: Callable[[float], float], width: float = 1e-3) -> float:
    """Central difference of fourth order."""
    near = function(width) - function(-width)
    far = function(2 * width) - function(-2 * width)
    return (8.0 * near - far) / (12.0 * width)


def reward_after(trainer: Trainer, fused: torch.Tensor) -> float:
    return expected_reward(trainer.after(fused).theta).item()


def actual(trainer: Trainer, h: dict[str, torch.Tensor], logits: dict[str, float]):
    """dG/dlambda and dG/dphi by stepping again."""

    def gain(mix: float, name: str = "", shift: float = 0.0) -> float:
        shifted = {s: phi + shift * (s == name) for s, phi in logits.items()}
        return reward_after(trainer, fuse(h, mix, shifted))

    mix = difference(lambda d: gain(MIX + d))
    return {"mix": mix} | {s: difference(partial(gain, MIX, s)) for s in logits}


def predicted(products: dict[str, float], logits: dict[str, float]) -> dict[str, float]:
    mix = lookahead.mix_derivative(products, lookahead.source_weights(logits, FLOOR))
    return {"mix": mix} | lookahead.source_derivatives(products, logits, MIX, FLOOR)


def relative_error(got: dict[str, float], want: dict[str, float]) -> float:
    """Largest error: of lambda's derivative against itself, of the sources' against the largest."""
    scale = max(abs(value) for name, value in want.items() if name != "mix")
    errors = [abs(got[n] - w) / (abs(w) if n == "mix" else scale) for n, w in want.items()]
    return max(errors)


@pytest.mark.parametrize("num_sources", [2, 3])
@pytest.mark.parametrize(("kind", "num_steps", "max_norm"), SETTINGS)
def test_derivatives_are_those_of_the_actual_gain(kind, num_steps, max_norm, num_sources) -> None:
    trainer, logits = make_trainer(kind, num_steps, max_norm), LOGITS[num_sources]
    step = one_step(trainer, components(trainer.theta, list(logits)), logits)
    assert (step.fused.norm() > 1.5 * max_norm) == (max_norm == TIGHT)
    got = predicted(step.products(step.responses(step.slope())), logits)
    assert relative_error(got, actual(trainer, step.h, logits)) < 1e-4


@pytest.mark.parametrize("max_norm", [NO_CLIP, TIGHT])
@pytest.mark.parametrize("present", [["books"], ["web", "chat"], ["books", "chat"]])
def test_derivatives_are_those_of_a_step_without_some_sources(present, max_norm) -> None:
    """Those left share the whole of SFT's weight; through the floor absent sources count too."""
    trainer, logits = make_trainer("adamw", 10, max_norm), LOGITS[3]
    h = components(trainer.theta, present)
    step = one_step(trainer, h, logits)
    products = step.products(step.responses(step.slope()))
    assert products.keys() == {lookahead.RL, *present}
    got, want = predicted(products, logits), actual(trainer, h, logits)
    assert got["mix"] == pytest.approx(want["mix"], rel=1e-4)
    largest = max(abs(products[s]) for s in present)
    assert all(got[s] == pytest.approx(want[s], abs=1e-4 * largest) for s in logits)
    assert (got["books"] == 0.0) == (len(present) == 1)


def is_off_by_two(got: float, want: float) -> bool:
    return not 0.5 < got / want < 2.0


@pytest.mark.parametrize("max_norm", [NO_CLIP, TIGHT])
@pytest.mark.parametrize(
    ("left_out", "num_steps"),
    [("all", 1), ("all", 10), ("all", 100), ("v", 1), ("v", 2), ("bias", 10), ("bias", 100)],
)
def test_no_part_of_adams_slope_can_be_left_out(left_out, num_steps, max_norm) -> None:
    """`all`: -rate h_c; `v`: v held fixed; `bias`: no (1 - beta1) / (1 - beta1^t)."""
    trainer, logits = make_trainer("adamw", num_steps, max_norm), LOGITS[3]
    step = one_step(trainer, components(trainer.theta, list(logits)), logits)
    _, v, _ = step.moments()
    bias = (1.0 - BETAS[0]) / (1.0 - BETAS[0] ** num_steps)
    root = (v / (1.0 - BETAS[1] ** num_steps)).sqrt()
    wrong = {"v": -LR * bias / (root + EPS), "bias": step.slope() / bias}
    responses = (
        {name: -LR * part for name, part in step.h.items()}
        if left_out == "all"
        else step.responses(wrong[left_out])
    )
    got = predicted(step.products(responses), logits)
    want = actual(trainer, step.h, logits)
    assert all(is_off_by_two(got[name], want[name]) for name in want)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_clipping_cannot_be_left_out(kind) -> None:
    trainer, logits = make_trainer(kind, 10, TIGHT), LOGITS[3]
    step = one_step(trainer, components(trainer.theta, list(logits)), logits)
    responses = {name: step.slope() * part for name, part in step.h.items()}
    got = predicted(step.products(responses), logits)
    want = actual(trainer, step.h, logits)
    assert all(is_off_by_two(got[name], want[name]) for name in want)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_clipping_takes_away_the_gradients_own_direction(kind) -> None:
    """All weights together only scale h, which does nothing; the factor alone misses that."""
    trainer, logits = make_trainer(kind, 10, TIGHT), LOGITS[3]
    step = one_step(trainer, components(trainer.theta, list(logits)), logits)
    weights = {s: (1.0 - MIX) * v for s, v in lookahead.source_weights(logits, FLOOR).items()}
    weights[lookahead.RL] = MIX

    def change(responses: dict[str, torch.Tensor]) -> float:
        parts = [a * responses[name] for name, a in weights.items()]
        return float(torch.stack(parts).sum(0).norm())

    factor = lookahead.clip_factor(float(step.fused.norm()), TIGHT)
    unprojected = {name: factor * step.slope() * part for name, part in step.h.items()}
    right = step.responses(step.slope())
    assert change(right) < 1e-4 * change(unprojected)
    want = trainer.after(1.01 * step.fused).theta - trainer.after(0.99 * step.fused).theta
    assert change(right) == pytest.approx(want.norm().item() / 0.02, rel=1e-2)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("max_norm", [NO_CLIP, TIGHT])
def test_shards_give_what_the_whole_gives(kind, max_norm) -> None:
    trainer, logits = make_trainer(kind, 10, max_norm), LOGITS[3]
    step = one_step(trainer, components(trainer.theta, list(logits)), logits)
    whole = step.products(step.responses(step.slope()))

    def cut(tensor: torch.Tensor) -> list[torch.Tensor]:
        return list(tensor.detach().reshape(-1).split([4, tensor.numel() - 4]))

    def summed(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
        return sum(dot(a, b) for a, b in zip(first, second, strict=True))

    fused, ahead = cut(step.fused), cut(step.ahead())
    norm = math.sqrt(summed(fused, fused))
    factor = lookahead.clip_factor(norm, max_norm)
    slopes: list[torch.Tensor | float] = [-LR, -LR]
    if kind == "adamw":
        m, v, num_steps = step.moments()
        rule = AdamWRule(LR, BETAS, EPS)
        shards = zip(fused, cut(m), cut(v), strict=True)
        slopes = [rule.slope(factor * h, m, v, num_steps) for h, m, v in shards]
    for name, part in step.h.items():
        pieces = cut(part)
        product = summed(fused, pieces)
        u = [
            lookahead.response(slope, piece, h, norm, product, max_norm)
            for slope, piece, h in zip(slopes, pieces, fused, strict=True)
        ]
        assert summed(ahead, u) == pytest.approx(whole[name], rel=1e-9)


@pytest.mark.parametrize("num_steps", [1, 10, 100])
@pytest.mark.parametrize("max_norm", [NO_CLIP, TIGHT])
def test_example_derivatives_are_those_of_the_actual_gain(num_steps, max_norm) -> None:
    trainer, logits = make_trainer("adamw", num_steps, max_norm), LOGITS[3]
    v = lookahead.source_weights(logits, FLOOR)
    share = {str(e): (1.0 - MIX) * v[s] / len(DEMONSTRATIONS[s]) for s, e in EXAMPLES}
    psi = {name: 0.2 * math.sin(3.0 * index) for index, name in enumerate(share)}
    rl = components(trainer.theta, [])[lookahead.RL]
    h = {name: example_gradient(trainer.theta, int(name)) for name in share}

    def fused_at(psi: dict[str, float]) -> torch.Tensor:
        c = lookahead.example_weights(psi)
        return MIX * rl + sum(share[name] * c[name] * h[name] for name in share)

    def gain(name: str, shift: float) -> float:
        return reward_after(trainer, fused_at({**psi, name: psi[name] + shift}))

    fused = fused_at(psi)
    step = Step({}, fused, trainer.after(fused), max_norm)
    weighted = step.slope() * step.ahead()
    q = lookahead.clip_differential(
        weighted, fused, float(fused.norm()), dot(fused, weighted), max_norm
    )
    along = 1e-4 / float(q.norm())

    def slope_along(name: str) -> float:
        """Two forward passes, as a learner does it."""
        ends = (trainer.theta + along * q, trainer.theta - along * q)
        up, down = (-sequence_log_probs(th)[int(name)].item() / LENGTH for th in ends)
        return share[name] * (up - down) / (2.0 * along)

    got = lookahead.example_derivatives({name: slope_along(name) for name in share}, psi)
    want = {name: difference(partial(gain, name)) for name in share}
    largest = max(abs(value) for value in want.values())
    assert largest > 0.0
    assert all(got[name] == pytest.approx(want[name], abs=1e-3 * largest) for name in want)


def test_slope_in_fp32_keeps_what_nearly_cancels() -> None:
    """At t = 1 the two terms of D differ by eps / |g|, far below fp32's resolution."""
    generator = torch.Generator().manual_seed(3)
    g = torch.logspace(-9, 0, 200, dtype=torch.float64)
    g = g * torch.randn(200, generator=generator, dtype=torch.float64).sign()
    rule = AdamWRule(LR, BETAS, EPS)
    m, v = (1.0 - BETAS[0]) * g.float(), (1.0 - BETAS[1]) * g.float().square()
    got = rule.slope(g.float(), m, v, 1).double()
    want = -LR * EPS / (g.abs() + EPS).square()
    assert float((got / want - 1.0).abs().max()) < 1e-4


def test_slope_where_no_gradient_was_seen_is_its_limit() -> None:
    zero = torch.zeros(2)
    slope = AdamWRule(LR, BETAS, EPS).slope(zero, zero, zero, 10)
    limit = -LR * (1.0 - BETAS[0]) / (1.0 - BETAS[0] ** 10) / EPS
    assert slope.tolist() == pytest.approx([limit, limit], rel=1e-6)
    tiny = torch.full((2,), 1e-25)  # its square is 0 in fp32
    slope = AdamWRule(LR, BETAS, EPS).slope(tiny, 0.1 * tiny, tiny.square(), 10)
    assert slope.tolist() == pytest.approx([limit, limit], rel=1e-6)
    trainer, logits = make_trainer("adamw", 10, TIGHT), LOGITS[2]
    step = one_step(trainer, components(trainer.theta, list(logits)), logits)
    for u in step.responses(step.slope()).values():
        assert bool((u[-1] == 0.0).all())
        assert bool(torch.isfinite(u).all())
