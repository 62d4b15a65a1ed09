"""What can be checked of a model without loading it: folder, weights, context, vocabulary.

`load`, `rendering` and `commands.checks` call it before anything starts, `planning.shape` for what
a run takes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coop_rl.config.run import ModelSection
from coop_rl.data.model_limits import PLAIN_TYPES
from coop_rl.errors import ModelError

CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
"""Names of the context length in config.json, most usual first."""
HIDDEN_FIELDS = ("hidden_size", "n_embd", "d_model")
USUAL_HIDDEN_SIZE = 1024
PATTERN_CHARACTERS = "*?["


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Sizes that data and batches are fitted to."""

    max_length: int
    """Context in tokens: prompt and response together."""
    vocab_size: int | None
    """Rows of the embedding; None where the config does not say."""
    hidden_size: int
    """Width of the residual stream; a usual one where the config does not say."""


def local_folder(model: str) -> Path | None:
    """Return the folder `model` names, or None for a hub id.

    Checked before the hub is asked: a mistyped path must not become a slow network error.

    Raises:
        ModelError: It is a path, and there is no such folder, or one whose name is a pattern.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        if found := set(str(path)) & set(PATTERN_CHARACTERS):
            raise ModelError(
                f"model.path {model} has {' and '.join(sorted(found))}, with which vLLM finds no "
                "weights: it takes them for a pattern; rename the folder, or link to it"
            )
        return path
    if path.exists():
        raise ModelError(f"model.path must be a folder or a hub id, got the file {model}")
    parts = path.parts
    is_hub_id = len(parts) in (1, 2) and not path.is_absolute() and parts[0] not in (".", "..", "~")
    if (
        not is_hub_id
        or model.startswith((".", "~"))
        or (len(parts) == 2 and Path(parts[0]).is_dir())
    ):
        raise ModelError(
            f"there is no model folder {model}; set model.path to an existing folder or a hub id"
        )
    return None


def read_model_facts(section: ModelSection) -> ModelFacts:
    """Check a model's folder (or ask the hub for its config) and return its sizes.

    Raises:
        ModelError: config.json or safetensors weights are missing, or model.max_length is too
            large.
    """
    return facts_of(section, read_model_values(section.path))


def read_model_values(model: str) -> dict[str, Any]:
    """Return what config.json says of the language model: of a model that also sees, its part.

    Raises:
        ModelError: config.json or safetensors weights are missing, or the hub does not answer.
    """
    folder = local_folder(model)
    return text_values(_folder_config(folder) if folder else _hub_config(model))


def text_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return a config's values, those of the language model in place of the whole's.

    Models that also see pictures nest them.
    """
    nested = values.get("text_config")
    return {**values, **nested} if isinstance(nested, dict) else values


def complete_values(model: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return also what transformers' class of the model adds to what its config.json leaves out.

    Raises:
        ModelError: transformers does not know such a model.
    """
    folder = local_folder(model)
    if folder is None or values.get("model_type") in (None, *PLAIN_TYPES):
        return values
    return text_values(_class_config(str(folder), f"{folder}/config.json"))


def facts_of(section: ModelSection, values: dict[str, Any]) -> ModelFacts:
    """Return the sizes of a model.

    Raises:
        ModelError: model.max_length is too large, or missing where config.json names no length.
    """
    context = next(
        (values[name] for name in CONTEXT_FIELDS if isinstance(values.get(name), int)), None
    )
    if context is None and section.max_length is None:
        raise ModelError(
            f"{section.path}: its config.json names no context length; set model.max_length"
        )
    if context is not None and section.max_length is not None and section.max_length > context:
        raise ModelError(
            f"model.max_length must be at most {context}, the context of {section.path}, "
            f"got {section.max_length}; lower model.max_length"
        )
    vocab_size = values.get("vocab_size")
    max_length = section.max_length or context
    assert max_length is not None
    hidden_size = next(
        (values[name] for name in HIDDEN_FIELDS if isinstance(values.get(name), int)),
        USUAL_HIDDEN_SIZE,
    )
    return ModelFacts(max_length, vocab_size if isinstance(vocab_size, int) else None, hidden_size)


def _folder_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} has no config.json; give a Hugging Face model folder") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}; give a complete model folder") from None
    if not isinstance(values, dict):
        raise ModelError(f"{path} must hold a JSON object, got {type(values).__name__}")
    if not any(folder.glob("*.safetensors")):
        others = sorted(
            p.name for p in folder.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".gguf")
        )
        got = f"got {', '.join(others)}" if others else "got none"
        raise ModelError(
            f"{folder} must hold weights as *.safetensors, {got}; "
            "save the model with save_pretrained"
        )
    return values


def _hub_config(model: str) -> dict[str, Any]:
    where = f"model.path {model} is no folder here, and the hub did not give its config"
    return _class_config(model, where)


def _class_config(model: str, where: str) -> dict[str, Any]:
    from transformers import AutoConfig  # slow to import, and the usual models do without

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except Exception as error:  # the library's, the hub's, and what a field of a wrong type raises
        reason = " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
        raise ModelError(f"{where}: {reason}; give an existing folder or hub id") from None
    values: dict[str, Any] = config.to_dict()
    return values
