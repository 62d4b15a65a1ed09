"""Options of the command line that take more than a line; light, as the command line is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from coop_rl.commands.allowed import Allowed

Allow = Annotated[
    list[Allowed] | None,
    typer.Option(
        "--allow",
        help="Resume although this is so: start anew beside damaged checkpoints, with other "
        "files than before, or from another run's checkpoint.",
    ),
]
DataFile = Annotated[Path | None, typer.Option("--data", help="A JSONL file; see evaluation.data.")]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Import reward functions that a run's config names.")
]


def spread_option(arguments: Sequence[str], option: str) -> list[str]:
    """Return the arguments with `option a b` written as `option a option b`, as the parser needs.

    What follows the option up to the next option is its own: models come before it.
    """
    spread: list[str] = []
    is_inside = False
    for argument in arguments:
        if argument.startswith("-"):
            is_inside = argument == option
        elif is_inside and spread[-1] != option:
            spread.append(option)
        spread.append(argument)
    return spread
