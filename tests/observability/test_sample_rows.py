"""What a sample's tokens stand for in its text, and what trains them."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from coop_rl.observability.sample_rows import SampleRows
from coop_rl.types import PolicyVersion, Prompt, Reward, Rollout, Sampled, ScoredGroup, TokenSample
from tests.observability.records import bridge, sft

END = 0


def of_bytes(tokens: Sequence[int]) -> str:
    """Decode as byte-level tokenizers do; 0 is the end."""
    return bytes(t for t in tokens if t != END).decode("utf-8", errors="replace")


def of_words(tokens: Sequence[int]) -> str:
    """Decode as tokenizers with a space in front of words do."""
    return " ".join(["", "so", "it", "is"][t] for t in tokens if t).strip()


def row(decode, text: str, tokens: Sequence[int], **others) -> dict:
    log_probs = tuple(-0.12345 * i for i in range(len(tokens)))
    rollout = Rollout(tuple(tokens), log_probs, text, False, PolicyVersion(3, 3))
    rollout = replace(rollout, **others)
    prompt = Prompt("a", "?", (7,), "4")
    group = ScoredGroup(prompt, (rollout,), (Reward(1.0, True),))
    sample = TokenSample((7,), rollout.token_ids, log_probs, 0.70711, rollout.is_truncated)
    record = replace(bridge(), sampled=Sampled((group,)), samples=(sample,))
    (found,) = SampleRows(decode, mask_truncated=True).of(record, 5)
    return found


@pytest.mark.parametrize(
    ("decode", "text", "tokens", "lengths"),
    [
        (of_bytes, "ab", b"ab\0", [1, 1, 0]),
        (of_bytes, "é€x", [*"é€x".encode()], [0, 1, 0, 0, 1, 1]),
        (of_bytes, "a", [*"a€".encode()[:3]], [1, 0, 0]),  # cut off within a character
        (of_bytes, "a\ufffdb", [97, 0xFF, 98], [1, 1, 1]),  # bytes that are none
        (of_words, " so it is", [1, 2, 3, END], [3, 3, 3, 0]),
        (of_words, "so it", [1, 2], [2, 3]),
        (of_words, "so, it", [1, 2], []),
        (of_bytes, "ab", b"abc", []),
        (None, "ab", b"ab", []),
    ],
)
def test_lengths_cut_the_text_into_tokens(decode, text, tokens, lengths) -> None:
    found = row(decode, text, tokens)
    assert found["token_lengths"] == lengths
    assert found["log_probs"] == [round(-0.12345 * i, 2) for i in range(len(tokens))]
    assert "-0.0" not in map(str, found["log_probs"])


def test_log_probs_are_json() -> None:
    found = row(of_bytes, "ab", b"ab", behaviour_log_probs=(float("-inf"), float("nan")))
    assert found["log_probs"] == [None, None]


def test_the_advantage_is_what_trains() -> None:
    assert row(of_bytes, "ab", b"ab")["advantage"] == 0.7071
    assert row(of_bytes, "ab", b"ab", is_truncated=True)["advantage"] == 0.0  # masked
    rows = SampleRows(of_bytes, mask_truncated=False)
    assert [found["advantage"] for found in rows.of(bridge(), 2)] == [None, None]  # left out
    assert list(rows.of(sft(), 2)) == []
