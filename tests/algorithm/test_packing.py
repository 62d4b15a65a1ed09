"""Packing loses nothing, balances ranks, and gives every rank the same number of micro-batches."""

from hypothesis import given, settings
from hypothesis import strategies as st

from coop_rl.algorithm.packing import PackShape, pack
from coop_rl.types import Demonstration, TokenSample

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
    assert [len(rank) for rank in batch.sft] == [1, 1]
    assert batch.num_sft_tokens == 2
