"""The strictness all sections share: unknown keys and infinite numbers are errors, values stay."""

import re

from pydantic import BaseModel, ConfigDict

SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
"""Names of environment variables and options that hold secrets."""


class Section(BaseModel):
    """A frozen part of the config whose attribute docstrings become the reference page."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )
