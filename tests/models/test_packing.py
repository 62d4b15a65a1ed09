"""Packing changes no log-prob and no gradient, whatever lies beside and behind a sequence."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from coop_rl.algorithm.lanes import BatchRow, Layout, cut, grow_trees, lay_out
from coop_rl.config.roles import LearnerSection
from coop_rl.errors import ModelError
from coop_rl.learner.engine import EngineSettings
from coop_rl.learner.packing_check import check_packing
from coop_rl.models import PolicyModel, varlen
from coop_rl.models.loading import prepare_for_training
from coop_rl.models.policy import inputs_of, visible
from tests.models.tiny import VOCABULARY, tiny_model
from tests.support.local_engine import LocalEngine

LAYOUTS: list[Layout] = ["trees", "lanes", "padded", "flat"]
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}


def rows() -> list[BatchRow]:
    generator = torch.Generator().manual_seed(3)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(1, VOCABULARY, (count,), generator=generator).tolist())

    prompts = [draw(9), draw(4), draw(1), draw(6)]
    return [BatchRow(i, prompts[i % 4], draw(1 + (5 * i) % 8)) for i in range(20)]


def scored(model, layout: Layout, limit: int) -> tuple[dict[int, list[float]], list[torch.Tensor]]:
    """Log-probs by row, and the gradient of a weighted sum of them."""
    policy = PolicyModel(model, logits_chunk=7, num_kept_chunks=1)
    policy.zero_grad()
    got: dict[int, list[float]] = {}
    longest = limit if layout in ("trees", "varlen") else 0
    for lanes in cut(grow_trees(rows(), longest), limit, layout, hidden_size=10_000):
        micro = lay_out(lanes)
        log_prob_T = policy(*inputs_of(policy, micro.grid, torch.device("cpu"))).log_prob_T
        row_T = micro.row_B[micro.row_T]
        (log_prob_T * (1.0 + row_T)).sum().backward()
        for row in micro.row_B.tolist():
            got[row] = log_prob_T[row_T == row].tolist()
    return got, [p.grad.clone() for p in policy.parameters() if p.grad is not None]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("limit", [40, 90, 10_000])
@pytest.mark.parametrize("layout", ["trees", "lanes", "padded"])
def test_no_log_prob_and_no_gradient_depends_on_the_layout(
    layout: Layout, limit: int, attention: str
) -> None:
    model = tiny_model().double()
    model.set_attn_implementation(attention)
    alone, gradient = scored(model, "padded", 1)
    got, other = scored(model, layout, limit)
    assert got.keys() == alone.keys() == set(range(20))
    for row, values in alone.items():
        assert got[row] == pytest.approx(values, abs=1e-5)
    for ours, expected in zip(other, gradient, strict=True):
        # RMSNorm computes in fp32 whatever the model's type is.
        assert (ours - expected).norm() <= 1e-5 * expected.norm()


FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {"head_dim": 8}),
    "mistral": (MistralConfig, {"sliding_window": None}),
    "mistral, window": (MistralConfig, {"sliding_window": 6}),
    "qwen2, window": (
        Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
    ),
    "gemma 3, window": (
        Gemma3TextConfig,
        {"sliding_window": 6, "head_dim": 8, "query_pre_attn_scalar": 8},
    ),
}


@pytest.mark.parametrize("is_checkpointed", [False, True])
@pytest.mark.parametrize("layout", ["varlen", "trees", "flat", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_attention_of_variable_length_sees_what_a_sequence_alone_does(
    family: str, layout: Layout, is_checkpointed: bool
) -> None:
    """By the stand-in for torch's kernel, which runs on GPUs only."""
    kind, own = FAMILIES[family]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(kind(**{**SMALL, **own})).double()
    alone, gradient = scored(model, "padded", 1)
    varlen.register()
    model.set_attn_implementation(varlen.NAME)
    prepare_for_training(model, activation_checkpointing=is_checkpointed)
    got, other = scored(model, layout, 90)
    assert got.keys() == alone.keys()
    for row, values in alone.items():
        assert got[row] == pytest.approx(values, abs=1e-5)
    for ours, expected in zip(other, gradient, strict=True):
        assert (ours - expected).norm() <= 1e-5 * expected.norm()


def test_spans_give_every_place_its_prompt_and_itself() -> None:
    trees = grow_trees(rows()[:3] + rows()[4:6], 90)  # two of the first prompt, two of the second
    grid = lay_out([[*trees], trees[:1]]).grid
    spans = varlen.spans_of(grid)
    assert spans.cu_q[-1] == grid.token_ids_KL.numel()
    assert spans.key_places is not None
    assert len(spans.key_places) == spans.cu_k[-1]
    assert grid.sequence_KL is not None
    assert grid.response_KL is not None
    is_visible_KLL, length = visible(grid.sequence_KL, grid.response_KL), grid.token_ids_KL.size(1)
    queries, keys = spans.cu_q.tolist(), spans.cu_k.tolist()
    for (q0, q1), (k0, k1) in zip(pairwise(queries), pairwise(keys), strict=True):
        for place in range(q0, q1):
            seen = spans.key_places[k0 : k1 - q1 + place + 1]  # aligned at their ends
            lane, within = divmod(place, length)
            expected = lane * length + is_visible_KLL[lane, within].nonzero().flatten()
            assert seen.tolist() == expected.tolist()
    assert spans.max_q == max(b - a for a, b in pairwise(queries))
    assert spans.max_k == max(b - a for a, b in pairwise(keys))


