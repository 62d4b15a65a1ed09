"""What an exported folder holds is what a weight sync sends."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from coop_rl.config import load_config
from coop_rl.errors import RunDirectoryError
from coop_rl.learner.export import export_policy
from coop_rl.learner.state_io import StateWriter
from coop_rl.models import Adapter, adapter_shapes
from coop_rl.weights.source import MergedWeightSource
from tests.models.tiny import save_tiny, tiny_model

DEMO = Path(__file__).parents[2] / "configs/local/demo.yaml"


class Theta:
    """Named tensors as `MergedWeightSource` reads them."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def metadata(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(name, tuple(tensor.shape)) for name, tensor in self.tensors.items()]

    def __iter__(self):
        return iter(self.tensors.items())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["bridge", "rl", "lspo"])
def test_merged_and_rounded_like_a_weight_sync(tmp_path: Path, kind: str, dtype: str) -> None:
    base = save_tiny(tmp_path / "base")
    config = load_config(
        DEMO, [f"model.path={base}", f"method.kind={kind}", f"rollout.dtype={dtype}"]
    )
    trained = dict(tiny_model(seed=5).named_parameters())
    model = tiny_model()
    adapter = None
    writer = StateWriter(tmp_path / "step-000003/joint")
    for name, tensor in trained.items():
        writer.add(f"master/{name}", tensor)
        writer.add(f"exp_avg/{name}", tensor)
    if kind != "rl":
        shapes = adapter_shapes(model, config.adapter.targets)
        adapter = Adapter(shapes, rank=config.adapter.rank, alpha=config.adapter.alpha, seed=0)
        adapter.load_flat(torch.randn(adapter.numel(), generator=torch.Generator().manual_seed(1)))
        adapter.is_on = kind == "bridge"  # a scaffold is no part of the policy
        writer.add("adapter", adapter.flatten())
    writer.finish({"theta": 3, "adapter": 2})

    checkpoint = tmp_path / "step-000003"
    folder = export_policy(config, checkpoint, "a" * 64, tmp_path / "exports")
    wire = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    sent = dict(MergedWeightSource(Theta(trained), adapter, wire))
    found = load_file(folder / "model.safetensors")
    assert found.keys() == sent.keys()
    assert all(torch.equal(found[name], sent[name]) for name in sent)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=wire)
    assert all(torch.equal(t, sent[name]) for name, t in loaded.named_parameters())

    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert export_policy(config, checkpoint, "a" * 64, tmp_path / "exports") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    other = export_policy(config, checkpoint, "b" * 64, tmp_path / "exports")
    assert set((tmp_path / "exports").iterdir()) == {folder, other}


def test_a_folder_without_a_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="holds no state"):
        export_policy(load_config(DEMO), tmp_path, "a" * 64, tmp_path / "out")
