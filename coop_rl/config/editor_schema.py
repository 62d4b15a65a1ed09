"""The JSON schema of a config file, for editors: `coop-rl schema` prints it."""

from typing import Any

from coop_rl.config.read import EXTENDS
from coop_rl.config.schema import RunConfig


def editor_schema() -> dict[str, Any]:
    """Return the schema of `RunConfig`, in which a file that extends another may leave all out.

    What a section requires is then required of the file that stands alone, so it moves from the
    models of the top sections into a condition.
    """
    schema = RunConfig.model_json_schema()
    schema["properties"][EXTENDS] = {
        "type": "string",
        "description": "The file whose values this one is laid over, by its path from this one.",
    }
    alone: dict[str, Any] = {"required": schema.pop("required"), "properties": {}}
    for name in alone["required"]:
        section = schema["$defs"][schema["properties"][name]["$ref"].rpartition("/")[2]]
        alone["properties"][name] = {"required": section.pop("required")}
    return schema | {"if": {"not": {"required": [EXTENDS]}}, "then": alone}
