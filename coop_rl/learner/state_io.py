"""A role's state as folders of safetensors and JSON: written aside, synced, then renamed.

    joint/           what rank 0 holds: tensors-*.safetensors, state.json
    joint-rank-1/    what rank 1 holds ...

A part of a tensor is stored flat; `state.json` then says where it begins and what the whole is. A
role of one process has one folder with whole tensors, as all roles had before ranks wrote their
own. Ranks write at the same time and ask nobody; whoever reads takes what it needs of each folder.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from coop_rl.errors import DivergedError, RunDirectoryError, RunError, first_line
from coop_rl.files import aside, put_in_place, remove, sha256

META = "state.json"
MAX_FILE_BYTES = 512 << 20
"""About the size of one file: a writer holds no more than this in host memory, unless it is to
write later. A learner has up to three at a time."""
Digests = dict[str, str]
"""SHA-256 of files, by folder and name."""
Finish = Callable[[], Digests]
"""Writes what was taken in, and raises what failed."""


class StateWriter:
    """Writes one folder of a role; complete or absent. What fails is raised by `finish`."""

    def __init__(
        self, folder: Path, rank: int = 0, num_ranks: int = 1, *, writes_later: bool = False
    ) -> None:
        """Prepare to write a folder, which is replaced by `finish`.

        Args:
            folder: The role's.
            rank: Of who writes, which has a folder of its own beside it.
            num_ranks: How many write.
            writes_later: Whether `finish` alone writes, perhaps in another thread; until then all
                is held in host memory.
        """
        self._rank = rank
        self._folder = _folder_of(folder, rank)
        self._others = [_folder_of(folder, n).name for n in range(1, num_ranks)] * (rank == 0)
        self._side = aside(self._folder)
        self._writes_later = writes_later
        self._batches: list[dict[str, torch.Tensor]] = [{}]
        self._num_bytes = 0
        self._file_of_key: dict[str, str] = {}
        self._parts: dict[str, list[int]] = {}
        self._failure: Exception | None = None

    def add(
        self, key: str, tensor: torch.Tensor, start: int = 0, shape: Sequence[int] | None = None
    ) -> None:
        """Add a tensor, or the part of it that begins at `start` of the flattened whole.

        Args:
            key: Its name.
            tensor: The values.
            start: Index of the first one.
            shape: Of the whole; None: the tensor's.
        """
        if self._failure:
            return
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            self._failure = DivergedError(f"{key} of {self._folder.name} is not finite")
            return
        if shape is not None:
            if tensor.numel() < prod(shape):
                self._parts[key] = [start, *shape]
            else:
                tensor = tensor.reshape(tuple(shape))
        # A copy: exporters yield live parameters.
        self._batches[-1][key] = tensor.detach().to("cpu", copy=True).contiguous()
        self._num_bytes += tensor.numel() * tensor.element_size()
        if self._num_bytes >= MAX_FILE_BYTES:
            self._end_file()

    def finish(self, values: dict[str, Any]) -> Digests:
        """Write `values` beside the tensors, sync everything, and put the folder in place.

        Raises:
            DivergedError: A tensor is not finite.
            RunError: It cannot be written; nothing of it is left.
        """
        try:
            self._write()
            if self._failure:
                raise self._failure
            facts = {"rank": self._rank, "others": self._others, "parts": self._parts}
            facts = {name: fact for name, fact in facts.items() if fact}
            text = json.dumps({**values, **facts, "tensors": self._file_of_key}, indent=1)
            self._side.mkdir(parents=True, exist_ok=True)
            (self._side / META).write_text(text)
            put_in_place(self._side, self._folder)
            # Here, where the files still are in memory, and by every rank at the same time.
            return {f"{self._folder.name}/{p.name}": sha256(p) for p in self._folder.iterdir()}
        except (OSError, SafetensorError) as error:
            raise RunError(f"cannot write {self._folder}: {first_line(error)}") from None
        finally:
            remove(self._side)

    def _end_file(self) -> None:
        """Let what comes next go into another file."""
        self._num_bytes = 0
        self._batches.append({})
        if not self._writes_later:
            self._write()

    def _write(self) -> None:
        """Write what is held, unless something failed, and let go of it."""
        while self._batches:
            batch = self._batches.pop(0)
            if batch and not self._failure:
                name = f"tensors-{len(set(self._file_of_key.values())):05d}.safetensors"
                try:
                    self._side.mkdir(parents=True, exist_ok=True)
                    save_file(batch, self._side / name)
                except (OSError, SafetensorError) as error:
                    self._failure = error
                self._file_of_key |= dict.fromkeys(batch, name)
        self._batches = [{}]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Where a tensor, or a part of it, is stored."""

    file: Path
    start: int
    shape: tuple[int, ...] | None
    """Of the whole; None: what is stored is the whole."""


