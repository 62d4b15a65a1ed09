"""What we use of vLLM's NCCL pair, which needs GPUs to run, still has the names we use."""

import dataclasses
import inspect

import pytest

vllm_nccl = pytest.importorskip("vllm.distributed.weight_transfer.nccl_engine")


def field_names(cls):
    return {field.name for field in dataclasses.fields(cls)}


def test_trainer_init_info_has_our_fields():
    assert vllm_nccl.NCCLTrainerInitInfo.backend == "nccl"
    assert {"rank", "master_address", "master_port", "world_size"} <= field_names(
        vllm_nccl.NCCLTrainerInitInfo
    )


def test_we_build_it():
    from coop_rl.weights.nccl_sender import init_info

    info = init_info(3, "127.0.0.1", 3)
    assert (info.rank, info.world_size, info.master_address) == (3, 3, "127.0.0.1")
    assert not info.is_sender


def test_client_shifts_rank_offset_of_the_worker_info():
    info = vllm_nccl.NCCLWeightTransferInitInfo
    assert {"rank_offset", "world_size", "master_address", "master_port"} <= field_names(info)


def test_factories_know_the_backends():
    from vllm.distributed.weight_transfer import factory

    from coop_rl.weights.plugin import BACKEND_NAME, register

    register()
    register()
    assert {"nccl", BACKEND_NAME} <= set(factory.WeightTransferEngineFactory._registry)
    # Ours needs no vLLM to send.
    assert "nccl" in factory.WeightTransferTrainerFactory._registry


def test_sender_calls_the_four_client_methods_only():
    source = inspect.getsource(vllm_nccl.NCCLTrainerWeightTransferEngine)
    calls = {part.split("(")[0].split(",")[0] for part in source.split("client.")[1:]}
    assert calls == {
        "init_weight_transfer_engine",
        "start_weight_update",
        "update_weights",
        "finish_weight_update",
    }
    # Without arguments: the version that is stamped is the client's own.
    assert "self.client.finish_weight_update()" in source
