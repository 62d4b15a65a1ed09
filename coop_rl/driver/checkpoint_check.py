"""Whether a checkpoint is whole, read strictly: a wrong resume is worse than none.

    folder --names--> plain files alone --manifest--> SHA-256 of each --progress, roles--> Stored

Whatever is not exactly what `checkpoint_store` and the roles write counts as damage, which is told
in a few words; nothing that lies in a folder makes `damage` raise. The manifest guards against
accidents, not against an attacker.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from coop_rl.algorithm.roles import Progress
from coop_rl.errors import printable
from coop_rl.files import sha256
from coop_rl.types import PolicyVersion

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
INPUTS = "inputs.json"
STATE = "state.json"
"""What every role's folder holds beside its tensors (`learner.state_io`)."""
STEP_FOLDER = re.compile(r"step-(\d{6,})")
FLOATS = ("F16", "F32", "F64")
"""Types of tensors, as safetensors calls them, that numpy can look at for what is not finite."""


class DamageError(ValueError):
    """What is wrong with a checkpoint, in a few words."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run computes from; kept in its directory and in each of its checkpoints."""

    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved config by dotted field; empty: not known."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Digest of every file that is read, by where the config names it and its path."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a checkpoint says of itself."""

    progress: Progress
    commit: int = 0
    """Number among the commits into its folder, from 1; what is newest has the highest."""
    line: tuple[tuple[str, str], ...] = ()
    """(name, digest) of the checkpoints it goes on from that were there, its parent first."""
    is_snapshot: bool = False
    """Whether it is kept only until the next one is there."""


def damage(checkpoint: Path, roles: Collection[str] = ()) -> str | None:
    """Return what is wrong with a checkpoint; None where it is whole.

    Args:
        checkpoint: A folder step-NNNNNN.
        roles: Folders it must hold at least.
    """
    try:
        _check(checkpoint, roles)
    except DamageError as error:
        return printable(str(error))
    except (OSError, ValueError, TypeError, KeyError, RecursionError, SafetensorError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def read_stored(checkpoint: Path) -> Stored:
    """Return what a checkpoint says of itself, without hashing its files.

    Raises:
        DamageError: Its progress is not of the form in which it is written.
    """
    return stored_of(_object(checkpoint / PROGRESS))


def stored_of(values: Any) -> Stored:
    """Return what the content of a progress.json says.

    Raises:
        DamageError: It is not of the form in which it is written.
    """
    _require(isinstance(values, dict), PROGRESS)
    version: Any = values.get("version")
    _require(isinstance(version, dict) and set(version) == {"theta", "adapter"}, PROGRESS)
    numbers = [values.get("next_step"), *version.values(), values.get("commit", 0)]
    _require(all(type(n) is int and n >= 0 for n in numbers), PROGRESS)
    method, rollouts = values.get("method", {}), values.get("rollouts", {})
    _require(isinstance(method, dict) and isinstance(rollouts, dict), PROGRESS)
    line = values.get("line", [])
    _require(isinstance(line, list), PROGRESS)
    for ancestor in line:
        is_pair = isinstance(ancestor, list) and [type(part) for part in ancestor] == [str, str]
        _require(is_pair and STEP_FOLDER.fullmatch(ancestor[0]) is not None, PROGRESS)
    is_snapshot = values.get("is_snapshot", False)
    _require(isinstance(is_snapshot, bool), PROGRESS)
    progress = Progress(numbers[0], PolicyVersion(**version), method, rollouts)
    ancestors = tuple((name, digest) for name, digest in line)
    return Stored(progress, numbers[-1], ancestors, is_snapshot)


def read_inputs(checkpoint: Path) -> Inputs:
    """Return what the run that wrote a checkpoint computed from; empty where it is not told.

    Raises:
        DamageError: It is not of the form in which it is written.
    """
    if not (checkpoint / INPUTS).exists():
        return Inputs()
    values = _object(checkpoint / INPUTS)
    config: Any = values.get("config")
    files: Any = values.get("files")
    _require(isinstance(config, dict) and isinstance(files, dict), INPUTS)
    _require(all(isinstance(digest, str) for digest in files.values()), INPUTS)
    return Inputs(config, files)


def _check(checkpoint: Path, roles: Collection[str]) -> None:
    name = STEP_FOLDER.fullmatch(checkpoint.name)
    _require(name is not None, "its name is not step-NNNNNN", whole=True)
    files = _plain_files(checkpoint)
    _require(MANIFEST in files, f"it has no {MANIFEST}", whole=True)
    digests = read_manifest(checkpoint / MANIFEST)
    for file in sorted(files - {MANIFEST} - digests.keys()):
        raise DamageError(f"{file} is not in the manifest")
    for file in sorted(digests.keys() - files):
        raise DamageError(f"{file} is missing")
    for role in sorted(roles):
        _require(f"{role}/{STATE}" in files, f"{role}/{STATE} is missing", whole=True)
    _require(PROGRESS in files, f"{PROGRESS} is missing", whole=True)
    stored = read_stored(checkpoint)
    step, version = stored.progress.next_step, stored.progress.version
    if not (name and int(name[1]) == step == version.theta):
        raise DamageError(f"its progress is that after {step} steps, of version {version}")
    for file, digest in digests.items():
        if sha256(checkpoint / file) != digest:
            raise DamageError(f"{file} does not match its checksum")
    read_inputs(checkpoint)
    for state in sorted(file for file in files if file.endswith(f"/{STATE}")):
        _check_role(checkpoint / Path(state).parent, version)


def _plain_files(checkpoint: Path) -> set[str]:
    """Return every file inside, and refuse whatever is neither a file nor a folder."""
    if checkpoint.is_symlink() or not checkpoint.is_dir():
        raise DamageError("it is no folder")
    files: set[str] = set()
    for path in checkpoint.rglob("*"):
        name = path.relative_to(checkpoint).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DamageError(f"{name} is neither a file nor a folder")
        if path.is_file():
            files.add(name)
    return files


def read_manifest(path: Path) -> dict[str, str]:
    """Return the digest of every file that a manifest names, none of them outside its folder.

    Raises:
        DamageError: It is not of the form in which it is written.
    """
    digests = _object(path)
    for name, digest in digests.items():
        parts = PurePosixPath(name)
        is_inside = not parts.is_absolute() and ".." not in parts.parts and str(parts) == name
        is_digest = isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest)
        _require(is_inside and is_digest, MANIFEST)
    return digests


def _check_role(folder: Path, version: PolicyVersion) -> None:
    """Check a role's state: of this version, complete, and finite."""
    values, name = _object(folder / STATE), f"{folder.name}/{STATE}"
    expected = {"theta": version.theta, "adapter": version.adapter}
    for count, wanted in expected.items():
        if values.get(count, wanted) != wanted:
            raise DamageError(f"{name} has {count} {values[count]!r}, the progress {wanted}")
    if not values.get("rank"):  # of the others tells the first one
        _check_ranks(folder, values, version)
    file_of_key: Any = values.get("tensors")
    _require(isinstance(file_of_key, dict), name)
    keys_of_file: dict[str, set[str]] = {}
    for key, file in file_of_key.items():
        _require(isinstance(file, str) and file == Path(file).name, name)
        keys_of_file.setdefault(file, set()).add(key)
    for path in sorted(folder.glob("*.safetensors")):
        _check_tensors(path, keys_of_file.pop(path.name, set()))
    for file in keys_of_file:
        raise DamageError(f"{folder.name}/{file} is missing")


