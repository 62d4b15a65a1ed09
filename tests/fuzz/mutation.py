"""Real examples, changed at random by a seed: as bytes, as JSON values, and what models write."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

CONTROLS = (
    "\x1b[2J", "\x1b]0;title\x07", "\x00", "\x08", "\x7f", "\x9b31m", "\x85", "\u2028", "\u202e",
    "\ufeff", "\r", "\n", "\t",
)  # fmt: skip
"""What steers a terminal, breaks a line, or turns the writing direction around."""
HALF = "\ud83d"
"""Half a character, which JSON can escape and UTF-8 cannot write."""
ODD_TEXTS = (
    *CONTROLS, HALF, "", " ", "x", "é", "💣", "0", "-1", "1e400", "nan", "null", "true", "../x",
    "/", "~", "*", "**", "{", "}", "{0}", "{prompt}", "%s", "${HOME}", "[bold]", "[/]", "<script>",
    "a.b", "a" * 300, "1" * 5000,
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 10**30, -(10**30), 0.5, -0.0, 1e308, 1e-320, float("nan"),
    float("inf"), float("-inf"), [], {}, [[]], [None], {"": 0}, {"kind": "x"}, ["a", 1], *ODD_TEXTS,
)  # fmt: skip
YAML_TOKENS = (
    "&a ", "*a", "<<: *a\n", "? ", ": ", "- ", "---\n", "...\n", "%YAML 1.2\n", "!!python/tuple []",
    "!!binary x", "!!int x", "!!float x", "!!set {a}", "!!omap [a: 1]", "!!timestamp x", "!x ", "=",
    "0x1F", "0o7", "1_0", "1:30", "2020-01-01", "on", "~", ".inf", "|", ">", "[", "]", "{", "}",
    ",", "#", "'", '"', "\t", "@", "`", "extends: ", "[" * 2000, "{a: " * 500,
)  # fmt: skip
MODEL_TEXTS = (
    *ODD_TEXTS, r"\boxed{", r"\boxed ", r"\fbox{", "}", "{", "<think>", "</think>", "<answer>",
    "</answer>", "####", "#", "The answer is ", "answer:", "$", r"\frac{", r"\sqrt[", r"\text{",
    r"\left(", r"\begin{pmatrix}", "&", r"\\", "^", "_", "!", "/", "=", "+", "-", ",", ".", "%",
    "12", "1/2", "1,234", "3.5e10", "10^", "x", "pi", r"\pi", "(A)", "B.", "not C", "option ",
    "Zoey is a knight", "Riley is a knave", "knight", "True", "None", "[1, 2", "\u2212", "\u00d7",
    "\u0660", "\uff11", "²", "½", "ﬁ", "İ", "ß", "\u0301" * 50, " " * 500, "\n" * 500, "(" * 500,
    "9" * 400, r"\frac" * 200, "-" * 500, "1," * 500, "{" * 500, "$" * 301, "a b " * 300,
)  # fmt: skip


def any_of(rng: random.Random, choices: tuple[Any, ...]) -> Any:
    return copy.deepcopy(rng.choice(choices))


def model_text(rng: random.Random, *more: str) -> str:
    """What a model may write: pieces of answers, of their marks, and junk; sometimes long."""
    pieces = [rng.choice((*MODEL_TEXTS, *more)) for _ in range(rng.choice((1, 3, 6, 12, 60)))]
    return "".join(pieces)


def changed_bytes(rng: random.Random, data: bytes, tokens: tuple[str, ...] = ODD_TEXTS) -> bytes:
    """A file after accidents: bits flipped, parts lost, twice, elsewhere, or foreign."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, end = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        end = min(end, at + rng.choice((1, 8, 200)))
        token = rng.choice(tokens).encode("utf-8", "surrogatepass")
        to = rng.randrange(len(data) + 1)
        data = rng.choice(
            (
                data[:at] + data[end:],
                data[:at],
                data[:at] + token + data[at:],
                data[:at] + token + data[end:],
                data[:at] + b"\0" * (end - at) + data[end:],
                data[:at]
                + bytes(b ^ (1 << rng.randrange(8)) for b in data[at:end][:1])
                + data[end:],
                data[:to] + data[at:end] + data[to:],
                reordered(rng, data),
            )
        )
    return data


def reordered(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    rng.shuffle(lines)
    return b"\n".join(lines)


def places_in(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(entries):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places_in(inner)


def changed_value(rng: random.Random, value: Any, odd: tuple[Any, ...] = ODD_VALUES) -> Any:
    """A JSON object with other values, names and shapes here and there."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(places_in(value))
        if not places:
            return any_of(rng, odd)
        container, key = rng.choice(places)
        other, other_key = rng.choice(places)
        action = rng.choice(("set", "set", "drop", "copy", "add", "wrap"))
        if action == "drop":
            del container[key]
        elif action == "copy":
            container[key] = copy.deepcopy(other[other_key])
        elif action == "wrap":
            container[key] = rng.choice(([container[key]], {"a": container[key]}))
        elif action == "add" and isinstance(container, dict):
            container[any_of(rng, ODD_TEXTS)] = any_of(rng, odd)
        else:
            container[key] = any_of(rng, odd)
    return value


def changed_json(rng: random.Random, data: bytes) -> bytes:
    """A JSON file, changed by value or by byte."""
    if rng.random() < 0.5:
        return changed_bytes(rng, data)
    return json.dumps(changed_value(rng, json.loads(data))).encode()


def changed_rows(
    rng: random.Random,
    data: bytes,
    change: Callable[[random.Random, Any], Any] = changed_value,
) -> bytes:
    """A JSONL file, changed by byte, or one or two of its rows by value."""
    if rng.random() < 0.5:
        return changed_bytes(rng, data)
    lines = data.splitlines()
    for _ in range(rng.choice((1, 2))):
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(change(rng, json.loads(lines[at]))).encode()
    return b"".join(line + b"\n" for line in lines)
