"""`coop-rl judge`: what a verifier says about responses one already has; starts no model.

FILE, a JSON object a line --> Answer each --RewardPool--> verdicts --> share right, by status
    column `right`, where there is one ------------------------------> rows judged otherwise
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from coop_rl.config.reward import RewardSection, VerifierKind
from coop_rl.data.jsonl import names_of, parse_object
from coop_rl.data.opening import read_lines
from coop_rl.errors import ConfigError, DataError
from coop_rl.rewards.pool import RewardPool
from coop_rl.rewards.registry import VERIFIERS, settings_of
from coop_rl.rewards.user import check_functions
from coop_rl.rewards.verdict import Answer
from coop_rl.types import Reward

RIGHT_COLUMN = "right"
TRUNCATED_COLUMNS = ("truncated", "is_truncated")
EXCERPT = 80
"""Characters of a response's end, and of a gold answer, that are shown."""


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """A row of the file, and what somebody thinks of it."""

    place: str
    answer: Answer
    expected: bool | None
    """Its column `right`; None: it has none."""


def judge_file(
    path: Path,
    kind: VerifierKind,
    marker: str,
    function: str | None,
    columns: Sequence[str],
    console: Console,
) -> list[Reward]:
    """Judge every row, print the summary, and return the verdicts in order.

    Args:
        path: One JSON object a line; a column `truncated` says that the token limit ended it.
        kind: Name of the verifier.
        marker: As `reward.marker`.
        function: As `reward.function`.
        columns: Those of the response, which may be empty, of the gold answer, and of what the
            verifier needs besides, as `golds` of `math`.
        console: Prints.

    Raises:
        UserError: The file or a row cannot be read, or there is no such function.
    """
    if (kind == "python") != (function is not None):
        raise ConfigError(
            f"--function goes with --kind python, and only there; got kind {kind} and function "
            f"{function}"
        )
    section = RewardSection(kind=kind, marker=marker, function=function)
    check_functions(section)
    rows = _rows(path, *columns)
    render = VERIFIERS[section.kind].render
    settings = settings_of(section)
    own = [
        Answer(render(row.answer.gold, settings), row.answer.gold, row.answer.details)
        for row in rows
        if render is not None
    ]
    pool = RewardPool(section)
    try:
        verdicts = pool.score([row.answer for row in rows])
        are_readable = [verdict.is_correct for verdict in pool.score(own)]
    finally:
        pool.close()
    _print(rows, verdicts, console)
    never = [row for row, is_right in zip(rows, are_readable, strict=False) if not is_right]
    if never:
        console.print(
            f"{len(never):,} gold answers can never be right for kind {section.kind}, the first at "
            f"{never[0].place}: {_excerpt(never[0].answer.gold)}",
            soft_wrap=True,
        )
    return verdicts


def _rows(
    path: Path, response_column: str, gold_column: str, *details_columns: str
) -> list[JudgedRow]:
    rows = []
    for number, _, line in read_lines(path):
        place = f"{path}:{number}"
        row = parse_object(place, line)
        for column in (response_column, gold_column, *details_columns):
            if column not in row:
                raise DataError(
                    f"{place}: column {column!r} is missing, got {names_of(row)}; give "
                    "--response-column, --gold-column and --details-column as the file has them"
                )
        if not isinstance(row[response_column], str):
            raise DataError(f"{place}: column {response_column!r} must be text; make it a string")
        details = {column: row[column] for column in details_columns}
        answer = Answer(
            row[response_column],
            str(row[gold_column]),
            json.dumps(details) if details else "",
            is_truncated=any(bool(row.get(column)) for column in TRUNCATED_COLUMNS),
            prompt=str(row.get("prompt", "")),
            columns=json.dumps(row),
        )
        expected = row.get(RIGHT_COLUMN)
        rows.append(JudgedRow(place, answer, None if expected is None else bool(expected)))
    if not rows:
        raise DataError(f"{path} holds no rows; give a file with one JSON object a line")
    return rows


def _print(rows: Sequence[JudgedRow], verdicts: Sequence[Reward], console: Console) -> None:
    otherwise = [
        (row, verdict)
        for row, verdict in zip(rows, verdicts, strict=True)
        if row.expected is not None and row.expected != verdict.is_correct
    ]
    for row, verdict in otherwise:
        said = "right" if verdict.is_correct else "wrong"
        text = (
            f"{row.place}: judged {said}, column {RIGHT_COLUMN} says otherwise\n"
            f"    response {_excerpt(row.answer.text)}\n    gold     {_excerpt(row.answer.gold)}\n"
            f"    read     {_excerpt(verdict.answer)}"
        )
        console.print(Text(text), soft_wrap=True)
    num_right = sum(verdict.is_correct for verdict in verdicts)
    num_formed = sum(verdict.has_format for verdict in verdicts)
    console.print(
        f"{num_right:,} of {len(rows):,} responses are right ({num_right / len(rows):.1%}); "
        f"{num_formed:,} have the form asked for"
    )
    for status, count in Counter(verdict.status for verdict in verdicts).items():
        if status != "scored":
            console.print(f"{count:,} {status}: not judged, and not right")
    num_expected = sum(row.expected is not None for row in rows)
    if num_expected:
        agreed = num_expected - len(otherwise)
        console.print(f"{agreed:,} of {num_expected:,} as column {RIGHT_COLUMN} says")


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= EXCERPT else "..." + text[-EXCERPT:])
