"""Scored groups and token scenes that the tests of estimators are about, as plain numpy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from coop_rl.algorithm.estimators import RlEstimator, RolloutCounts, RolloutTokens, build_estimator
from coop_rl.config.estimators import RlSettings
from coop_rl.types import PolicyVersion, Prompt, Reward, Rollout, ScoredGroup

MAX_TOKENS = 12
VOCABULARY = 5
ANCHOR = -1


def built(settings: RlSettings, max_tokens: int = MAX_TOKENS) -> RlEstimator:
    """The estimator of a section `rl`."""
    return build_estimator(settings, max_tokens)


def scored_group(rewards: Sequence[float], lengths: Sequence[int] | None = None) -> ScoredGroup:
    """One prompt's responses, `lengths` tokens each (default: three)."""
    version = PolicyVersion(0, 0)
    return ScoredGroup(
        prompt=Prompt(id="p", text="p", token_ids=(1,), answer="a"),
        rollouts=tuple(
            Rollout(
                token_ids=(2,) * length,
                behaviour_log_probs=(-1.0,) * length,
                text="",
                is_truncated=length == MAX_TOKENS,
                version=version,
            )
            for length in lengths or [3] * len(rewards)
        ),
        rewards=tuple(Reward(value, value > 0.5) for value in rewards),
    )


def random_groups(seed: int) -> list[ScoredGroup]:
    """Four groups of four: equal rewards, right and wrong ones, and two of any reward.

    The second has a response of one token, and one that the limit ended.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, MAX_TOKENS, size=(4, 4))
    lengths[1, :2] = 1, MAX_TOKENS
    rewards = [[0.1] * 4, rng.permutation([0.0, 1.0, 1.0, 0.0]).tolist()]
    rewards += rng.normal(size=(2, 4)).tolist()
    return [scored_group(r, n.tolist()) for r, n in zip(rewards, lengths, strict=True)]


@dataclass(frozen=True)
class Scene:
    """A batch of rollouts under a softmax policy whose logits are its parameters."""

    logits_TV: np.ndarray
    token_T: np.ndarray
    row_T: np.ndarray
    old_log_prob_T: np.ndarray
    behaviour_log_prob_T: np.ndarray
    mismatch_T: np.ndarray
    advantage_B: np.ndarray
    length_B: np.ndarray

    @property
    def counts(self) -> RolloutCounts:
        return RolloutCounts(tokens=len(self.token_T), samples=len(self.length_B))

    def score(self, logits_TV: np.ndarray | None = None) -> np.ndarray:
        """Return log pi of every token, T."""
        logits = self.logits_TV if logits_TV is None else logits_TV
        normalizer = np.log(np.exp(logits).sum(axis=1))
        return logits[np.arange(len(logits)), self.token_T] - normalizer

    def on_policy(self) -> "Scene":
        """The same where pi = pi_old = pi_b."""
        log_prob_T = self.score()
        ones_T = np.ones_like(log_prob_T)
        return replace(
            self,
            old_log_prob_T=log_prob_T,
            behaviour_log_prob_T=log_prob_T,
            mismatch_T=ones_T,
        )


def build_scene(
    seed: int, lengths: Sequence[int], advantages: Sequence[float], spread: float = 0.4
) -> Scene:
    """Random logits and tokens; log-ratios differ by token and by response, mismatch is capped."""
    rng = np.random.default_rng(1000 + seed)
    length_B = np.array(lengths)
    row_T = np.repeat(np.arange(len(length_B)), length_B)
    logits_TV = rng.normal(size=(len(row_T), VOCABULARY))
    token_T = rng.integers(VOCABULARY, size=len(row_T))
    shift_B = rng.normal(size=len(length_B)) * spread
    scene = Scene(
        logits_TV=logits_TV,
        token_T=token_T,
        row_T=row_T,
        old_log_prob_T=np.zeros(len(row_T)),
        behaviour_log_prob_T=np.zeros(len(row_T)),
        mismatch_T=np.ones(len(row_T)),
        advantage_B=np.array(advantages, dtype=np.float64),
        length_B=length_B,
    )
    old_T = scene.score() + shift_B[row_T] + spread * rng.normal(size=len(row_T))
    behaviour_T = old_T + 0.3 * rng.normal(size=len(row_T))
    mismatch_T = np.minimum(np.exp(old_T - behaviour_T), 1.2)
    return replace(
        scene, old_log_prob_T=old_T, behaviour_log_prob_T=behaviour_T, mismatch_T=mismatch_T
    )


def scene_of(seed: int, groups: Sequence[ScoredGroup], estimator: RlEstimator) -> Scene:
    """The groups' responses with the estimator's advantages."""
    advantages = np.concatenate(estimator.advantages(groups))
    lengths = [len(rollout.token_ids) for group in groups for rollout in group.rollouts]
    return build_scene(seed, lengths, advantages.tolist())


def rollout_tokens(scene: Scene, log_prob_T: torch.Tensor, rows: Sequence[int]) -> RolloutTokens:
    """The micro-batch of some rows; ANCHOR makes an empty row with an advantage."""
    picked = [np.flatnonzero(scene.row_T == row) for row in rows]
    index = torch.tensor(np.concatenate(picked), dtype=torch.int64)
    lengths = [len(tokens) for tokens in picked]

    def take(values_T: np.ndarray) -> torch.Tensor:
        return torch.tensor(values_T, dtype=log_prob_T.dtype)[index]

    return RolloutTokens(
        log_prob_T=log_prob_T[index],
        old_log_prob_T=take(scene.old_log_prob_T),
        behaviour_log_prob_T=take(scene.behaviour_log_prob_T),
        mismatch_T=take(scene.mismatch_T),
        row_T=torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(lengths)),
        advantage_B=torch.tensor(
            [0.7 if row == ANCHOR else scene.advantage_B[row] for row in rows],
            dtype=log_prob_T.dtype,
        ),
        length_B=torch.tensor(lengths),
    )


@dataclass(frozen=True)
class Taken:
    """What an estimator's loss came to, summed over micro-batches."""

    loss: float
    gradient_TV: np.ndarray
    num_clipped: int


def take_loss(
    estimator: RlEstimator, scene: Scene, micro_batches: Sequence[Sequence[int]] | None = None
) -> Taken:
    """Sum loss and gradient over micro-batches of rows (default: one of all)."""
    logits_TV = torch.tensor(scene.logits_TV, requires_grad=True)
    total, num_clipped = 0.0, 0
    for rows in micro_batches or [range(len(scene.length_B))]:
        log_prob_TV = logits_TV.log_softmax(-1)
        log_prob_T = log_prob_TV[torch.arange(len(logits_TV)), torch.tensor(scene.token_T)]
        loss, clipped = estimator.loss(rollout_tokens(scene, log_prob_T, rows), scene.counts)
        assert not clipped.requires_grad
        loss.backward()
        total += float(loss.detach())
        num_clipped += int(clipped)
    assert logits_TV.grad is not None
    return Taken(total, logits_TV.grad.numpy(), num_clipped)


def row_gradient_norms(scene: Scene, gradient_TV: np.ndarray) -> np.ndarray:
    """Return the gradient's norm over each row's logits."""
    rows = range(len(scene.length_B))
    return np.array([np.linalg.norm(gradient_TV[scene.row_T == row]) for row in rows])
