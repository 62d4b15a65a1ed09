"""docs/data-flow.md shows the types as they are."""

import dataclasses
import re
from pathlib import Path

import pytest

from coop_rl import types

PAGE = Path("docs/data-flow.md").read_text(encoding="utf-8")
SHOWN = (
    types.Prompt,
    types.Rollout,
    types.Reward,
    types.TokenSample,
    types.Demonstration,
    types.PackedBatch,
    types.SourceBatch,
    types.MicroBatch,
    types.StepResult,
    types.AdapterGradients,
    types.CooperativeGain,
    types.GuidanceUpdate,
    types.PolicyVersion,
)


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.__name__)
def test_data_flow_page_has_the_fields_of(shown) -> None:
    sections = re.findall(rf"## {shown.__name__}\n(.*?)(?=\n## |\Z)", PAGE, re.DOTALL)
    assert sections, "run make docs"
    for section in sections:
        found = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
        assert found == [field.name for field in dataclasses.fields(shown)], "run make docs"
