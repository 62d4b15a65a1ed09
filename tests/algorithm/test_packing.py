"""Packing loses nothing, balances ranks, and gives every rank the same number of micro-batches."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coop_rl.algorithm.lanes import Layout
from coop_rl.algorithm.packing import PackShape, pack, pack_branches, useful_share
from coop_rl.models.policy import visible
from coop_rl.types import Demonstration, Lesson, MicroBatch, Objective, PackedBatch, TokenSample

lengths = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 30)), min_size=1, max_size=40)


def samples_of(sizes) -> list[TokenSample]:
    return [
        TokenSample((i + 1,) * p, tuple(100 + i for _ in range(r)), (-0.5 - i,) * r, float(i))
        for i, (p, r) in enumerate(sizes)
    ]


layouts = st.sampled_from(["trees", "lanes", "padded", "flat"])


@settings(max_examples=100, deadline=None)
@given(lengths, st.integers(1, 3), st.integers(1, 200), layouts)
def test_every_row_arrives_once_with_its_own_values(
    sizes, num_ranks: int, budget: int, layout: Layout
) -> None:
    samples = samples_of(sizes)
    # The same prompt for every third: trees have several responses.
    samples = [replace(s, prompt_ids=samples[i % 3].prompt_ids) for i, s in enumerate(samples)]
    batch = pack(samples, [], PackShape(num_ranks, budget, layout=layout))
    assert batch.num_rl_tokens == sum(r for _, r in sizes)
    assert batch.num_samples == len(sizes)
    assert len({len(rank) for rank in batch.rl}) == 1
    seen = []
    for micro in (micro for rank in batch.rl for micro in rank):
        seen += micro.row_B.tolist()
        for b, index in enumerate(micro.row_B.tolist()):
            of_row = micro.row_T == b
            assert micro.grid.target_T[of_row].tolist() == list(samples[index].response_ids)
            assert micro.advantage_B[b] == index
            assert set(micro.behaviour_log_prob_T[of_row].tolist()) == {-0.5 - index}
            for t, source in enumerate(micro.grid.source_T[of_row].tolist()):
                assert seen_from(micro, source) == [
                    *samples[index].prompt_ids,
                    *samples[index].response_ids[:t],
                ]
        lanes, longest = micro.grid.token_ids_KL.shape
        assert lanes == 1 or lanes * longest <= budget
        assert micro.num_tokens <= micro.num_places
    assert sorted(seen) == list(range(len(sizes)))


@settings(max_examples=50, deadline=None)
@given(lengths, st.integers(1, 3), st.integers(1, 200), layouts)
def test_a_teacher_scores_the_same_tokens_in_the_same_order_behind_its_own_prompt(
    sizes, num_ranks: int, budget: int, layout: Layout
) -> None:
    samples = samples_of(sizes)
    shared = [samples[i % 3].prompt_ids for i in range(len(samples))]
    samples = [
        replace(s, prompt_ids=p, teacher_prompt_ids=(98, 99, *p))
        for s, p in zip(samples, shared, strict=True)
    ]
    batch = pack(samples, [], PackShape(num_ranks, budget, layout=layout))
    for micro in (micro for rank in batch.rl for micro in rank):
        if not len(micro.row_B):
            assert micro.teacher is None
            continue
        teacher = micro.teacher
        assert teacher is not None
        assert teacher.row_T.tolist() == micro.row_T.tolist()
        assert teacher.grid.target_T.tolist() == micro.grid.target_T.tolist()
        for ours, theirs in zip(micro.grid.source_T, teacher.grid.source_T, strict=True):
            assert seen_from(teacher, int(theirs)) == [98, 99, *seen_from(micro, int(ours))]


def seen_from(micro: MicroBatch, place: int) -> list[int]:
    """The tokens a place of the grid attends to, which must lie at positions 0, 1, ..."""
    grid = micro.grid
    k, last = divmod(place, grid.token_ids_KL.size(1))
    if grid.sequence_KL is None:
        return grid.token_ids_KL[k, : last + 1].tolist()
    assert grid.response_KL is not None
    assert grid.position_ids_KL is not None
    is_seen_L = visible(grid.sequence_KL, grid.response_KL)[k, last]
    positions = grid.position_ids_KL[k][is_seen_L].tolist()
    assert positions == list(range(len(positions)))
    return grid.token_ids_KL[k][is_seen_L].tolist()


def long_tailed(num_prompts: int, num_samples: int, seed: int = 0) -> list[TokenSample]:
    """Log-normal lengths, as reasoning responses have."""
    generator = random.Random(seed)
    samples = []
    for p in range(num_prompts):
        prompt = (p + 1,) * generator.randint(20, 120)
        for _ in range(num_samples):
            length = min(2048, max(8, int(generator.lognormvariate(5.0, 0.8))))
            samples.append(TokenSample(prompt, (7,) * length, (0.0,) * length, 1.0))
    return samples


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
@pytest.mark.parametrize("layout", ["trees", "lanes", "flat"])
def test_places_are_used_and_ranks_are_balanced(layout: Layout, num_ranks: int) -> None:
    batch = pack(long_tailed(64, 8), [], PackShape(num_ranks, 8192, layout=layout))
    # Few trees for a rank leave its last micro-batch part empty, where sharing prompts saves more.
    assert useful_share([batch]) >= (0.95 if num_ranks == 1 else 0.9)
    tokens = [sum(micro.num_tokens for micro in rank) for rank in batch.rl]
    assert max(tokens) / (sum(tokens) / num_ranks) <= 1.05


def num_computed(prompt: int, response: int, hidden_size: int, num_samples: int = 8) -> int:
    samples = samples_of([(prompt, response)] * num_samples)
    samples = [replace(s, prompt_ids=samples[0].prompt_ids) for s in samples]
    (rank,) = pack(samples, [], PackShape(1, 10_000, hidden_size=hidden_size)).rl
    return sum(micro.num_tokens for micro in rank)


def test_a_prompt_is_computed_once_where_that_is_cheaper() -> None:
    assert num_computed(20, 10, hidden_size=1024) == 20 + 8 * 10
    # Trees are at most 1,024 tokens long, for dense attention's sake.
    assert num_computed(400, 300, hidden_size=4096) == 4 * 400 + 8 * 300
    # Attention over a long tree costs a small model more than short prompts do.
    assert num_computed(4, 100, hidden_size=64) == 8 * 104


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
        int(m.grid.target_T[m.row_T == b][0]) for m in batch.rl[0] for b in range(len(m.row_B))
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
