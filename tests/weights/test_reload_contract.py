"""What the reload uses of vLLM 0.32 still is what it takes it for."""

import inspect
from dataclasses import fields

import torch
from vllm.model_executor.layers import utils, vocab_parallel_embedding
from vllm.model_executor.model_loader import reload
from vllm.model_executor.model_loader.reload import layerwise
from vllm.model_executor.model_loader.reload.types import LayerReloadingInfo

from coop_rl.weights.reload import parts_without


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_layerwise_reload_works_on_any_part_of_a_model() -> None:
    assert parameters(reload.initialize_layerwise_reload) == ["model"]
    assert parameters(layerwise.finalize_layerwise_processing) == ["model", "model_config"]
    assert {"loaded_weights", "load_numel"} <= {field.name for field in fields(LayerReloadingInfo)}
    # Every layer of what it is given, and none outside.
    assert "for layer in model.modules():" in inspect.getsource(reload.initialize_layerwise_reload)


def test_plain_embeddings_keep_their_weight_and_multiply_with_a_packed_one() -> None:
    method = vocab_parallel_embedding.UnquantizedEmbeddingMethod
    assert "dispatch_cpu_unquantized_gemm(layer, remove_weight=False)" in inspect.getsource(
        method.process_weights_after_loading
    )
    assert "F.embedding(input_, layer.weight)" in inspect.getsource(method.embedding)
    assert "layer.weight = embed_tokens.weight" in inspect.getsource(method.tie_weights)
    # Loading a whole weight of the same shape is a copy.
    loader = inspect.getsource(vocab_parallel_embedding.VocabParallelEmbedding.weight_loader)
    assert "param[: loaded_weight.shape[0]].data.copy_(loaded_weight)" in loader
    initialiser = inspect.getsource(vocab_parallel_embedding.VocabParallelEmbedding.__init__)
    assert "self.tp_size" in initialiser


def test_packed_product_serves_every_module_with_that_weight() -> None:
    assert parameters(utils.dispatch_cpu_unquantized_gemm) == ["layer", "remove_weight"]
    first, second = (torch.nn.Linear(32, 64, bias=False) for _ in range(2))
    second.weight = first.weight
    with torch.no_grad():
        utils.dispatch_cpu_unquantized_gemm(first, remove_weight=False)
        setattr(second, "cpu_linear", first.cpu_linear)  # noqa: B010
        input_3I = torch.randn(3, 32)
        product = utils.cpu_unquantized_gemm(second, input_3I, second.weight, None)
    torch.testing.assert_close(product, input_3I @ first.weight.detach().T)


def test_parts_are_the_largest_without_what_is_excluded() -> None:
    embedding, layers, norm = torch.nn.Embedding(2, 2), torch.nn.ModuleList(), torch.nn.LayerNorm(2)
    layers.append(torch.nn.Linear(2, 2))
    inner = torch.nn.ModuleDict({"embed": embedding, "layers": layers, "norm": norm})
    head = torch.nn.Linear(2, 2)
    model = torch.nn.ModuleDict({"model": inner, "head": head})
    assert list(parts_without(model, {embedding, head})) == [layers, norm]
    assert list(parts_without(model, set())) == [model]