class StateReader:
    """Reads a role's folders, tensor by tensor."""

    def __init__(self, folder: Path) -> None:
        """Open the folder of rank 0, and those of the others.

        Raises:
            RunDirectoryError: One is not there.
        """
        self._folder = folder
        self.values = _read_facts(folder)
        self._pieces: dict[str, list[_Piece]] = {}
        self._opened: dict[Path, Any] = {}
        for name in (folder.name, *self.values.get("others", ())):
            place = folder.with_name(name)
            facts = _read_facts(place)
            parts: dict[str, list[int]] = facts.get("parts", {})
            for key, file in facts["tensors"].items():
                start, *shape = parts.get(key, [0])
                piece = _Piece(place / file, start, tuple(shape) if key in parts else None)
                self._pieces.setdefault(key, []).append(piece)

    @property
    def names(self) -> list[str]:
        """Return the keys of all tensors."""
        return list(self._pieces)

    def has(self, key: str) -> bool:
        """Return whether a tensor is there."""
        return key in self._pieces

    def read(self, keys: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (key, whole tensor) of the keys that are there, in the given order."""
        for key in keys:
            if self.has(key):
                shape = self._shape(key)
                yield key, self.read_values(key, shape, 0, prod(shape)).view(shape)

    def read_values(self, key: str, shape: Sequence[int], start: int, count: int) -> torch.Tensor:
        """Return `count` values from `start` on of a flattened tensor that should have `shape`.

        Raises:
            RunError: It is not there, or has another size.
        """
        found = self._shape(key) if self.has(key) else (0,)
        if prod(found) != prod(shape):
            raise RunError(
                f"learner state holds {key} of shape {tuple(found)} where shape {tuple(shape)} is "
                "expected; it was written for another model"
            )
        pieces: list[torch.Tensor] = []
        for piece in sorted(self._pieces[key], key=lambda piece: piece.start):
            values = self._open(piece.file).get_tensor(key).view(-1)
            first, last = (
                min(max(0, i - piece.start), len(values)) for i in (start, start + count)
            )
            if first < last:
                pieces.append(values[first:last])
        if sum(map(len, pieces)) != count:
            raise RunError(f"{self._folder} does not hold all of {key}; give another checkpoint")
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _shape(self, key: str) -> tuple[int, ...]:
        """Return the shape of a whole tensor."""
        piece = self._pieces[key][0]
        stored: Sequence[int] = self._open(piece.file).get_slice(key).get_shape()
        return tuple(stored) if piece.shape is None else piece.shape

    def _open(self, file: Path) -> Any:
        """Return a file's tensors; it is mapped into memory, and read as far as it is looked at."""
        if file not in self._opened:
            self._opened[file] = safe_open(file, framework="pt")
        return self._opened[file]


def _folder_of(role: Path, rank: int) -> Path:
    return role.with_name(f"{role.name}-rank-{rank}") if rank else role


def _read_facts(folder: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads((folder / META).read_text())
    except OSError as error:
        raise RunDirectoryError(
            f"{folder} holds no state of this role: {error.strerror}; "
            "resume with the config the checkpoint was written with"
        ) from error
    return values
