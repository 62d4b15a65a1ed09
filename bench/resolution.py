"""How much of w's bracket is left in bf16: `python bench/resolution.py` (two minutes on one core).

Two branches of the demo's model take five steps apart in fp32, one by RL alone and one by RL and
SFT, on rows of the demo's demonstrations with random advantages (what is measured is rounding, not
learning). Then the bracket at the model cast to bf16, as the plain difference and over a longer way
on both sides of theta (`learner.resolution`), against that in fp32: cosine, and ratio of the norms.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

import coop_rl.learner.resolution as resolution
from coop_rl.algorithm.estimators import build_estimator
from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.config import load_config
from coop_rl.config.estimators import ReweightedRl
from coop_rl.data.rendering import load_tokenizer
from coop_rl.learner.engine import EngineSettings
from coop_rl.learner.passes import LossSettings, Passes
from coop_rl.learner.statistics import StepSums
from coop_rl.models import Adapter, PolicyModel, adapter_shapes, load_causal_lm
from coop_rl.types import Demonstration, Objective, PackedBatch, TokenSample
from tests.support.local_engine import LocalEngine

CONFIG = Path("configs/local/demo.yaml")
ROWS = Path("configs/local/demo/demonstrations.jsonl")
RATES = (5e-7, 1e-5)
SPACINGS = (0.1, 0.25, 0.5, 1.0)
NUM_STEPS, PER_STEP = 5, 64
Weights = Mapping[str, torch.Tensor]


class Bench:
    """The demo's model at any weights, and batches for it."""

    def __init__(self) -> None:
        self.config = load_config(CONFIG, [])
        tokenizer = load_tokenizer(self.config.model.path)
        self.rows = [
            (
                tuple(tokenizer(row["prompt"])["input_ids"]),
                (*tokenizer(f"{row['reasoning']}#{row['answer']}")["input_ids"],),
            )
            for row in map(json.loads, ROWS.read_text().splitlines())
        ]

    def engine(self, weights: Weights, dtype: torch.dtype = torch.float32) -> "Scored":
        """Build an engine with a w that is not zero."""
        model = load_causal_lm(self.config.model.path, torch.float32)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights.get(name, parameter))
        return Scored(self, model.to(dtype))

    def batch(self, step: int, engine: "Scored") -> PackedBatch:
        """Pack rows of the demonstrations as rollouts and as demonstrations."""
        generator = torch.Generator().manual_seed(step)
        chosen = torch.randint(len(self.rows), (2 * PER_STEP,), generator=generator).tolist()
        advantages = torch.randn(PER_STEP, generator=generator).tolist()
        samples = [
            TokenSample(
                prompt_ids=self.rows[i][0],
                response_ids=self.rows[i][1],
                behaviour_log_probs=engine.log_probs(*self.rows[i]),
                advantage=a,
            )
            for i, a in zip(chosen, advantages, strict=False)
        ]
        shown = [Demonstration(str(i), *self.rows[i]) for i in chosen[PER_STEP:]]
        return pack(samples, shown, PackShape(1, 16384))


class Scored:
    """A model with its adapter, and passes through it."""

    def __init__(self, bench: Bench, model: Any) -> None:
        config, self._model = bench.config, model
        shapes = adapter_shapes(model, config.adapter.targets)
        self.adapter = Adapter(shapes, rank=16, alpha=16, seed=0)
        noise = torch.randn(self.adapter.numel(), generator=torch.Generator().manual_seed(1))
        self.adapter.load_flat(0.01 * noise)
        self.adapter.attach(model)
        self.local = LocalEngine(PolicyModel(model), EngineSettings.from_config(config))
        estimator, rl = ReweightedRl(), config.method.rl_settings
        loss = LossSettings(build_estimator(estimator, 64), rl, 64)
        self.passes = Passes(loss, self.local, None)

    def module(self) -> Any:
        """Return the decoder."""
        return self._model

    @torch.no_grad()
    def log_probs(self, prompt: tuple[int, ...], response: tuple[int, ...]) -> tuple[float, ...]:
        """Return log pi of a response."""
        ids = torch.tensor([prompt + response])
        logits = self._model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        return tuple(logits.gather(1, torch.tensor([response]).T)[:, 0].tolist())

    def gradient_of_w(self, batch: PackedBatch) -> torch.Tensor:
        """Return h_w^RL, flat, fp64."""
        self.passes.rollouts(batch, None, is_bracket=True)
        return torch.cat([g.reshape(-1).double() for g in self.adapter.gradients().values()])


def apart(bench: Bench, rate: float) -> tuple[Weights, Weights, PackedBatch]:
    """Return theta, theta-hat, and a batch to measure their bracket on."""
    branches = [bench.engine({}) for _ in range(2)]
    for step in range(NUM_STEPS):
        batch = bench.batch(step, branches[0])
        for index, branch in enumerate(branches):
            branch.passes.rollouts(batch, None, is_bracket=False)
            if index == 0:
                branch.local.scale_gradient(0.5)
                sums = StepSums(batch.num_samples, branch.local.device)
                for source in batch.sft:
                    branch.passes.demonstrations(source, Objective(0.5, 0.5), sums)
            branch.local.step(rate)
            branch.adapter.zero_grad()
    theta, theta_hat = (
        {n: p.detach().clone() for n, p in branch.module().named_parameters()}
        for branch in branches
    )
    return theta, theta_hat, bench.batch(NUM_STEPS, branches[0])


class Alone:
    """One rank."""

    device = torch.device("cpu")

    def all_reduce_sum(self, tensor: torch.Tensor) -> None:
        """Nobody else is there."""


def compare(bench: Bench, rate: float) -> None:
    """Print one rate's table."""
    theta, theta_hat, batch = apart(bench, rate)

    def gradient(factor: float, dtype: torch.dtype) -> torch.Tensor:
        moved = {n: theta[n] + factor * (theta_hat[n] - theta[n]) for n in theta}
        return bench.engine(moved, dtype).gradient_of_w(batch)

    true = gradient(0.0, torch.float32) - gradient(1.0, torch.float32)
    plain = gradient(0.0, torch.bfloat16) - gradient(1.0, torch.bfloat16)
    pairs = [(t.bfloat16(), theta_hat[n].bfloat16()) for n, t in theta.items()]
    equal = sum(int((a == b).sum()) for a, b in pairs) / sum(t.numel() for t in theta.values())

    def show(name: str, bracket: torch.Tensor) -> None:
        cosine = float(cosine_similarity(bracket, true, dim=0))
        print(f"| {name} | {cosine:+.3f} | {float(bracket.norm() / true.norm()):.2f} |")

    print(f"\nrate {rate:g}: {equal:.1%} of the bf16 weights are equal\n")
    print("| bracket in bf16 | cosine with fp32 | ratio of norms |\n|---|---|---|")
    show("plain", plain)
    for spacings in SPACINGS:
        resolution.SPACINGS = spacings
        found = resolution.resolve(list(theta.values()), list(theta_hat.values()), Alone())
        c = found.amplification
        sides = [gradient(sign * c, torch.bfloat16) for sign in (-1.0, 1.0)]
        name = f"{spacings:g} spacings: c = {c:.1f}, {found.differing:.0%} of the weights differ"
        show(name, (sides[0] - sides[1]) / (2 * c))


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = Bench()
    for learning_rate in RATES:
        compare(found, learning_rate)
