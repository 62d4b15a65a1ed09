"""What we use of vLLM is in the GPU wheel of every accepted version: `make contracts`.

Signatures are read from the wheels' Python files; the sender of weights over NCCL is run from them,
against our source, with the broadcast replaced.
"""

import ast
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from packaging.requirements import Requirement

from coop_rl.config import load_config
from coop_rl.rollout.arguments import EngineDevice, engine_arguments, request_arguments
from coop_rl.types import SamplingSettings
from coop_rl.weights.source import (
    NCCL_BUFFER_BYTES,
    NUM_NCCL_BUFFERS,
    MergedWeightSource,
    VllmSource,
)
from tests.contracts.wheels import VERSIONS, definition, fields, parameters, run, unpacked
from tests.learner.test_export import Theta
from tests.support.stored_run import DEMO

TRANSFER = "distributed/weight_transfer"
SIGNATURES = [
    ("v1/engine/async_llm.py", "AsyncLLM.from_vllm_config", ["vllm_config", "disable_log_stats"]),
    ("v1/engine/async_llm.py", "AsyncLLM.generate", ["prompt", "sampling_params", "request_id"]),
    ("v1/engine/async_llm.py", "AsyncLLM.pause_generation", ["mode", "clear_cache"]),
    ("v1/engine/async_llm.py", "AsyncLLM.resume_generation", []),
    ("v1/engine/async_llm.py", "AsyncLLM.sleep", ["level", "mode"]),
    ("v1/engine/async_llm.py", "AsyncLLM.wake_up", ["tags"]),
    ("v1/engine/async_llm.py", "AsyncLLM.init_weight_transfer_engine", ["request"]),
    ("v1/engine/async_llm.py", "AsyncLLM.start_weight_update", []),
    ("v1/engine/async_llm.py", "AsyncLLM.update_weights", ["request"]),
    ("v1/engine/async_llm.py", "AsyncLLM.finish_weight_update", ["weight_version"]),
    ("v1/engine/async_llm.py", "AsyncLLM.update_weight_version", ["new_version"]),
    ("v1/engine/async_llm.py", "AsyncLLM.collective_rpc", ["method"]),
    ("v1/engine/async_llm.py", "AsyncLLM.shutdown", ["timeout"]),
    ("inputs/engine.py", "tokens_input", ["prompt_token_ids"]),
    (
        f"{TRANSFER}/factory.py",
        "WeightTransferEngineFactory.register_engine",
        ["name", "module_path_or_cls", "class_name"],
    ),
    (
        f"{TRANSFER}/factory.py",
        "WeightTransferTrainerFactory.trainer_init",
        ["init_info", "client", "source"],
    ),
    ("model_executor/model_loader/reload/layerwise.py", "initialize_layerwise_reload", ["model"]),
    (
        "model_executor/model_loader/reload/layerwise.py",
        "finalize_layerwise_processing",
        ["model", "model_config"],
    ),
    ("model_executor/model_loader/reload/layerwise.py", "get_layerwise_info", ["layer"]),
    ("model_executor/model_loader/mtp_validation.py", "disable_mtp_completeness_check", []),
    ("model_executor/layers/utils.py", "dispatch_cpu_unquantized_gemm", ["layer", "remove_weight"]),
]
FIELDS = [
    ("outputs.py", "CompletionOutput", {"token_ids", "logprobs", "finish_reason", "text"}),
    ("outputs.py", "CompletionOutput", {"weight_versions"}),
    ("config/weight_transfer.py", "WeightTransferConfig", {"backend"}),
    (f"{TRANSFER}/base.py", "WeightTransferInitRequest", {"init_info"}),
    (f"{TRANSFER}/base.py", "WeightTransferUpdateRequest", {"update_info"}),
    (
        "model_executor/model_loader/reload/types.py",
        "LayerReloadingInfo",
        {"loaded_weights", "load_numel"},
    ),
]
CLASSES = [
    ("v1/engine/exceptions.py", "EngineDeadError"),
    ("model_executor/model_loader/reload/layerwise.py", "finalize_layerwise_reload"),
    ("sampling_params.py", "RequestOutputKind"),
    ("model_executor/layers/vocab_parallel_embedding.py", "VocabParallelEmbedding"),
    ("model_executor/layers/vocab_parallel_embedding.py", "UnquantizedEmbeddingMethod"),
    ("v1/executor/uniproc_executor.py", "UniProcExecutor"),
]


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    if not unpacked(request.param).exists():
        pytest.skip(f"contracts: vLLM {request.param} is not fetched; `make contracts` does it")
    return str(request.param)


def test_pyproject_accepts_the_versions_held_here_and_none_beside() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    (wanted,) = (Requirement(r) for r in project["optional-dependencies"]["gpu"])
    assert wanted.name == "vllm"
    minors = [f"0.{n}.0" for n in range(20, 50)]
    assert tuple(wanted.specifier.filter(minors)) == VERSIONS


