"""A user's reward is called on real prompts before anything starts."""

from pathlib import Path

import pytest

from coop_rl.data.load import load_run_data
from coop_rl.errors import ConfigError
from tests.data.test_collection import configure

FUNCTIONS = str(Path(__file__).parents[1] / "rewards/user_functions.py")


@pytest.mark.parametrize("where", ["function", "part"])
def test_a_function_that_fails_on_every_call_is_refused(tmp_path: Path, where: str) -> None:
    location = f"{FUNCTIONS}:failing"
    sets = {
        "function": ["reward.kind=python", f"reward.function={location}"],
        "part": [f"reward.parts={{own: {{kind: python, function: '{location}'}}}}"],
    }
    with pytest.raises(ConfigError, match=r"failing: all 12 calls .* failed, the first by KeyE"):
        load_run_data(configure(tmp_path, "method.kind=rl", *sets[where]))


def test_a_function_that_fails_on_some_responses_is_taken(tmp_path: Path) -> None:
    function = f"reward.function={FUNCTIONS}:boxed_only"
    config = configure(tmp_path, "method.kind=rl", "reward.kind=python", function)
    assert len(load_run_data(config).prompts) == 30