def _check_ranks(folder: Path, values: Mapping[str, Any], version: PolicyVersion) -> None:
    """Check that a role's ranks are all there, and together hold every value of a part once."""
    others: Any = values.get("others", [])
    _require(isinstance(others, list), f"{folder.name}/{STATE}")
    pieces: dict[str, list[tuple[int, int, tuple[int, ...]]]] = {}
    for name in (folder.name, *others):
        what = f"{name}/{STATE}"
        _require(isinstance(name, str) and name == Path(name).name, f"{folder.name}/{STATE}")
        _require((folder.with_name(name) / STATE).is_file(), f"{what} is missing", whole=True)
        facts = _object(folder.with_name(name) / STATE)
        _require(name == folder.name or facts.get("theta") == version.theta, what)
        for key, part in facts.get("parts", {}).items():
            is_numbers = isinstance(part, list) and all(type(n) is int and n >= 0 for n in part)
            _require(is_numbers and key in facts["tensors"], what)
            file = folder.with_name(name) / Path(facts["tensors"][key]).name
            with safe_open(file, framework="np") as opened:
                (count,) = opened.get_slice(key).get_shape()
            pieces.setdefault(key, []).append((part[0], count, tuple(part[1:])))
    for key, found in pieces.items():
        end, whole = 0, found[0][2]
        for start, count, shape in sorted(found):
            is_next = start == end and shape == whole
            _require(is_next, f"{folder.name}: {key} has a gap at {end}", whole=True)
            end += count
        _require(end == prod(whole), f"{folder.name}: {key} ends at {end}", whole=True)


def _check_tensors(path: Path, keys: set[str]) -> None:
    name = f"{path.parent.name}/{path.name}"
    with safe_open(path, framework="np") as file:
        if set(file.keys()) != keys:
            raise DamageError(f"{name} does not hold the tensors that its {STATE} names")
        for key in keys:
            is_float = file.get_slice(key).get_dtype() in FLOATS
            if is_float and not np.isfinite(file.get_tensor(key)).all():
                raise DamageError(f"{name}: {key} is not finite")


def _object(path: Path) -> dict[str, Any]:
    """Read a JSON object that is not empty; what is no file, such as a pipe, is not opened."""
    if not path.is_file():
        raise DamageError(f"{path.name} is no file")
    values = json.loads(path.read_bytes())
    _require(isinstance(values, dict) and values, path.name)
    return dict(values)


def _require(holds: object, what: str, *, whole: bool = False) -> None:
    if not holds:
        raise DamageError(what if whole else f"{what} is not of the form it is written in")
