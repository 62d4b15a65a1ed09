"""Models, batches and learners that local tests and DeepSpeed worker processes build alike."""

from collections import deque
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from coop_rl.algorithm.estimators import build_estimator
from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.config.estimators import ReweightedRl, RlSettings
from coop_rl.config.roles import LearnerSection
from coop_rl.learner.engine import MASTER, EngineSettings, TrainingEngine
from coop_rl.learner.learner import Learner
from coop_rl.learner.passes import LossSettings
from coop_rl.learner.settings import LearnerSettings
from coop_rl.models import Adapter, PolicyModel, adapter_shapes
from coop_rl.models.loading import prepare_for_training
from coop_rl.types import (
    Branch,
    BranchBatch,
    Demonstration,
    Objective,
    PackedBatch,
    StepResult,
    TokenSample,
)
from tests.models.tiny import TARGETS, random_rows, tiny_model, to_grid
from tests.support.local_engine import LocalEngine

LOSS = LossSettings(
    estimator=build_estimator(ReweightedRl(), 12),
    rl=RlSettings(ratio_cap=5.0, mismatch_cap=2.0),
    max_tokens=12,
)
SECTION = LearnerSection(lr=1e-2, warmup_steps=4, max_grad_norm=0.5, weight_decay=0.01)
LEARNER = LearnerSettings(SECTION, LOSS)
EXACT_LEARNER = replace(LEARNER, section=SECTION.model_copy(update={"lr": 1e-4}))
EXACT_ENGINE = EngineSettings(
    LearnerSection(betas=(0.0, 0.95), max_grad_norm=1e9), persistence_threshold_values=0
)
"""beta_1 = 0 and no clipping: AdamW's first moment after a step is the step's gradient itself."""
ENGINE = EngineSettings(SECTION, persistence_threshold_values=0)
MIXED = Objective(0.3, 0.7)
RL_ONLY = Objective(1.0, 0.0)
NUM_SAMPLES, NUM_DEMONSTRATIONS = 7, 5


def build_policy(
    *,
    is_tied: bool = True,
    is_checkpointed: bool = False,
    chunk: int = 6,
    alpha: float = 4.0,
    has_entropy_gradient: bool = False,
    dtype: torch.dtype = torch.float32,
    model: PreTrainedModel | None = None,
) -> tuple[PolicyModel, Adapter]:
    """A tiny policy with a non-zero adapter attached; of `model`, if there is one."""
    # Weights of the usual size; far larger ones amplify rounding, not errors of ours.
    model = model or tiny_model(is_tied=is_tied, scale=0.05).to(dtype)
    prepare_for_training(model, activation_checkpointing=is_checkpointed)
    adapter = Adapter(adapter_shapes(model, TARGETS), rank=2, alpha=alpha, seed=11, dtype=dtype)
    flat = torch.randn(adapter.numel(), generator=torch.Generator().manual_seed(12)) * 0.1
    adapter.load_flat(flat)
    adapter.attach(model)
    policy = PolicyModel(model, logits_chunk=chunk, has_entropy_gradient=has_entropy_gradient)
    return policy, adapter


def build_batch(step: int, num_ranks: int, micro_batch_tokens: int = 30) -> PackedBatch:
    """Rollouts (log-probs near the model's) and demonstrations; odd counts, so anchors occur."""
    shape = PackShape(num_ranks, micro_batch_tokens)
    return pack(build_samples(step), build_demonstrations(step), shape)


@cache
def build_samples(step: int, num_samples: int = NUM_SAMPLES) -> tuple[TokenSample, ...]:
    """Rollouts whose log-probs are near the model's."""
    rows = random_rows(num_samples, seed=100 + step)
    with torch.no_grad():
        policy, _ = build_policy()
        log_prob_T = policy(*to_grid(rows)).log_prob_T
    generator = torch.Generator().manual_seed(200 + step)
    samples = []
    for prompt, response in rows:
        behaviour, log_prob_T = log_prob_T[: len(response)], log_prob_T[len(response) :]
        noise = torch.randn(len(response), generator=generator) * 0.05
        advantage = float(torch.randn(1, generator=generator))
        samples.append(
            TokenSample(prompt, response, tuple((behaviour + noise).tolist()), advantage)
        )
    return tuple(samples)


def build_demonstrations(
    step: int, sources: tuple[str, ...] = ("demonstrations",)
) -> list[Demonstration]:
    """Demonstrations of the sources in turn."""
    shown = random_rows(NUM_DEMONSTRATIONS, seed=300 + step)
    return [
        Demonstration(str(i), p, r, sources[i % len(sources)]) for i, (p, r) in enumerate(shown)
    ]


