"""Digests of every file a run computes from, so that a resume notices what was changed in place.

data files          prompts, demonstrations and the held-out set, whole
model folder        config, tokenizer and weights: whole files up to WHOLE_FILE_BYTES, evenly
                    spaced blocks of larger ones
reward functions    the file that defines each; not what it imports

What comes from the hub or is generated has names and seeds in the config instead. Called by
`commands.train`; kept in the run directory and in checkpoints.
"""

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from coop_rl.config import RunConfig
from coop_rl.config.data import RowSource
from coop_rl.config.paths import files_matching
from coop_rl.config.sizes import reads_demonstrations
from coop_rl.data.model_folder import local_folder
from coop_rl.errors import DataError

WHOLE_FILE_BYTES = 64 << 20
"""A larger file of the model is looked at in blocks: training changes all of it."""
NUM_BLOCKS, BLOCK_BYTES = 64, 1 << 20
MODEL_FILES = (".json", ".safetensors", ".model", ".txt", ".jinja")
"""How the names of the model's files end that are read; a README may change."""


def fingerprints(config: RunConfig) -> dict[str, str]:
    """Return the digest of every file, by what it is to the run and its path.

    Raises:
        DataError: One cannot be read.
    """
    try:
        return _fingerprints(config)
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from None


def _fingerprints(config: RunConfig) -> dict[str, str]:
    found = {f"{what} {path}": _whole(path) for what, path in _data_files(config)}
    folder = local_folder(config.model.path)
    for path in sorted(folder.iterdir()) if folder else ():
        if path.is_file() and path.name.endswith(MODEL_FILES):
            found[f"model {path.name}"] = _blocks(path)
    for location in config.reward.functions:
        source = _source_file(location)
        if source.is_file():
            found[f"reward function {location}"] = _whole(source)
    return found


def _data_files(config: RunConfig) -> Iterator[tuple[str, Path]]:
    sections: list[tuple[str, RowSource]] = []
    if config.method.samples:
        prompts: Sequence[RowSource] = config.prompts.mixture
        sections += [("prompts", s) for s in prompts or [config.prompts]]
    if reads_demonstrations(config):
        shown: Sequence[RowSource] = config.demonstrations.mixture
        sections += [("demonstrations", s) for s in shown or [config.demonstrations]]
    sections += [(held_out.section, held_out.source) for held_out in config.evaluation.held_out]
    for section, source in sections:
        given = [source.path] if isinstance(source.path, str) else source.path or []
        yield from ((section, path) for pattern in given for path in files_matching(pattern))


def _source_file(location: str) -> Path:
    place = location.rpartition(":")[0]
    if place.endswith(".py"):
        return Path(place)
    spec = importlib.util.find_spec(place)
    return Path((spec.origin if spec else None) or "")


def _whole(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _blocks(path: Path) -> str:
    size = path.stat().st_size
    if size <= WHOLE_FILE_BYTES:
        return _whole(path)
    seen = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for index in range(NUM_BLOCKS):
            file.seek((size - BLOCK_BYTES) * index // (NUM_BLOCKS - 1))
            seen.update(file.read(BLOCK_BYTES))
    return seen.hexdigest()
