r"""The scaffold: w lets prompts be solved that theta fails, and theta learns from what it solved.

    F    prompts whose G responses were all wrong, with a demonstration d
    y'   ~ pi(theta, w)(. | x)  for x in F:  n = share * G second tries, scored like any response
    w    <- w - AdamW( h_w^SFT(theta, w) on the d of F )              theta's part of h is dropped
    of x's own wrong responses n give way to the second tries; advantages are the mixed group's

theta is trained, evaluated and published alone, its passes do not see w; so w is where theta cannot
absorb it. A second try enters theta's loss like every rollout, with the probability it was sampled
with, log pi(theta, w): the weight back to theta is the estimator's own, capped (`reweighted`: of
the whole response, min( pi_theta / pi_(theta, w), ratio_cap ); the others: of each token, at
mismatch_cap). What a scaffold is measured by is the share of F that turns: with a right second try.

Called by `algorithm.train` and `algorithm.methods`; the second tries come from the role
`ScaffoldRollouts`. Source: LSPO, arXiv 2607.27787 (`methods.lspo`), where the adapter is made anew
at every step.
"""

from collections.abc import Sequence
from dataclasses import replace

from coop_rl.types import Demonstration, ScoredGroup, SecondTries


def failed_groups(groups: Sequence[ScoredGroup]) -> list[ScoredGroup]:
    """Return the groups without a right response."""
    return [group for group in groups if not has_right(group)]


def has_right(group: ScoredGroup) -> bool:
    """Return whether one of the responses is right."""
    return any(reward.is_correct for reward in group.rewards)


def with_demonstration(
    groups: Sequence[ScoredGroup], shown: Sequence[Demonstration]
) -> list[ScoredGroup]:
    """Return the groups whose prompts the demonstrations are about."""
    known = {demonstration.id for demonstration in shown}
    return [group for group in groups if group.prompt.id in known]


def right_only(second: SecondTries) -> SecondTries:
    """Return the second tries that succeeded; a group may be left without any."""
    return replace(second, groups=[_right_of(group) for group in second.groups])


def _right_of(group: ScoredGroup) -> ScoredGroup:
    pairs = zip(group.rollouts, group.rewards, strict=True)
    right = [(rollout, reward) for rollout, reward in pairs if reward.is_correct]
    return replace(
        group,
        rollouts=tuple(rollout for rollout, _ in right),
        rewards=tuple(reward for _, reward in right),
    )


def splice(groups: Sequence[ScoredGroup], second: SecondTries) -> list[ScoredGroup]:
    """Return the groups, in which second tries stand for as many of the first responses."""
    tries = {group.prompt.id: group for group in second.groups}
    return [
        _spliced(group, tries[group.prompt.id]) if group.prompt.id in tries else group
        for group in groups
    ]


def _spliced(first: ScoredGroup, second: ScoredGroup) -> ScoredGroup:
    num_second = len(second.rollouts)
    return replace(
        first,
        rollouts=second.rollouts + first.rollouts[num_second:],
        rewards=second.rewards + first.rewards[num_second:],
    )


def untouched(groups: Sequence[ScoredGroup], second: SecondTries) -> list[int]:
    """Return the indices of the groups without second tries.

    The others' own responses are all wrong, so where rewards are 1 and 0 they say nothing of a
    gain: like groups that dynamic sampling dropped, they count as 0.
    """
    tried = {group.prompt.id for group in second.groups}
    return [index for index, group in enumerate(groups) if group.prompt.id not in tried]
