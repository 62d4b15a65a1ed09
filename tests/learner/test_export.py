"""What an exported folder holds is what a weight sync sends, and computes what the learner does."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from coop_rl.config import load_config
from coop_rl.errors import ConfigError, RunDirectoryError
from coop_rl.learner import export
from coop_rl.learner.export import StoredPolicy, export_cached, write_model, writing
from coop_rl.learner.export_adapter import low_rank, write_base_and_adapter, write_low_rank
from coop_rl.models import checkpoint_name
from coop_rl.weights.source import MergedWeightSource
from tests.models.tiny import random_rows, save_tiny, to_grid
from tests.support.stored_run import DEMO, Stored, store_run

TOKENS_KL = to_grid(random_rows()).token_ids_KL


class Theta:
    """Named tensors as `MergedWeightSource` reads them."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors = tensors

    def metadata(self) -> list[tuple[str, tuple[int, ...]]]:
        return [(name, tuple(tensor.shape)) for name, tensor in self.tensors.items()]

    def __iter__(self):
        return iter(self.tensors.items())


def run(tmp_path: Path, *overrides: str) -> Stored:
    base = save_tiny(tmp_path / "base")
    return store_run(tmp_path / "run", f"model.path={base}", "adapter.rank=3", *overrides)


def merged(stored: Stored, folder: Path) -> Path:
    policy = StoredPolicy.open(stored.config, stored.checkpoint)
    with writing(folder) as side:
        write_model(side, stored.config, policy, policy.merged)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["bridge", "rl", "lspo"])
def test_merged_and_rounded_like_a_weight_sync(tmp_path: Path, kind: str, dtype: str) -> None:
    stored = run(tmp_path, f"method.kind={kind}", f"rollout.dtype={dtype}")
    folder = merged(stored, tmp_path / "out")
    wire = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    theta = {checkpoint_name(n): t.detach() for n, t in stored.policy.named_parameters()}
    sent = dict(MergedWeightSource(Theta(theta), stored.adapter, wire))
    found = load_file(folder / "model.safetensors")
    assert found.keys() == sent.keys()
    assert all(torch.equal(found[name], sent[name]) for name in sent)
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert all(torch.equal(t, sent[name]) for name, t in loaded.named_parameters())
    assert json.loads((folder / "config.json").read_text())["dtype"] == dtype
    if dtype == "float32":
        logits = loaded(TOKENS_KL).logits
        torch.testing.assert_close(logits, stored.logits(TOKENS_KL), rtol=0, atol=1e-5)


def test_shards_and_the_other_files_of_the_base(tmp_path: Path, monkeypatch) -> None:
    stored = run(tmp_path)
    base = tmp_path / "base"
    (base / "generation_config.json").unlink(missing_ok=True)
    for name in ("tokenizer.json", "chat_template.jinja", "README.md", "pytorch_model.bin"):
        (base / name).write_text(name)
    monkeypatch.setattr(export, "MAX_SHARD_BYTES", 5000)
    folder = merged(stored, tmp_path / "out")
    names = {path.name for path in folder.iterdir()}
    assert {"tokenizer.json", "chat_template.jinja", "generation_config.json"} < names
    assert not {"README.md", "pytorch_model.bin"} & names
    assert sum(name.endswith(".safetensors") for name in names) > 3
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    torch.testing.assert_close(
        loaded(TOKENS_KL).logits, stored.logits(TOKENS_KL), rtol=0, atol=1e-5
    )


def test_peft_on_the_trained_base_computes_what_the_learner_does(tmp_path: Path) -> None:
    stored, folder = run(tmp_path), tmp_path / "out"
    folder.mkdir()
    policy = StoredPolicy.open(stored.config, stored.checkpoint)
    write_base_and_adapter(folder, stored.config, policy, folder, None)
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype="auto")
    named = json.loads((folder / "adapter/adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(folder / "base")
    loaded = PeftModel.from_pretrained(base, folder / "adapter")
    wanted = stored.logits(TOKENS_KL)
    torch.testing.assert_close(loaded(TOKENS_KL).logits, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", [2, 40])
def test_low_rank_factors_say_what_they_leave_out(tmp_path: Path, rank: int) -> None:
    stored, folder = run(tmp_path), tmp_path / "out"
    policy = StoredPolicy.open(stored.config, stored.checkpoint)
    error = write_low_rank(folder, stored.config, policy, rank)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    start = {name: tensor.clone() for name, tensor in base.named_parameters()}
    loaded = PeftModel.from_pretrained(base, folder).merge_and_unload()
    wanted = dict(policy.merged(list(policy.shapes)))

    @torch.no_grad()
    def distance(one, other) -> torch.Tensor:
        return torch.cat([(one[name] - other[name]).flatten() for name in wanted]).norm()

    left, way = distance(wanted, dict(loaded.named_parameters())), distance(wanted, start)
    assert error.relative == pytest.approx(float(left / way), rel=1e-3)
    assert (error.relative == pytest.approx(error.outside, rel=1e-3)) == (rank == 40)


def test_factors_are_the_best_of_their_rank() -> None:
    matrix_OI = torch.randn(30, 50, generator=torch.Generator().manual_seed(0))
    b_OR, a_RI = low_rank(matrix_OI, 4)
    best = torch.linalg.svdvals(matrix_OI)[4:].square().sum().sqrt()
    assert float((matrix_OI - b_OR @ a_RI).norm()) == pytest.approx(float(best), rel=1e-3)


@pytest.mark.parametrize(("kind", "why"), [("rl", "trains no adapter"), ("lspo", "a scaffold")])
def test_a_policy_without_w_has_no_adapter(tmp_path: Path, kind: str, why: str) -> None:
    stored = run(tmp_path, f"method.kind={kind}")
    policy = StoredPolicy.open(stored.config, stored.checkpoint)
    with pytest.raises(ConfigError, match=f"{why}.*--adapter --rank R"):
        write_base_and_adapter(tmp_path, stored.config, policy, tmp_path, None)


def test_evaluations_write_a_checkpoint_once(tmp_path: Path) -> None:
    stored, exports = run(tmp_path), tmp_path / "exports"
    folder = export_cached(stored.config, stored.checkpoint, "a" * 64, exports)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert export_cached(stored.config, stored.checkpoint, "a" * 64, exports) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    other = export_cached(stored.config, stored.checkpoint, "b" * 64, exports)
    assert set(exports.iterdir()) == {folder, other}


def test_a_failure_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="holds no state"):
        export_cached(load_config(DEMO), tmp_path, "a" * 64, tmp_path / "exports")
    with pytest.raises(RunDirectoryError, match="disk full; make room"):  # noqa: SIM117
        with writing(tmp_path / "exports/a"):
            raise OSError("disk full")
    assert not list(tmp_path.iterdir())
