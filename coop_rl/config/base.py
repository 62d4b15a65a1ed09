"""The strictness all sections share: unknown keys and infinite numbers are errors, values stay."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen part of the config whose attribute docstrings become the reference page."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )
