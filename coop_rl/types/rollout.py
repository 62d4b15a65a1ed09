"""From a prompt to a scored group of responses.

Producers and consumers: `data` makes Prompt; a rollout actor makes RolloutGroup from it; a reward
worker makes ScoredGroup from that; `algorithm.packing` consumes ScoredGroup.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from coop_rl.errors import VersionError
from coop_rl.types.version import PolicyVersion

Given = Mapping[str, tuple[int, ...]]
"""Prompt id -> tokens that the responses to it begin with, instead of sampling them."""
NOTHING_GIVEN: Given = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question with a verifiable answer."""

    id: str
    """Unique within its source; part of the sampling seed."""
    text: str
    """The rendered prompt, after template or chat template."""
    token_ids: tuple[int, ...]
    """The rendered prompt's tokens, no padding, length >= 1."""
    answer: str
    """The gold answer the verifier compares with."""
    details: str = ""
    """What else its verifier needs, as JSON; empty: nothing."""
    verifier: str = ""
    """Name of its verifier; empty: the one of `reward.kind`."""
    source: str = ""
    """The source of a mixture it comes from; empty: there is one."""
    given_ids: tuple[int, ...] = ()
    """Tokens of a demonstration that its responses begin with: context, neither sampled nor trained
    on; empty: none."""
    given_text: str = ""
    """The same as text, which the verifier reads before a response's own."""
    columns: str = ""
    """All columns of its row as JSON, for reward functions of the user's own; empty: there are
    none."""

    @property
    def context_ids(self) -> tuple[int, ...]:
        """What is sampled from: the prompt, and what is given of the response."""
        return self.token_ids + self.given_ids


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How to sample; `temperature` 0 is greedy."""

    num_samples: int
    temperature: float
    top_p: float
    max_tokens: int
    """Upper limit of response tokens."""
    seed: int
    """Seeds of the samples derive from this, the prompt's id and the sample's index."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled response, end-of-sequence token included where the model wrote one."""

    token_ids: tuple[int, ...]
    """Response tokens, length >= 1, no padding."""
    behaviour_log_probs: tuple[float, ...]
    """log pi_b of each token under the engine's sampling distribution; same length; nats."""
    text: str
    """The response without special tokens."""
    is_truncated: bool
    """True when the token limit ended it, not the end-of-sequence token."""
    version: PolicyVersion
    """The oldest policy version that sampled a token of it."""
    version_spans: tuple[tuple[PolicyVersion, int], ...] = ()
    """(version, tokens it sampled) in order, where weights changed in between; empty: `version`
    sampled all."""


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The G responses to one prompt."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]

    def require_version(self, version: PolicyVersion, sampler: str) -> None:
        """Refuse rollouts of other weights.

        Raises:
            VersionError: A response was sampled with another version; names `sampler`.
        """
        for rollout in self.rollouts:
            if rollout.version != version:
                raise VersionError(
                    f"{sampler} sampled prompt {self.prompt.id} with {rollout.version}, "
                    f"the published version is {version}"
                )

    def require_lag(self, version: PolicyVersion, max_lag: int, sampler: str) -> None:
        """Refuse rollouts of weights that are too old, or from the future.

        Raises:
            VersionError: A token was sampled more than `max_lag` theta updates before `version`.
        """
        for rollout in self.rollouts:
            if not 0 <= version.theta - rollout.version.theta <= max_lag:
                raise VersionError(
                    f"{sampler} sampled prompt {self.prompt.id} with {rollout.version}, which may "
                    f"be at most {max_lag} updates before {version} (rollout.max_policy_lag)"
                )


@dataclass(frozen=True, slots=True)
class Reward:
    """The verdict on one response."""

    value: float
    """What the policy is trained on."""
    is_correct: bool
    """Whether the answer matches; what accuracy counts."""
    status: Literal["scored", "timeout", "crashed"] = "scored"
    """`timeout` and `crashed`: nobody knows the value, so the response does not train; evaluations
    count it as wrong, and report it apart."""
    answer: str = ""
    """What was read as the final answer, in a normal form: equal answers vote together; empty:
    none was found."""
    has_format: bool = True
    """Whether the response has the form the answer was asked for in."""
    parts: tuple[tuple[str, float], ...] = ()
    """(name, value before its weight) of the terms `value` is the weighted sum of, the verifier's
    called `correct`; empty: there is one term."""
    is_flipped: bool = False
    """Whether noise turned the verifier's value around (`reward.flip_probability`)."""


@dataclass(frozen=True, slots=True)
class ScoredGroup(RolloutGroup):
    """A RolloutGroup with one Reward per rollout, in the same order."""

    rewards: tuple[Reward, ...]

    def valid(self) -> "ScoredGroup":
        """Return the responses that were scored, as a group; all of them where all were."""
        pairs = [
            (rollout, reward)
            for rollout, reward in zip(self.rollouts, self.rewards, strict=True)
            if reward.status == "scored"
        ]
        if len(pairs) == len(self.rewards):
            return self
        rollouts, rewards = tuple(r for r, _ in pairs), tuple(r for _, r in pairs)
        return ScoredGroup(self.prompt, rollouts, rewards)


@dataclass(frozen=True, slots=True)
class Sampled:
    """The scored groups of one step."""

    groups: Sequence[ScoredGroup] = ()
    """What is trained on."""
    dropped: Sequence[ScoredGroup] = ()
    """Sampled in vain: every response scored alike, and dynamic sampling replaced the group."""
