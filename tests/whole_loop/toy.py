"""A toy that whole runs take seconds on: a small transformer, pairs of tokens, and their answers.

A prompt is a pair of tokens, a response at most `rollout.max_tokens` more. It is right if its first
token is one of the prompt's right ones, so the expected reward of a policy is exact:

    J = mean_p sum_{a right for p} pi(a | p)
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from coop_rl.config import RunConfig
from coop_rl.models import Adapter, PolicyModel, adapter_shapes
from coop_rl.models.loading import prepare_for_training
from coop_rl.types import (
    Demonstration,
    PolicyVersion,
    Prompt,
    Reward,
    Rollout,
    SamplingSettings,
    ScoredGroup,
)

VOCABULARY = 12
END = 0
SECOND = 3
"""Second token of every prompt."""


@dataclass(frozen=True)
class Task:
    """Prompts, what is right, and what demonstrations show."""

    prompts: tuple[Prompt, ...]
    right: Mapping[str, frozenset[int]]
    """Right first tokens by prompt id."""
    demonstrations: tuple[Demonstration, ...]
    validation: tuple[Demonstration, ...] = ()

    def reward(self, prompt: Prompt, response_ids: Sequence[int]) -> Reward:
        is_right = (*prompt.given_ids, *response_ids)[0] in self.right[prompt.id]
        return Reward(float(is_right), is_right)


def make_task(num_prompts: int = 6, num_right: int = 3, **sources: str) -> Task:
    """Build the toy.

    Args:
        num_prompts: Prompts, at most VOCABULARY - 1.
        num_right: Right first tokens of each.
        sources: Source of demonstrations -> `right` or `wrong`, what it shows for every prompt.
    """
    prompts = tuple(
        Prompt(f"p{i}", "", (i + 1, SECOND), "") for i in range(min(num_prompts, VOCABULARY - 1))
    )
    first = {prompt.id: 1 + 4 * i % (VOCABULARY - 1) for i, prompt in enumerate(prompts)}
    right = {
        name: frozenset(1 + (token - 1 + k) % (VOCABULARY - 1) for k in range(num_right))
        for name, token in first.items()
    }

    def shown(source: str, kind: str, prompt: Prompt) -> Demonstration:
        shift = 0 if kind == "right" else num_right + 2
        token = 1 + (first[prompt.id] - 1 + shift) % (VOCABULARY - 1)
        name, taught = f"{source}-{prompt.id}", (token, END, *prompt.token_ids)
        return Demonstration(
            name, prompt.token_ids, (token, END), source, teacher_prompt_ids=taught
        )

    demonstrations = tuple(
        shown(source, kind, prompt)
        for source, kind in (sources or {"demonstrations": "right"}).items()
        for prompt in prompts
    )
    return Task(prompts, right, demonstrations, tuple(shown("kept", "right", p) for p in prompts))


def make_policy(config: RunConfig, *, has_adapter: bool) -> tuple[PolicyModel, Adapter | None]:
    """Build what `learner.build.build_policy` loads: one layer, fp32, always the same start."""
    settings = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=16,
        tie_word_embeddings=False,
        initializer_range=0.1,
    )
    torch.manual_seed(5)
    causal_lm = Qwen3ForCausalLM(settings).float()
    prepare_for_training(causal_lm, activation_checkpointing=False)
    adapter = None
    if has_adapter:
        adapter = make_adapter(config, causal_lm)
        adapter.attach(causal_lm)
    policy = PolicyModel(
        causal_lm,
        temperature=config.rollout.temperature,
        has_entropy_gradient=config.method.rl_settings.entropy_weight > 0,
    )
    return policy, adapter


def make_adapter(config: RunConfig, causal_lm: torch.nn.Module) -> Adapter:
    section = config.adapter
    shapes = adapter_shapes(causal_lm, section.targets)
    return Adapter(shapes, rank=section.rank, alpha=section.alpha, seed=config.run.seed)


@torch.no_grad()
def next_log_probs(policy: PolicyModel, token_ids_BL: torch.Tensor, temperature: float):
    """Return log pi of the token after each row, [B, V]."""
    logits_BLV = policy.causal_lm(input_ids=token_ids_BL, use_cache=False).logits
    return (logits_BLV[:, -1] / temperature).log_softmax(-1)


def expected_reward(policy: PolicyModel, task: Task, temperature: float) -> float:
    """Return J."""
    ids_PL = torch.tensor([prompt.token_ids for prompt in task.prompts])
    probability_PV = next_log_probs(policy, ids_PL, temperature).exp()
    right = [sorted(task.right[prompt.id]) for prompt in task.prompts]
    values = [float(p_V[tokens].sum()) for p_V, tokens in zip(probability_PV, right, strict=True)]
    return float(np.mean(values))


def sample_groups(
    policy: PolicyModel,
    task: Task,
    prompts: Sequence[Prompt],
    sampling: SamplingSettings,
    version: PolicyVersion,
) -> list[ScoredGroup]:
    """Sample as an engine does; each response depends on (seed, prompt, index) and the policy."""
    size, limit = sampling.num_samples, sampling.max_tokens
    uniform_NT = np.array(
        [
            np.random.default_rng([sampling.seed, zlib.crc32(prompt.id.encode()), i]).random(limit)
            for prompt in prompts
            for i in range(size)
        ]
    )
    ids_NL = torch.tensor([prompt.context_ids for prompt in prompts for _ in range(size)])
    prompt_length = ids_NL.size(1)
    log_probs = []
    for t in range(limit):
        log_prob_NV = next_log_probs(policy, ids_NL, sampling.temperature)
        total_NV = log_prob_NV.double().exp().cumsum(-1)
        uniform_N1 = torch.from_numpy(uniform_NT[:, t : t + 1]) * total_NV[:, -1:]
        token_N1 = (total_NV <= uniform_N1).sum(-1, keepdim=True)
        log_probs.append(log_prob_NV.gather(1, token_N1))
        ids_NL = torch.cat([ids_NL, token_N1], dim=1)
    responses = ids_NL[:, prompt_length:].tolist()
    values = torch.cat(log_probs, dim=1).tolist()
    rollouts = [_rollout(r, v, version) for r, v in zip(responses, values, strict=True)]
    groups = []
    for index, prompt in enumerate(prompts):
        own = tuple(rollouts[index * size : (index + 1) * size])
        rewards = tuple(task.reward(prompt, rollout.token_ids) for rollout in own)
        groups.append(ScoredGroup(prompt, own, rewards))
    return groups


def _rollout(tokens: list[int], log_probs: list[float], version: PolicyVersion) -> Rollout:
    """Cut a response after its end token."""
    is_ended = END in tokens
    length = tokens.index(END) + 1 if is_ended else len(tokens)
    return Rollout(tuple(tokens[:length]), tuple(log_probs[:length]), "", not is_ended, version)