def one_step(batch: PackedBatch) -> BranchBatch:
    """A meta-step of one optimiser step."""
    return BranchBatch((batch,))


def local_engine(policy: nn.Module, settings: EngineSettings = ENGINE) -> LocalEngine:
    return LocalEngine(policy, settings)


def local_learner(branch: Branch = "joint", **policy_options: Any) -> Learner:
    policy, adapter = build_policy(**policy_options)
    return Learner(LEARNER, branch, local_engine(policy), adapter)


@cache
def fp64_gradients(**policy_options: Any) -> dict[str, dict[str, torch.Tensor]]:
    """w's gradients of the first of `record_steps`, without fp32's rounding."""
    policy, adapter = build_policy(dtype=torch.float64, **policy_options)
    step = record_steps(Learner(LEARNER, "joint", local_engine(policy), adapter), 1)["steps"][0]
    return {part: step[part] for part in ("w_rl", "w_sft")}


def exact_local_learner(branch: Branch) -> Learner:
    """The reference for `record_exact_steps`."""
    policy, adapter = build_policy()
    return Learner(EXACT_LEARNER, branch, local_engine(policy, EXACT_ENGINE), adapter)


def parameters_of(engine: TrainingEngine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.full_parameters()}


def state_of(engine: TrainingEngine) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in engine.export_state()}


def state_at_resync(
    joint: TrainingEngine, shadow: TrainingEngine, *, copies_moments: bool
) -> dict[str, torch.Tensor]:
    """theta, with the AdamW state that a re-synced shadow goes on with."""
    theta, own = state_of(joint), state_of(shadow)
    return {
        key: tensor if copies_moments or key.startswith(MASTER) else own[key]
        for key, tensor in theta.items()
    }


def moments_of(engine: TrainingEngine) -> dict[str, torch.Tensor]:
    """theta's last gradient, under the settings EXACT_ENGINE."""
    state = engine.export_state()
    return {key: tensor.clone() for key, tensor in state if key.startswith("exp_avg/")}


def record_exact_steps(learner: Learner) -> dict[str, Any]:
    """Five steps of a branch, with theta's gradients."""
    objective = MIXED if learner.branch == "joint" else RL_ONLY
    return record_steps(learner, 5, objective, has_theta_gradients=True)


def record_steps(
    learner: Learner,
    num_steps: int,
    objective: Objective = MIXED,
    *,
    has_theta_gradients: bool = False,
) -> dict[str, Any]:
    """Step and return everything that must not depend on the engine."""
    steps = []
    for step in range(num_steps):
        batch = one_step(build_batch(step, learner.engine.world_size))
        result, gradients = learner.step(step, batch, objective)
        assert gradients is not None
        steps.append(
            {
                **figures_of(result),
                "w_rl": gradients.rl,
                "w_sft": gradients.sft,
                "theta": moments_of(learner.engine) if has_theta_gradients else {},
            }
        )
    return {"steps": steps, "parameters": parameters_of(learner.engine)}


def figures_of(result: StepResult) -> dict[str, Any]:
    """Every figure of a step by its own name, whichever part of the report it is in."""
    parts = (
        result.means,
        result.samples,
        result.parts,
        result.updates,
        result.work,
        result.lookahead,
    )
    return {name: value for part in parts for name, value in asdict(part).items()}


def poison(batch: PackedBatch, rank: int, value: float = float("nan")) -> PackedBatch:
    """Give one rank's first rollout micro-batch a non-finite advantage."""
    ranks = list(batch.rl)
    first = ranks[rank][0]
    bad = replace(first, advantage_B=torch.full_like(first.advantage_B, value))
    ranks[rank] = (bad, *ranks[rank][1:])
    return replace(batch, rl=tuple(ranks))


@dataclass
class Pipe:
    """Two ends of a broadcast group in one process: the source writes first, the others read."""

    queue: deque[torch.Tensor] = field(default_factory=deque)

    def sender(self) -> "PipeEnd":
        return PipeEnd(self, is_source=True)

    def receiver(self) -> "PipeEnd":
        return PipeEnd(self, is_source=False)


@dataclass
class PipeEnd:
    """One member."""

    device = torch.device("cpu")
    pipe: Pipe
    is_source: bool

    def broadcast(self, tensor: torch.Tensor, src: int = 0) -> None:
        if self.is_source:
            self.pipe.queue.append(tensor.clone())
        else:
            tensor.copy_(self.pipe.queue.popleft())
