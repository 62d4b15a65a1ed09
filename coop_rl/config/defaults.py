"""Defaults that depend on other sections; filled in before validation, so that config.json shows
them.
"""

from typing import Any


def weigh_named_sources(values: Any) -> Any:
    """Return a config's values with `demonstrations` guidance where there are sources to weigh.

    Only where meta.guidance is not set. Beside w and its shadow it gave less, for twice the cost
    (docs/results.md). It differentiates one optimiser step from both losses; where the settings
    take others, w is tuned.
    """
    names = ("meta", "method", "learner", "demonstrations")
    found = [values.get(name) or {} for name in names] if isinstance(values, dict) else []
    sections = [section for section in found if isinstance(section, dict)]
    if len(sections) < len(names):
        return values  # not from a file, or to be refused
    meta, method, learner, demonstrations = sections
    has_sources = any(demonstrations.get(key) for key in ("mixture", "source_column", "split_by"))
    is_covered = (
        method.get("kind", "bridge") == "bridge"
        and method.get("mix", 0.5) not in (0, 1)
        and learner.get("num_minibatches", 1) == learner.get("num_epochs", 1) == 1
    )
    if "guidance" in meta or not (has_sources and is_covered):
        return values
    return {**values, "meta": {**meta, "guidance": ["demonstrations"]}}
