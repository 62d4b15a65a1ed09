"""Which responses a report shows: of training over all steps, of evaluations first and last."""

import json
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from coop_rl.report.stored_run import Row, StoredRun, read_rows

MAX_BYTES = 2_000_000
"""Of all samples together as JSON, so that the page stays small."""
MAX_TEXT = 4_000
"""Of one prompt or response; the rest is counted."""
MAX_ITEMS = 200
"""Items of an evaluation set."""


def samples_of(runs: Sequence[StoredRun]) -> tuple[list[Row], int]:
    """Return what is shown, the newest first, and how many were left out for want of room."""
    rows = [
        row
        for index, run in enumerate(runs)
        for row in (*_training(index, run), *_evaluated(index, run))
    ]
    total = sum(len(json.dumps(row)) for row in rows)
    stride = -(-total // MAX_BYTES) or 1
    kept = rows[::stride]
    return sorted(kept, key=lambda row: -row["step"]), len(rows) - len(kept)


def _training(index: int, run: StoredRun) -> Iterator[Row]:
    for row in run.samples:
        given, response = str(row.get("given") or ""), str(row.get("response", ""))
        sample = _sample(index, row, "training", row.get("step"), given + response)
        yield sample | {
            "given": len(given),
            "advantage": row.get("advantage"),
            "tokens": _tokens(row, len(response), MAX_TEXT - len(given)),
        }


def _tokens(row: Row, num_characters: int, most: int) -> list[list[float | None]]:
    """Return [characters, log-prob] of the tokens that are shown; empty: they are not known.

    Runs of older versions have none, and so does a response that its tokens do not give again.
    """
    lengths, log_probs = row.get("token_lengths"), row.get("log_probs")
    if not (isinstance(lengths, list) and isinstance(log_probs, list)):
        return []
    is_whole = all(isinstance(n, int) and n >= 0 for n in lengths)
    if not is_whole or len(lengths) != len(log_probs) or sum(lengths) != num_characters:
        return []
    ends = accumulate(lengths)
    return [
        [length, value if isinstance(value, int | float) else None]
        for length, value, end in zip(lengths, log_probs, ends, strict=True)
        if end <= most
    ]


def _evaluated(index: int, run: StoredRun) -> Iterator[Row]:
    """Yield the greedy responses to the same items before and after training."""
    for name, results in run.results.items():
        first, last = min(results), max(results)
        verdicts: dict[Any, list[bool]] = {}
        found: list[Row] = []
        for step in dict.fromkeys((first, last)):
            path = run.path / f"evaluations/step-{step:06d}/{name}.responses.jsonl"
            greedy = [row for row in read_rows(path)[0] if row.get("kind") == "greedy"]
            for row in greedy[:MAX_ITEMS]:
                verdicts.setdefault(row.get("prompt_id"), []).append(bool(row.get("is_correct")))
                found.append(_sample(index, row, name, step, str(row.get("text", ""))))
        for sample in found:
            sample["change"] = _change(verdicts[sample["id"]])
            yield sample


def _change(verdicts: Sequence[bool]) -> str:
    if len(verdicts) != 2 or verdicts[0] == verdicts[1]:
        return ""
    return "gained" if verdicts[1] else "lost"


def _sample(index: int, row: Row, where: str, step: Any, response: str) -> Row:
    prompt, gold = str(row.get("prompt", "")), row.get("gold", row.get("answer"))
    return {
        "run": index,
        "from": where,
        "step": step if isinstance(step, int) else 0,
        "id": row.get("prompt_id"),
        "prompt": prompt[:MAX_TEXT],
        "prompt_cut": max(0, len(prompt) - MAX_TEXT),
        "response": response[:MAX_TEXT],
        "response_cut": max(0, len(response) - MAX_TEXT),
        "gold": str("" if gold is None else gold)[:MAX_TEXT],
        "verdict": _verdict(row),
        "is_truncated": bool(row.get("is_truncated")),
        "reward": row.get("reward"),
        "num_tokens": row.get("num_tokens"),
        "change": "",
    }


def _verdict(row: Row) -> str:
    status = str(row.get("status", "scored"))
    if status != "scored":
        return status
    return "right" if row.get("is_correct") else "wrong"
