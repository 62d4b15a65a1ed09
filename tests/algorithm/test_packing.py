"""Packing loses nothing, balances ranks, and gives every rank the same number of micro-batches."""

from hypothesis import given, settings
from hypothesis import strategies as st

from coop_rl.algorithm.packing import PackShape, pack, pack_branches
from coop_rl.types import Demonstration, Lesson, Objective, PackedBatch, TokenSample

lengths = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 30)), min_size=1, max_size=40)


def samples_of(sizes) -> list[TokenSample]:
    return [
        TokenSample((i + 1,) * p, tuple(100 + i for _ in range(r)), (-0.5 - i,) * r, float(i))
        for i, (p, r) in enumerate(sizes)
    ]


@settings(max_examples=60, deadline=None)
@given(lengths, st.integers(1, 3), st.integers(1, 200))
def test_every_row_arrives_once_with_its_own_values(sizes, num_ranks, budget) -> None:
    batch = pack(samples_of(sizes), [], PackShape(num_ranks, budget))
    assert batch.num_rl_tokens == sum(r for _, r in sizes)
    assert batch.num_samples == len(sizes)
    assert len({len(rank) for rank in batch.rl}) == 1
    seen = []
    for rank in batch.rl:
        for micro in rank:
            offset = 0
            for b, index in enumerate(micro.row_B.tolist()):
                count = int(micro.is_response_BL[b].sum())
                if index < 0:
                    assert count == 0
                    continue
                seen.append(index)
                prompt, response = sizes[index]
                assert count == response
                assert set(micro.token_ids_BL[b][micro.is_response_BL[b]].tolist()) == {100 + index}
                assert micro.token_ids_BL[b, :prompt].tolist() == [index + 1] * prompt
                assert micro.advantage_B[b] == index
                got = micro.behaviour_log_prob_T[offset : offset + count]
                assert set(got.tolist()) == {-0.5 - index}
                offset += count
            rows, longest = micro.token_ids_BL.shape
            assert rows == 1 or rows * longest <= budget
    assert sorted(seen) == list(range(len(sizes)))


def test_ranks_get_balanced_tokens() -> None:
    sizes = [(5, 1 + (i * 7) % 40) for i in range(64)]
    batch = pack(samples_of(sizes), [], PackShape(2, 512))
    tokens = [sum(int((m.token_ids_BL > 0).sum()) for m in rank) for rank in batch.rl]
    assert max(tokens) / (sum(tokens) / 2) < 1.05


def test_no_rollouts_means_no_micro_batches() -> None:
    demonstrations = [Demonstration("d", (1, 2), (3, 4))]
    batch = pack([], demonstrations, PackShape(2, 64))
    assert batch.rl == ((), ())
    assert [len(rank) for rank in batch.sft[0].ranks] == [1, 1]
    assert batch.num_sft_tokens == 2


def sample(name: int, length: int = 3) -> TokenSample:
    return TokenSample((1,), (name,) * length, (0.0,) * length, float(name))


def lesson(num_groups: int, size: int, num_shown: int) -> Lesson:
    samples = [sample(g) for g in range(num_groups) for _ in range(size)]
    shown = [Demonstration(str(i), (1,), (2, 3), "ab"[i % 2]) for i in range(num_shown)]
    return Lesson(samples, shown, Objective(0.5, 0.5))


def tokens(batch: PackedBatch) -> list[int]:
    return sorted(
        row[1] for m in batch.rl[0] for row in m.token_ids_BL.tolist() if m.is_response_BL.any()
    )


def test_minibatches_keep_groups_whole_and_epochs_repeat_them() -> None:
    shape = PackShape(1, 64, num_minibatches=2, num_epochs=3, group_size=2)
    joint, shadow = pack_branches(lesson(5, 2, 7), (), shape, is_own=False)
    assert shadow is joint
    assert len(joint.minibatches) == 6
    assert joint.minibatches[0] is joint.minibatches[2] is joint.minibatches[4]
    assert [tokens(b) for b in joint.minibatches[:2]] == [[0, 0, 1, 1], [2, 2, 3, 3, 4, 4]]
    assert [b.sft[0].ids for b in joint.minibatches[:2]] == [
        ("0", "1", "2"),
        ("3", "4", "5", "6"),
    ]
    assert [b.num_rl_tokens for b in joint.minibatches[:2]] == [12, 18]


def test_a_minibatch_without_any_row_is_left_out() -> None:
    shape = PackShape(1, 64, num_minibatches=3, group_size=2)
    joint, _ = pack_branches(lesson(0, 2, 1), (), shape, is_own=False)
    assert [b.sft[0].ids for b in joint.minibatches] == [("0",)]


def test_sources_have_batches_and_counts_of_their_own() -> None:
    batch = pack([], lesson(0, 1, 5).demonstrations, PackShape(1, 64), sources=("a", "b", "c"))
    assert [(b.source, b.ids, b.num_tokens) for b in batch.sft] == [
        ("a", ("0", "2", "4"), 6),
        ("b", ("1", "3"), 4),
    ]
    assert batch.num_sft_tokens == 10


def test_the_shadows_own_rollouts_are_for_the_bracket_or_for_its_step_too() -> None:
    shape = PackShape(1, 64, group_size=2)
    own = [sample(9, length=5), sample(9, length=5)]
    joint, shadow = pack_branches(lesson(1, 2, 1), own, shape, is_own=False)
    assert joint.bracket is None
    assert shadow.minibatches == joint.minibatches
    assert shadow.bracket is not None
    assert tokens(shadow.bracket) == [9, 9]
    # joint's denominator: the bracket is a difference of like sums
    assert shadow.bracket.num_rl_tokens == joint.minibatches[0].num_rl_tokens == 6
    _, learning = pack_branches(lesson(1, 2, 1), own, shape, is_own=True)
    assert tokens(learning.minibatches[0]) == [9, 9]
    assert learning.minibatches[0].num_rl_tokens == 10
    assert learning.minibatches[0].sft == ()
