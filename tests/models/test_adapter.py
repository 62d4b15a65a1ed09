"""The adapter: merged equals hooked, export equals PEFT, same seed equals same start."""

import pytest
import torch

from coop_rl.errors import ConfigError, VersionError
from coop_rl.models import Adapter, adapter_shapes, load_causal_lm, load_skeleton, save_peft
from tests.models.tiny import TARGETS, random_rows, save_tiny, tiny_model, to_grid


def random_adapter(model: torch.nn.Module, targets: tuple[str, ...] = TARGETS) -> Adapter:
    adapter = Adapter(adapter_shapes(model, targets), rank=3, alpha=6.0, seed=5)
    adapter.load_flat(
        torch.randn(adapter.numel(), generator=torch.Generator().manual_seed(7)) * 0.2
    )
    return adapter


def test_merged_weights_give_the_hooked_logits() -> None:
    token_ids_KL = to_grid(random_rows()).token_ids_KL
    model = tiny_model()
    base = model(token_ids_KL).logits
    adapter = random_adapter(model)
    adapter.attach(model)
    hooked = model(token_ids_KL).logits
    assert (hooked - base).abs().max() > 0.1
    merged = tiny_model()
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            parameter.copy_(adapter.merge(name, parameter))
    torch.testing.assert_close(merged(token_ids_KL).logits, hooked, rtol=1e-5, atol=1e-5)
    embedding = torch.rand(3, 2)
    assert adapter.merge("model.embed_tokens.weight", embedding) is embedding


def test_peft_loads_the_export_to_the_same_logits(tmp_path) -> None:
    from peft import PeftModel

    path = save_tiny(tmp_path / "base")
    model = load_causal_lm(path, torch.float32)
    adapter = random_adapter(model, ("q_proj", "down_proj"))
    adapter.attach(model)
    save_peft(adapter, tmp_path / "peft", path)
    base = load_causal_lm(path, torch.float32)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "peft"))
    token_ids_KL = to_grid(random_rows()).token_ids_KL
    torch.testing.assert_close(
        loaded(token_ids_KL).logits, model(token_ids_KL).logits, rtol=1e-5, atol=1e-6
    )


def test_the_same_seed_gives_the_same_start_without_weights(tmp_path) -> None:
    path = save_tiny(tmp_path / "base")
    shapes = adapter_shapes(load_causal_lm(path, torch.float32), TARGETS)
    assert adapter_shapes(load_skeleton(path), TARGETS) == shapes
    one, two = (Adapter(shapes, rank=4, alpha=4.0, seed=3) for _ in range(2))
    assert torch.equal(one.flatten(), two.flatten())
    other = Adapter(shapes, rank=4, alpha=4.0, seed=4)
    assert not torch.equal(one.flatten(), other.flatten())
    for name, shape in shapes.items():
        theta = torch.rand(shape)
        assert torch.equal(one.merge(f"{name}.weight", theta), theta)
    assert "model.layers.0.self_attn.q_proj.lora_A" in one.tensors


def test_flat_round_trip_and_hooks_read_the_current_values() -> None:
    model = tiny_model()
    adapter = random_adapter(model)
    adapter.attach(model)
    token_ids_KL = to_grid(random_rows()).token_ids_KL
    before, flat = model(token_ids_KL).logits, adapter.flatten()
    adapter.load_flat(torch.zeros_like(flat))
    assert adapter.norm() == 0
    assert not torch.equal(model(token_ids_KL).logits, before)
    adapter.load_flat(flat)
    assert torch.equal(model(token_ids_KL).logits, before)
    assert adapter.norm() == pytest.approx(float(flat.norm()), rel=1e-6)
    with pytest.raises(VersionError, match="values"):
        adapter.load_flat(flat[:-1])


def test_gradients_are_apart_from_the_module_s() -> None:
    model = tiny_model()
    num_parameters = sum(1 for _ in model.parameters())
    adapter = random_adapter(model)
    adapter.attach(model)
    assert sum(1 for _ in model.parameters()) == num_parameters
    assert all(not g.any() for g in adapter.gradients().values())
    model(to_grid(random_rows()).token_ids_KL).logits.sum().backward()
    assert all(g.any() for g in adapter.gradients().values())
    adapter.zero_grad()
    assert all(not g.any() for g in adapter.gradients().values())


def test_targets_that_fit_nothing_are_named() -> None:
    with pytest.raises(ConfigError, match=r"wq.*allowed: .*q_proj"):
        adapter_shapes(tiny_model(), ("q_proj", "wq"))
    with pytest.raises(ConfigError, match="lm_head"):
        adapter_shapes(tiny_model(), ("lm_head",))
