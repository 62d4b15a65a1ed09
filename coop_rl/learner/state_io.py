"""A role's state as a folder of safetensors and JSON: written aside, synced, then renamed."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from coop_rl.errors import DivergedError, RunDirectoryError, RunError, first_line
from coop_rl.files import aside, put_in_place, remove

META = "state.json"
MAX_FILE_BYTES = 2 << 30
"""About the size of one file: the writer holds no more than this in host memory."""


class StateWriter:
    """Writes one role's folder; complete or absent.

    What fails while tensors come in is raised by `finish`: they are gathered from all ranks, and
    who stopped taking them would leave the others waiting.
    """

    def __init__(self, folder: Path) -> None:
        """Prepare to write `folder`, which is replaced by `finish`."""
        self._folder = folder
        self._side = aside(folder)
        self._pending: dict[str, torch.Tensor] = {}
        self._pending_bytes = 0
        self._file_of_key: dict[str, str] = {}
        self._failure: Exception | None = None

    def add(self, key: str, tensor: torch.Tensor) -> None:
        """Add one tensor."""
        if self._failure:
            return
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            self._failure = DivergedError(f"{key} of {self._folder.name} is not finite")
            return
        # A copy: exporters yield live parameters.
        self._pending[key] = tensor.detach().to("cpu", copy=True).contiguous()
        self._pending_bytes += tensor.numel() * tensor.element_size()
        if self._pending_bytes >= MAX_FILE_BYTES:
            self._flush()

    def finish(self, values: dict[str, Any]) -> None:
        """Write `values` beside the tensors, sync everything, and put the folder in place.

        Raises:
            DivergedError: A tensor is not finite.
            RunError: It cannot be written; nothing of it is left.
        """
        self._flush()
        try:
            if self._failure:
                raise self._failure
            text = json.dumps({**values, "tensors": self._file_of_key}, indent=1)
            self._side.mkdir(parents=True, exist_ok=True)
            (self._side / META).write_text(text)
            put_in_place(self._side, self._folder)
        except (OSError, SafetensorError) as error:
            raise RunError(f"cannot write {self._folder}: {first_line(error)}") from None
        finally:
            remove(self._side)

    def _flush(self) -> None:
        if self._pending and not self._failure:
            name = f"tensors-{len(set(self._file_of_key.values())):05d}.safetensors"
            try:
                self._side.mkdir(parents=True, exist_ok=True)
                save_file(self._pending, self._side / name)
            except (OSError, SafetensorError) as error:
                self._failure = error
            self._file_of_key |= dict.fromkeys(self._pending, name)
        self._pending = {}
        self._pending_bytes = 0


class StateReader:
    """Reads one role's folder, tensor by tensor."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`.

        Raises:
            RunDirectoryError: It is not there.
        """
        self._folder = folder
        try:
            self.values: dict[str, Any] = json.loads((folder / META).read_text())
        except OSError as error:
            raise RunDirectoryError(
                f"{folder} holds no state of this role: {error.strerror}; "
                "resume with the config the checkpoint was written with"
            ) from error
        self._file_of_key: dict[str, str] = self.values["tensors"]

    def has(self, key: str) -> bool:
        """Return whether a tensor is there."""
        return key in self._file_of_key

    def read(self, keys: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield (key, tensor) of the keys that are there, in the given order."""
        opened, handle = "", None
        for key in keys:
            if key not in self._file_of_key:
                continue
            if self._file_of_key[key] != opened:
                opened = self._file_of_key[key]
                handle = safe_open(self._folder / opened, framework="pt")
            assert handle is not None
            yield key, handle.get_tensor(key)  # type: ignore[no-untyped-call]
