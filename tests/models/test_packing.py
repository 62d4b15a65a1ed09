"""Packing changes no log-prob and no gradient, whatever lies beside and behind a sequence."""

from collections.abc import Callable

import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from coop_rl.algorithm.lanes import BatchRow, Layout, cut, grow_trees, lay_out
from coop_rl.config.roles import LearnerSection
from coop_rl.errors import ModelError
from coop_rl.learner.engine import EngineSettings
from coop_rl.learner.packing_check import check_packing
from coop_rl.models import PolicyModel
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
    longest = limit if layout == "trees" else 0
    for lanes in cut(grow_trees(rows(), longest), limit, layout, hidden_size=10_000):
        micro = lay_out(lanes)
        log_prob_T = policy(*micro.grid).log_prob_T
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
