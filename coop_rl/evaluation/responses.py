"""Every response of an evaluation with its verdict, as JSONL; `measure` writes it.

append, append, ... -> <path>.part, on the disk after each -> <path>, when the evaluation is done
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from coop_rl.errors import RunError
from coop_rl.types import ScoredGroup

PARTIAL = ".part"
Append = Callable[[Sequence[ScoredGroup], str], None]
"""Writes the responses of groups; the text says how they were sampled, greedy or sampled."""


@contextmanager
def response_file(path: Path | None) -> Iterator[Append]:
    """Yield what writes the rows; None: they go nowhere. A failure leaves the partial file.

    Raises:
        RunError: It cannot be written.
    """
    if path is None:
        yield lambda _groups, _kind: None
        return
    partial = path.with_name(path.name + PARTIAL)
    with _naming(partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("w", encoding="utf-8", errors="replace")

    def append(groups: Sequence[ScoredGroup], kind: str) -> None:
        with _naming(partial):
            for group in groups:
                for row in _rows(group, kind):
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    with file:
        yield append
    partial.replace(path)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; free space there") from None


def _rows(group: ScoredGroup, kind: str) -> list[dict[str, object]]:
    return [
        {
            "prompt_id": group.prompt.id,
            "prompt": group.prompt.text,
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
