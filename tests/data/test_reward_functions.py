"""A user's reward is called on real prompts before anything starts."""

import json
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


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("text_for_the_right", r"4 of 12 calls .* no reward, the first by RewardValueE.*'1' \(str"),
        ("rank", r"all 12 calls on prompts failed, the first by RewardValueError: .* 1 rewards"),
    ],
)
def test_a_function_that_returns_no_reward_is_refused(
    tmp_path: Path, function: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One wrong type is enough: it would be so in the run, and a right answer scores nothing."""
    if function == "rank":
        monkeypatch.setattr("coop_rl.data.golds.RESPONSE_FORMS", ("short", "GOLD", "x"))
    sets = ["reward.kind=python", f"reward.function={FUNCTIONS}:{function}"]
    with pytest.raises(ConfigError, match=message):
        load_run_data(configure(tmp_path, "method.kind=rl", *sets))


def test_functions_are_called_with_all_columns(tmp_path: Path) -> None:
    sets = ["reward.kind=python", f"reward.function={FUNCTIONS}:columns_known"]
    data = load_run_data(configure(tmp_path, "method.kind=rl", *sets))
    assert json.loads(data.prompts[3].columns)["reasoning"] == "3+1=4"
    assert json.loads(data.held_out[3].columns)["id"] == "r3"
    assert load_run_data(configure(tmp_path, "method.kind=rl")).prompts[3].columns == ""
