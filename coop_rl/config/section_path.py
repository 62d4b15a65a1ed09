"""Where in the config a value lies: a dotted name, and the models that may describe it there."""

from collections.abc import Sequence
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from coop_rl.config.schema import RunConfig


class SectionPath:
    """A section of the config, found by its dotted name or by the location of a pydantic error.

    A pydantic location also names the variant after every section that has several: the field
    method.mix is at ("method", "bridge", "mix").
    """

    def __init__(self, location: Sequence[str], *, names_variants: bool = False) -> None:
        self.names: list[str] = []
        self._models: list[type[BaseModel]] = [RunConfig]
        self._holds_items = False
        """Whether this is a list or a mapping of sections, from which the next part chooses one."""
        for part in location:
            if names_variants and self.has_open_variants:
                self.choose_variant(part)
                continue
            self.names.append(part)
            if self._holds_items:
                self._holds_items = False
                continue
            field = self.fields.get(part)
            self._models = _models_in(field.annotation) if field else []
            self._holds_items = field is not None and get_origin(field.annotation) in (list, dict)

    @property
    def has_open_variants(self) -> bool:
        """Whether the section has several variants and none is chosen."""
        return len(self._models) > 1 and not self._holds_items

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """The fields of the section; of all its variants, where none is chosen."""
        found: dict[str, FieldInfo] = {}
        for model in [] if self._holds_items else self._models:
            found = {**model.model_fields, **found}
        return found

    @property
    def kinds(self) -> list[str]:
        """The kinds of the section's variants."""
        return [m.model_fields["kind"].default for m in self._models if "kind" in m.model_fields]

    def choose_variant(self, kind: str) -> "SectionPath":
        """Keep only the variant `kind`, if the section has it; return this path."""
        variants = [m for m in self._models if "kind" in m.model_fields]
        chosen = [m for m in variants if m.model_fields["kind"].default == kind]
        self._models = chosen or self._models
        return self


@cache
def all_fields() -> dict[str, list[str]]:
    """Return where each name is a field, by dotted names; not within lists and mappings."""
    found: dict[str, list[str]] = {}

    def look(section: SectionPath) -> None:
        for name, field in section.fields.items():
            found.setdefault(name, []).append(".".join([*section.names, name]))
            if _models_in(field.annotation):
                look(SectionPath([*section.names, name]))

    look(SectionPath([]))
    return found


def drop_fields_of_other_kinds(section: dict[str, Any], names: Sequence[str], kind: object) -> None:
    """Delete the fields that the variant `kind` of the section at `names` does not have."""
    fields = SectionPath(names).choose_variant(str(kind)).fields
    for name in list(section):
        if fields and name not in fields and name != "kind":
            del section[name]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the models a type allows, also within unions, lists and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]
