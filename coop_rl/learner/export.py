"""The policy in a checkpoint, theta + s*B*A, as a Hugging Face folder that engines can load.

Where w is a scaffold, the policy is theta.

    <run>/checkpoints/step-000060/joint/   theta in fp32, w flat   --merged, rounded once-->
    <folder>/                              model*.safetensors, the base model's other files

The same sum and rounding as a weight sync, so what is loaded is what the run's engines served.
`commands.export` writes a folder the user names, `commands.evaluate` one inside the run.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from transformers import PreTrainedModel

from coop_rl.config import RunConfig
from coop_rl.config.sizes import has_adapter, has_scaffold
from coop_rl.data.model_folder import local_folder
from coop_rl.errors import RunDirectoryError
from coop_rl.files import remove_empty, rewriting
from coop_rl.learner.engine import MASTER
from coop_rl.learner.state import ADAPTER_KEY
from coop_rl.learner.state_io import StateReader
from coop_rl.models import DTYPES, Adapter, adapter_shapes, load_skeleton

JOINT = "joint"
MAX_SHARD_BYTES = 5 * 10**9
NOT_COPIED = (
    *("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth"),
    *("*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ckpt", "README.md", ".*"),
)
"""Files of the base model that are not the policy's: weights of any format, and its card."""
NamedTensors = Iterator[tuple[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """theta and w of a checkpoint, read tensor by tensor."""

    reader: StateReader
    skeleton: PreTrainedModel
    """The base model without weights: names and shapes."""
    adapter: Adapter | None
    """w where it is a part of the policy."""

    @classmethod
    def open(cls, config: RunConfig, checkpoint: Path) -> "StoredPolicy":
        """Open a committed step-* folder of the run with this config.

        Raises:
            RunDirectoryError: The checkpoint holds no policy.
            ModelError: The base model is gone.
        """
        reader = StateReader(checkpoint / JOINT)
        skeleton, adapter = load_skeleton(config.model.path), None
        if has_adapter(config) and not has_scaffold(config):
            section = config.adapter
            shapes = adapter_shapes(skeleton, section.targets)
            adapter = Adapter(shapes, rank=section.rank, alpha=section.alpha, seed=0)
            for _, flat in reader.read([ADAPTER_KEY]):
                adapter.load_flat(flat)
        return cls(reader, skeleton, adapter)

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shape of each weight by its checkpoint name."""
        keys = (key for key in self.reader.names if key.startswith(MASTER))
        names = (key.removeprefix(MASTER) for key in keys)
        return {name: self.skeleton.get_parameter(name).shape for name in names}

    def theta(self, names: Sequence[str]) -> NamedTensors:
        """Yield weights of theta, fp32."""
        for key, tensor in self.reader.read([MASTER + name for name in names]):
            yield key.removeprefix(MASTER), tensor

    def merged(self, names: Sequence[str]) -> NamedTensors:
        """Yield weights of theta + s*B*A, fp32."""
        for name, theta in self.theta(names):
            yield name, self.adapter.merge(name, theta) if self.adapter else theta


def export_cached(config: RunConfig, checkpoint: Path, digest: str, exports: Path) -> Path:
    """Write the merged policy of `checkpoint` into a folder of `exports`, if it is not there yet.

    Args:
        config: The run that wrote the checkpoint.
        checkpoint: A committed step-* folder.
        digest: Of its content; the name of the model folder ends in the start of it.
        exports: The folder of all exported models; made when missing.

    Returns:
        The model folder; it is put in place once it is complete.

    Raises:
        RunDirectoryError: The checkpoint holds no policy, or the folder cannot be written.
        ModelError: The base model is gone.
    """
    folder = exports / f"{checkpoint.name}-{digest[:8]}"
    if not folder.is_dir():
        stored = StoredPolicy.open(config, checkpoint)
        with writing(folder) as side:
            write_model(side, config, stored, stored.merged)
    return folder


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """Yield where to write a model's folder, which is `folder` on leaving; a failure leaves none.

    Raises:
        RunDirectoryError: It cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with rewriting(folder) as side:
            side.mkdir()
            yield side
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write the model {folder}: {error.strerror or error}; make room there"
        ) from None
    finally:
        remove_empty(folder.parent)


def write_model(
    folder: Path,
    config: RunConfig,
    stored: StoredPolicy,
    weights: Callable[[Sequence[str]], NamedTensors],
    dtype: str | None = None,
) -> None:
    """Write weights, in shards, beside the base model's other files.

    Args:
        folder: An existing, empty folder.
        config: The run's.
        stored: The checkpoint.
        weights: `stored.merged`, or `stored.theta`.
        dtype: Type of the weights, and of config.json; None: what the run's engines served.
    """
    named = dtype or config.rollout.dtype
    type_ = DTYPES[named]
    base = _base_folder(config.model.path)
    for file in base.iterdir():
        if file.is_file() and not any(file.match(pattern) for pattern in NOT_COPIED):
            shutil.copyfile(file, folder / file.name)
    _set_dtype(folder / "config.json", named)
    if not (folder / "generation_config.json").is_file() and stored.skeleton.generation_config:
        stored.skeleton.generation_config.save_pretrained(folder)
    # Without data: only sizes and names are asked for.
    sizes = {name: torch.empty(s, dtype=type_, device="meta") for name, s in stored.shapes.items()}
    plan = split_torch_state_dict_into_shards(sizes, max_shard_size=MAX_SHARD_BYTES)
    for name, keys in plan.filename_to_tensors.items():
        shard = {key: tensor.to(type_).contiguous() for key, tensor in weights(keys)}
        save_file(shard, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o644)  # safetensors keeps a file to its owner
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _set_dtype(path: Path, dtype: str) -> None:
    """Let config.json name the type that the weights have; `torch_dtype` is its former key."""
    values = json.loads(path.read_text(encoding="utf-8"))
    for section in (values, *(v for v in values.values() if isinstance(v, dict))):
        if section.pop("torch_dtype", None) or "dtype" in section or section is values:
            section["dtype"] = dtype
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _base_folder(model: str) -> Path:
    folder = local_folder(model)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download  # only hub ids need it

    return Path(snapshot_download(model, ignore_patterns=list(NOT_COPIED)))