def test_names_and_signatures_we_use(version: str) -> None:
    for path, name, ours in SIGNATURES:
        assert set(ours) <= set(parameters(version, path, name)), f"{name} in {path}"
    for path, name, wanted in FIELDS:
        assert wanted <= fields(version, path, name), f"{name} in {path}"
    for path, name in CLASSES:
        definition(version, path, name)


def test_arguments_we_start_an_engine_and_a_request_with(version: str) -> None:
    config = load_config(DEMO, ["placement.colocated=true", "placement.rollout.gpus=0.4"])
    given = set(engine_arguments(config, EngineDevice("H100", 80.0))) | {"weight_transfer_config"}
    assert given <= fields(version, "engine/arg_utils.py", "EngineArgs")
    sampling = SamplingSettings(num_samples=1, temperature=1.0, top_p=1.0, max_tokens=8, seed=0)
    ours = set(request_arguments(sampling, 8, 1))
    assert ours <= fields(version, "sampling_params.py", "SamplingParams")


def test_our_receiver_implements_what_the_base_class_asks_for(version: str) -> None:
    base = definition(version, f"{TRANSFER}/base.py", "WeightTransferEngine")
    asked = {
        node.name
        for node in base.body
        if isinstance(node, ast.FunctionDef)
        and "abstractmethod" in [getattr(d, "id", "") for d in node.decorator_list]
    }
    text = (Path(__file__).parents[2] / "coop_rl/weights/gloo_engine.py").read_text()
    assert asked
    assert [name for name in asked if f"def {name}(" not in text] == []


class Client:
    """Remembers the calls of a sender."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def start_weight_update(self) -> None:
        self.calls.append("start")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.calls.append(update_info)

    def finish_weight_update(self) -> None:
        self.calls.append("finish")


def sender_of(version: str, sent: list[Any]) -> Any:
    """Return the wheel's own NCCL sender; what it would broadcast goes into `sent`."""
    bases: tuple[str, ...] = ("ParamMeta", "TrainerInitInfo", "TrainerWeightTransferEngine")
    if version != "0.32.0":
        bases = ("Replicate", "Shard", *bases)
    generics = "TInitInfo", "TUpdateInfo", "TTrainerInitInfo"
    given: dict[str, Any] = {name: TypeVar(name) for name in generics}
    base = run(version, f"{TRANSFER}/base.py", (*bases, "WeightTransferUpdateInfo"), given)

    def broadcast(iterator: Any, post_iter_func: Any, **_: Any) -> None:
        sent.extend((pair[0], post_iter_func(pair)) for pair in iterator)

    names = {
        "DEFAULT_PACKED_BUFFER_SIZE_BYTES": 1,
        "DEFAULT_PACKED_NUM_BUFFERS": 2,
        "packed_nccl_broadcast_producer": broadcast,
    }
    ours = "NCCLTrainerInitInfo", "NCCLWeightTransferUpdateInfo", "NCCLTrainerWeightTransferEngine"
    return run(version, f"{TRANSFER}/nccl_engine.py", ours, {**vars(base), **names})


@pytest.mark.parametrize("is_sender", [True, False])
def test_the_wheels_sender_sends_what_our_source_declares(version: str, is_sender: bool) -> None:
    theta = Theta({"a.weight": torch.ones(2, 3), "b.weight": torch.zeros(4)})
    source, client = VllmSource(MergedWeightSource(theta, None, torch.bfloat16)), Client()
    sent: list[tuple[str, torch.Tensor]] = []
    module = sender_of(version, sent)
    info = module.NCCLTrainerInitInfo(
        "127.0.0.1",
        1,
        3,
        rank=1 - is_sender,
        packed_buffer_size_bytes=NCCL_BUFFER_BYTES,
        packed_num_buffers=NUM_NCCL_BUFFERS,
    )
    assert (info.master_port, info.world_size, info.is_sender) == (1, 3, is_sender)
    sender = module.NCCLTrainerWeightTransferEngine(
        client=client, source=source, is_sender=is_sender, packed=True
    )
    sender.model_update_group = object()
    for _ in range(2):
        sender.send_weights()
    if not is_sender:
        assert (sent, client.calls) == ([], [])
        return
    declared = [(s.name, s.dtype, s.shape) for s in source.metadata]
    assert [(n, t.dtype, tuple(t.shape)) for n, t in sent] == declared * 2
    assert [c for c in client.calls if isinstance(c, str)] == ["start", "finish"] * 2
    first = next(c for c in client.calls if isinstance(c, dict))
    assert (first["names"], first["dtype_names"]) == (["a.weight", "b.weight"], ["bfloat16"] * 2)


def test_the_wheels_init_accepts_our_source(version: str) -> None:
    theta = Theta({"a.weight": torch.ones(2, 3)})
    source = VllmSource(MergedWeightSource(theta, None, torch.bfloat16))
    module = sender_of(version, [])
    info = module.NCCLTrainerInitInfo("127.0.0.1", 1, 2, rank=1)  # only rank 0 opens a port
    engine = module.NCCLTrainerWeightTransferEngine.trainer_init(
        info, client=Client(), source=source
    )
    assert engine.source is source
