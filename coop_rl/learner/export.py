"""The policy in a checkpoint, theta + s*B*A, as a Hugging Face folder that engines can load.

Where w is a scaffold, the policy is theta.

    <run>/checkpoints/step-000060/joint/   theta in fp32, w flat   --merged, rounded once-->
    <run>/exports/step-000060-1f3a9c02/    model.safetensors, the base model's other files

The same sum and rounding as a weight sync, so what is loaded is what the run's engines served.
"""

import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from coop_rl.config import RunConfig
from coop_rl.config.sizes import has_adapter, has_scaffold
from coop_rl.data.model_folder import local_folder
from coop_rl.errors import RunDirectoryError
from coop_rl.files import rewriting
from coop_rl.learner.engine import MASTER
from coop_rl.learner.state import ADAPTER_KEY
from coop_rl.learner.state_io import StateReader
from coop_rl.models import DTYPES, Adapter, adapter_shapes, load_skeleton

JOINT = "joint"
WEIGHT_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "*.bin.index.json",
    "*.pt",
    "*.gguf",
)


def export_policy(config: RunConfig, checkpoint: Path, digest: str, exports: Path) -> Path:
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
    reader = StateReader(checkpoint / JOINT)
    folder = exports / f"{checkpoint.name}-{digest[:8]}"
    if folder.is_dir():
        return folder
    try:
        exports.mkdir(exist_ok=True)
        with rewriting(folder) as side:
            shutil.copytree(
                _base_folder(config.model.path),
                side,
                ignore=shutil.ignore_patterns(*WEIGHT_FILES, ".*"),
            )
            path = side / "model.safetensors"
            save_file(_merged(config, reader), path, metadata={"format": "pt"})
    except OSError as error:
        raise RunDirectoryError(
            f"cannot write the model {folder}: {error.strerror or error}; make room there"
        ) from None
    return folder


def _merged(config: RunConfig, reader: StateReader) -> dict[str, torch.Tensor]:
    adapter = None
    if has_adapter(config) and not has_scaffold(config):
        shapes = adapter_shapes(load_skeleton(config.model.path), config.adapter.targets)
        section = config.adapter
        adapter = Adapter(shapes, rank=section.rank, alpha=section.alpha, seed=0)
        for _, flat in reader.read([ADAPTER_KEY]):
            adapter.load_flat(flat)
    merged: dict[str, torch.Tensor] = {}
    for key, theta in reader.read(
        [key for key in reader.values["tensors"] if key.startswith(MASTER)]
    ):
        name = key.removeprefix(MASTER)
        policy = adapter.merge(name, theta) if adapter else theta
        merged[name] = policy.to(DTYPES[config.rollout.dtype]).contiguous()
    return merged


def _base_folder(model: str) -> Path:
    folder = local_folder(model)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download  # only hub ids need it

    return Path(snapshot_download(model, ignore_patterns=list(WEIGHT_FILES)))
