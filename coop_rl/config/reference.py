"""The reference page of the config, from its JSON schema: `make docs` writes it.

A section is a heading, its docstring and a table with a row for each field.
"""

import json
import sys
from pathlib import Path
from typing import Any

from coop_rl.config.schema import RunConfig

PREFACE = """# Config reference

Written by `make docs` from the docstrings in `coop_rl/config/`; do not edit. One YAML file is
a whole run; `--set section.field=value` overrides; unknown keys and duplicate keys are errors.

`extends: other.yaml` at the top of a file, a path relative to that file, takes another file's
values first. Sections are merged field by field, lists are replaced, and another `kind` drops the
fields that the new variant does not have; `--set` comes last. The other file must not extend
a third.

Paths of what a run reads (models, data, reward functions) are relative to the file that names them.
What is not there but in the working directory is taken from there, which one line says. `~` is your
home; a `*` in a data path matches within a name, `**` through folders. `run.dir`, and paths given
by `--set`, are relative to the working directory. A run's own `config.json` holds absolute paths.

`--set` reads YAML, as the field wants it: text as it is typed (quotes as in YAML), and where a list
is wanted one value, or several with commas (`--set evaluation.benchmarks=math500,gsm8k`).

`prompts` and `demonstrations` need a source only where the method learns from them: `sft` needs no
prompts, `rl` no demonstrations.
"""
COLUMNS = ("field", "value", "default", "meaning")
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
CHOICES, ITEMS = ("oneOf", "allOf", "anyOf"), ("items", "additionalProperties")
MANY = {"array": "list of sections", "object": "sections by name"}
Schema = dict[str, Any]


def render_reference() -> str:
    """Return the page as Markdown."""
    schema = RunConfig.model_json_schema()
    parts, seen = [PREFACE], set[str]()
    for name, field in schema["properties"].items():
        for section in _sections_of(field):
            parts += _section(name, section, schema["$defs"], seen)
    return "\n".join(parts) + "\n"


def _sections_of(field: Schema) -> list[str]:
    """Return the names of the models a field may hold, also those of its items."""
    found = [field["$ref"].rsplit("/", 1)[1]] if "$ref" in field else []
    options = [option for choice in CHOICES for option in field.get(choice, ())]
    options += [field[key] for key in ITEMS if isinstance(field.get(key), dict)]
    return [*found, *(name for option in options for name in _sections_of(option))]


def _section(dotted: str, name_of_model: str, models: Schema, seen: set[str]) -> list[str]:
    """Return a model's lines; several methods share the variants of `rl`, described once."""
    if "." in dotted and name_of_model in seen:
        return []
    seen.add(name_of_model)
    model: Schema = models[name_of_model]
    fields: Schema = dict(model["properties"])
    variant = fields["kind"].get("const") if "kind" in fields else None
    if variant:
        fields.pop("kind")
    title = f"`{dotted}`, kind `{variant}`" if variant else f"`{dotted}`"
    lines = [f"\n## {title}\n", model["description"].strip()]
    nested: list[str] = []
    if fields:
        lines += ["", _row(*COLUMNS), "|---" * len(COLUMNS) + "|"]
    for name, field in fields.items():
        inner = _sections_of(field)
        is_required = name in model.get("required", ())
        default = "required" if is_required else f"`{json.dumps(field.get('default'))}`"
        value = "section" if inner else _value(field)
        if inner and field.get("type") in MANY:
            value = MANY[field["type"]]
        others = [_value(one) for one in field.get("anyOf", ()) if not _sections_of(one)]
        if inner and others:
            value = " or ".join(["section", *others])
        lines.append(_row(f"`{name}`", value, default, field.get("description", "")))
        for section in inner:
            nested += _section(f"{dotted}.{name}", section, models, seen)
    return lines + nested


def _row(*cells: str) -> str:
    """Return a table's row; within a cell neither a line break nor a bare `|` may stand."""
    inline = (" ".join(cell.splitlines()).replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(inline)} |"


def _value(field: Schema) -> str:
    """Return what a field accepts, in words."""
    if "anyOf" in field:
        return " or ".join(_value(option) for option in field["anyOf"])
    if "enum" in field or "const" in field:
        return ", ".join(f"`{v}`" for v in field.get("enum", [field.get("const")]))
    limits = [f"{sign} {field[key]:g}" for key, sign in LIMITS.items() if key in field]
    return " ".join([field.get("type", "any"), *limits])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render_reference(), encoding="utf-8")
