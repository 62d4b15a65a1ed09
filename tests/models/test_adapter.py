"""The adapter: merged equals hooked, export equals PEFT, same seed equals same start."""

import pytest
import torch

from coop_rl.errors import ConfigError, VersionError
from coop_rl.models import Adapter, adapter_shapes, load_causal_lm, load_skeleton
from coop_rl.models.merged_linear import MergedLinear
from coop_rl.models.peft_folder import save_peft
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


def test_switched_off_it_is_not_there() -> None:
    token_ids_KL = to_grid(random_rows()).token_ids_KL
    model = tiny_model()
    base = model(token_ids_KL).logits
    adapter = random_adapter(model)
    adapter.attach(model)
    adapter.is_on = False
    assert torch.equal(model(token_ids_KL).logits, base)
    theta = model.get_parameter("model.layers.0.self_attn.q_proj.weight")
    assert adapter.merge("model.layers.0.self_attn.q_proj.weight", theta) is theta
    with adapter.switched_on():
        assert (model(token_ids_KL).logits - base).abs().max() > 0.1
    assert not adapter.is_on


def test_peft_loads_the_export_to_the_same_logits(tmp_path) -> None:
    from peft import PeftModel

    path = save_tiny(tmp_path / "base")
    model = load_causal_lm(path, torch.float64)
    drawn = random_adapter(model, ("q_proj", "down_proj"))
    adapter = Adapter(drawn.shapes, rank=3, alpha=6.0, seed=5, dtype=torch.float64)
    adapter.load_flat(drawn.flatten())
    adapter.attach(model)
    save_peft(adapter.tensors, tmp_path / "peft", base=path, rank=3, alpha=6.0)
    base = load_causal_lm(path, torch.float64)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "peft")).double()
    token_ids_KL = to_grid(random_rows()).token_ids_KL
    torch.testing.assert_close(
        loaded(token_ids_KL).logits, model(token_ids_KL).logits, rtol=1e-10, atol=1e-10
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


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_merged_layer_has_the_gradients_of_two_layers_beside_it(*, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(3)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    x, weight, a, b = leaf(2, 5, 7), leaf(4, 7), leaf(3, 7), leaf(4, 3)
    bias = leaf(4) if has_bias else None
    leaves = [tensor for tensor in (x, weight, bias, a, b) if tensor is not None]
    apart = torch.nn.functional.linear(x, weight, bias) + 1.7 * (x @ a.T @ b.T)
    merged = MergedLinear.apply(x, weight, bias, a, b, 1.7)
    upstream = torch.randn(apart.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(merged, apart, rtol=1e-12, atol=1e-12)
    wanted = torch.autograd.grad(apart, leaves, upstream)
    found = torch.autograd.grad(merged, leaves, upstream)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_small_w_is_not_lost_on_the_grid_of_bf16_weights() -> None:
    """Each entry of s*B*A is a thousandth of W's, which has 8 bits; together they count."""
    layer = torch.nn.Linear(256, 1, bias=False, dtype=torch.bfloat16)
    adapter = Adapter({"0": (1, 256)}, rank=1, alpha=1.0, seed=0)
    with torch.no_grad():
        layer.weight[:, :128], layer.weight[:, 128:] = 1.0, -1.0
        adapter.tensors["0.lora_A"].fill_(1e-3)
        adapter.tensors["0.lora_B"].fill_(1.0)
    assert torch.equal(adapter.merge("0.weight", layer.weight.float()).bfloat16(), layer.weight)
    adapter.attach(torch.nn.Sequential(layer))
    got = layer(torch.ones(1, 256, dtype=torch.bfloat16))
    assert got.item() == pytest.approx(0.256, rel=0.01)


def test_targets_that_fit_nothing_are_named() -> None:
    with pytest.raises(ConfigError, match=r"wq.*allowed: .*q_proj"):
        adapter_shapes(tiny_model(), ("q_proj", "wq"))
