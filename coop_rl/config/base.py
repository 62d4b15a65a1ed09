"""The strictness all sections share: unknown keys and infinite numbers are errors, values stay."""

from pydantic import BaseModel, ConfigDict

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What runs, sources and sets may be called: it becomes part of paths and of metrics' names."""


class Section(BaseModel):
    """A frozen part of the config whose attribute docstrings become the reference page."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )
