"""Every response of an evaluation with its verdict, as JSONL that is whole or marked as partial."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from coop_rl.errors import RunError
from coop_rl.types import ScoredGroup

PARTIAL = ".part"


class ResponseFile:
    """Rows are on disk after each `append`; the file gets its name when the evaluation is done."""

    def __init__(self, path: Path) -> None:
        """Write to `path`; until the end to `<path>.part`.

        Raises:
            RunError: It cannot be written.
        """
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("w", encoding="utf-8", errors="replace")
        except OSError as error:
            raise self._failure(error) from None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _t: TracebackType | None,
    ) -> None:
        """Give the file its name, or leave the partial one where the evaluation failed."""
        self._file.close()
        if kind is None:
            self._partial.replace(self._path)

    def append(self, groups: Sequence[ScoredGroup], kind: str) -> None:
        """Write the responses of `groups`; `kind` is greedy or sampled.

        Raises:
            RunError: It cannot be written.
        """
        try:
            for group in groups:
                for row in _rows(group, kind):
                    self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> RunError:
        return RunError(f"cannot write {self._partial}: {error.strerror}; free space there")


def _rows(group: ScoredGroup, kind: str) -> list[dict[str, object]]:
    return [
        {
            "prompt_id": group.prompt.id,
            "kind": kind,
            "sample": index,
            "text": rollout.text,
            "num_tokens": len(rollout.token_ids),
            "is_truncated": rollout.is_truncated,
            "gold": group.prompt.answer,
            "answer": reward.answer,
            "is_correct": reward.is_correct,
            "has_format": reward.has_format,
            "reward": reward.value,
            "status": reward.status,
        }
        for index, (rollout, reward) in enumerate(zip(group.rollouts, group.rewards, strict=True))
    ]