def test_groups_of_heads_are_asked_for_where_torch_knows_the_argument(monkeypatch) -> None:
    import torch.nn.attention.varlen as torchs

    def of_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
        return {}

    def of_2_13(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, enable_gqa=False, **_):
        return {"enable_gqa": enable_gqa}

    for function, expected in ((of_2_11, {}), (of_2_13, {"enable_gqa": True})):
        monkeypatch.setattr(torchs, "varlen_attn", function)
        varlen._kernel.cache_clear()
        assert varlen._kernel()(*range(7), scale=1.0, window_size=(-1, 0)) == expected
    varlen._kernel.cache_clear()


@pytest.mark.parametrize(
    ("settings", "dtype", "reason"),
    [
        ({"head_dim": 64, "attn_logit_softcapping": 50.0}, torch.bfloat16, "caps its attention"),
        ({"hidden_size": 60, "num_attention_heads": 5}, torch.bfloat16, "heads of 12 values"),
        ({"head_dim": 512}, torch.bfloat16, "heads of 512 values"),
        ({"head_dim": 64}, torch.float32, "computes in float32"),
    ],
)
def test_models_without_that_attention_are_refused(settings, dtype, reason) -> None:
    with pytest.raises(ModelError, match=rf"{reason}.*; set learner\.attention sdpa"):
        varlen.check_varlen(settings, dtype, is_on_gpu=True)


def test_flat_lanes_restart_their_positions() -> None:
    """Variable-length attention reads the sequences off them; here SDPA does, by its mask."""
    model = tiny_model().double()
    (lanes,) = cut(grow_trees(rows(), 0), 10_000, "flat", hidden_size=16)
    micro = lay_out(lanes)
    assert micro.num_places == micro.num_tokens == sum(row.length for row in rows())
    assert micro.grid.position_ids_KL is not None
    assert int((micro.grid.position_ids_KL == 0).sum()) == 20
    got, _ = scored(model, "flat", 10_000)
    alone, _ = scored(model, "padded", 1)
    for row, values in alone.items():
        assert got[row] == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_check_at_the_start_passes_for_models_with_full_attention(layout: Layout) -> None:
    for model in (tiny_model(), LlamaForCausalLM(LlamaConfig(**SMALL))):
        engine = LocalEngine(PolicyModel(model), EngineSettings(LearnerSection()))
        check_packing(engine, layout, torch.float32, 60)


def test_the_check_at_the_start_finds_a_neighbour_that_is_seen(monkeypatch) -> None:
    def sees_all(sequence_KL: torch.Tensor, response_KL: torch.Tensor) -> torch.Tensor:
        length = sequence_KL.size(1)
        return torch.ones(len(response_KL), length, length, dtype=torch.bool).tril()

    engine = LocalEngine(PolicyModel(tiny_model()), EngineSettings(LearnerSection()))
    monkeypatch.setattr("coop_rl.models.policy.visible", sees_all)
    for layout in ("trees", "lanes", "flat"):
        with pytest.raises(ModelError, match=r"learner\.packing padded"):
            check_packing(engine, layout, torch.float32, 60)
    check_packing(engine, "padded", torch.float32, 60)


def with_window_in_text_config() -> Gemma3ForConditionalGeneration:
    text = {**SMALL, "head_dim": 8, "sliding_window": 16, "layer_types": ["sliding_attention"] * 2}
    seeing = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    seeing |= {"intermediate_size": 16, "image_size": 28, "patch_size": 14}
    return Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=seeing))


def gpt_neo() -> GPTNeoForCausalLM:
    local = {"attention_types": [[["global", "local"], 1]], "window_size": 16}
    return GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=VOCABULARY, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24,
            max_position_embeddings=256, initializer_range=0.3, **local,
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("build", "layouts"),
    [
        (lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=16)), ("trees", "lanes")),
        (with_window_in_text_config, ("trees", "lanes")),
        (gpt_neo, ("trees",)),
    ],
    ids=["Mistral", "Gemma 3 conditional", "GPT-Neo"],
)
def test_the_check_at_the_start_finds_a_window(
    build: Callable[[], PreTrainedModel], layouts: tuple[Layout, ...]
) -> None:
    """Rows shorter than the window would find none."""
    torch.manual_seed(0)
    engine = LocalEngine(PolicyModel(build()), EngineSettings(LearnerSection()))
    for layout in layouts:
        with pytest.raises(ModelError, match=r"a window only.* set learner\.packing padded"):
            check_packing(engine, layout, torch.float32, 60)
