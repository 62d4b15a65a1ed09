"""Verdicts to rewards in order; shuffled rewards are the same rewards at other prompts."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coop_rl.rewards.exact import render_exact, verify_exact
from coop_rl.rewards.pool import RewardPool
from coop_rl.rewards.registry import VERIFIERS
from coop_rl.rewards.scoring import score_group, shuffle_rewards
from coop_rl.rewards.verdict import Answer, VerifierSettings
from coop_rl.types import PolicyVersion, Prompt, Reward, Rollout, RolloutGroup, ScoredGroup
from tests.rewards.verifiers import section

VERSION = PolicyVersion(0, 0)


def group(name: str, gold: str, *texts: str) -> RolloutGroup:
    rollouts = tuple(Rollout((1,), (0.0,), text, text.endswith("…"), VERSION) for text in texts)
    return RolloutGroup(Prompt(name, "?", (1,), gold), rollouts)


@pytest.mark.parametrize(
    ("text", "marker", "is_right"),
    [
        ("1+1=2\n#2", "#", True),
        ("#2 ", "#", True),
        ("#1 #2", "#", True),
        ("#2 #1", "#", False),
        ("2", "#", False),
        ("", "#", False),
        ("#22", "#", False),
        ("#2.", "#", False),
        ("so #### 2\n", "####", True),
        ("### 2", "####", False),
    ],
)
def test_exact_compares_what_follows_the_last_marker(
    text: str, marker: str, is_right: bool
) -> None:
    verdict = verify_exact(Answer(text, "2"), VerifierSettings(marker))
    assert (verdict.is_correct, verdict.value) == (is_right, float(is_right))


@settings(deadline=None)
@given(st.text(), st.text())
def test_exact_never_raises(text: str, gold: str) -> None:
    settings = VerifierSettings("#")
    verify_exact(Answer(text, gold), settings)
    right = Answer(render_exact(gold, settings), gold)
    assert "#" in gold or verify_exact(right, settings).is_correct


def test_a_response_is_read_from_its_start_that_was_given() -> None:
    begun = group("a", "41", "1", "2", "#7")
    begun = replace(begun, prompt=replace(begun.prompt, given_ids=(5, 6), given_text="#4"))
    pool = RewardPool(section())
    scored = score_group(pool, begun)
    pool.close()
    assert [reward.is_correct for reward in scored.rewards] == [True, False, False]


def test_groups_are_scored_in_order_truncated_ones_too() -> None:
    pool = RewardPool(section())
    first, second = group("a", "4", "#4", "#5"), group("b", "…", "#…", "")
    scored = [score_group(pool, group) for group in (first, second)]
    pool.close()
    assert [g.prompt.id for g in scored] == ["a", "b"]
    assert [[r.value for r in g.rewards] for g in scored] == [[1.0, 0.0], [1.0, 0.0]]
    assert scored[0].rollouts == first.rollouts
    assert scored[0].rewards[0] == Reward(1.0, True, answer="4")


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(0, 2**62))
def test_shuffling_moves_every_groups_rewards(num_groups: int, seed: int) -> None:
    groups = [
        ScoredGroup(g.prompt, g.rollouts, (Reward(float(i), False), Reward(i + 0.5, True)))
        for i, g in ((i, group(str(i), "4", "x", "y")) for i in range(num_groups))
    ]
    shuffled = shuffle_rewards(groups, seed)
    assert Counter(g.rewards for g in shuffled) == Counter(g.rewards for g in groups)
    assert all(a.rewards != b.rewards for a, b in zip(shuffled, groups, strict=True))
    assert [(g.prompt, g.rollouts) for g in shuffled] == [(g.prompt, g.rollouts) for g in groups]
    assert shuffled == shuffle_rewards(groups, seed)


def test_one_group_cannot_be_shuffled() -> None:
    scored = ScoredGroup(Prompt("a", "?", (1,), "4"), (), ())
    with pytest.raises(ValueError, match="2 or more groups"):
        shuffle_rewards([scored], 0)


@pytest.mark.parametrize("kind", ["math", "number", "choice", "exact", "knights_knaves"])
def test_thinking_that_never_closed_holds_no_answer(kind: str) -> None:
    """Also where the template opened it, so that the response does not begin with the tag."""
    golds = {"choice": "B", "knights_knaves": "Zoe is a knight"}
    gold = golds.get(kind, "4")
    verify, settings = VERIFIERS[kind].verify, VerifierSettings("####")
    said = (f"so \\boxed{{{gold}}}", f"so\n#### {gold}", f"so <answer>{gold}</answer>")
    for text in said if kind != "exact" else said[1:2]:
        for is_truncated in (False, True):
            marked = Answer(text, gold, is_truncated=is_truncated)
            assert verify(marked, settings).is_correct
            assert not verify(replace(marked, text=f"<think>{text}"), settings).is_correct
            assert not verify(replace(marked, is_thinking=True), settings).is_correct
            closed = replace(marked, text=f"a</think>{text}", is_thinking=True)
            assert verify(closed, settings).is_correct


def test_a_prompt_that_opens_the_thought_is_seen() -> None:
    pool = RewardPool(section())
    opened = group("a", "4", "#4", "so</think>#4")
    prompt = replace(opened.prompt, text="What is 2 + 2?<think>\n")
    scored = score_group(pool, replace(opened, prompt=prompt))
    pool.close()
    assert [reward.is_correct for reward in scored.rewards] == [False, True]
