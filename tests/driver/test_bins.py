"""Difficulty of the demonstrations' prompts: asked once, kept, and what the bins are made of."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from coop_rl.config import load_config
from coop_rl.data.collection import Mixture
from coop_rl.data.load import RunData
from coop_rl.driver.bins import split_demonstrations
from coop_rl.errors import RunDirectoryError
from coop_rl.types import (
    Demonstration,
    PolicyVersion,
    Prompt,
    Reward,
    Rollout,
    SamplingSettings,
    ScoredGroup,
)

CONFIG = load_config(
    Path("configs/local/demo.yaml"),
    [
        "meta.guidance=[demonstrations]",
        "demonstrations.split_by=difficulty",
        "demonstrations.difficulty_samples=4",
        "demonstrations.bins=2",
    ],
)
RIGHT = {1: 4, 2: 0, 3: 3}
"""First token of a prompt -> right ones of the base model's four responses."""
NO_TEAM: Any = None
"""Learners are not asked for difficulty."""


class BaseModel:
    """Answers at once, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], SamplingSettings, PolicyVersion]] = []

    def begin(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingSettings,
        version: PolicyVersion,
        on_all: Callable[[Sequence[ScoredGroup]], None],
    ) -> None:
        self.asked.append(([prompt.id for prompt in prompts], sampling, version))
        rollouts = (Rollout((1,), (0.0,), "", False, version),) * sampling.num_samples
        groups = []
        for prompt in prompts:
            right = RIGHT[prompt.token_ids[0]]
            rewards = [Reward(0.0, is_correct=i < right) for i in range(sampling.num_samples)]
            groups.append(ScoredGroup(prompt, rollouts, tuple(rewards)))
        on_all(groups)

    def wait_through(self, is_done: Callable[[], bool]) -> None:
        assert is_done()


def data_of(*first_tokens: int) -> RunData:
    shown = [Demonstration(str(i), (n,), (9,)) for i, n in enumerate(first_tokens)]
    asked = tuple(Prompt(str(i), "", (n,), "4") for i, n in enumerate(first_tokens))
    names = ("difficulty-1", "difficulty-2")
    return RunData(Mixture([], []), Mixture.of(shown), (), (), names, cast(Any, str), asked)


def test_each_prompt_is_tried_once_by_the_base_model_and_the_result_is_kept(tmp_path: Path) -> None:
    model, file = BaseModel(), tmp_path / "difficulty.json"
    data = data_of(1, 2, 3, 2)
    lines: list[str] = []
    for _ in range(2):  # the second time as a resumed run
        split = split_demonstrations(CONFIG, data, NO_TEAM, model, file, lines.append)
        assert [d.source.removeprefix("difficulty-") for d in split] == ["1", "2", "1", "2"]
    ((asked, sampling, version),) = model.asked
    assert len(asked) == 3
    assert (sampling.num_samples, version) == (4, PolicyVersion(0, 0))
    with pytest.raises(RunDirectoryError, match="of 4 demonstrations, the data now has 3"):
        split_demonstrations(CONFIG, data_of(1, 2, 3), NO_TEAM, model, file, lines.append)
    assert lines == [
        "the base model tries the prompts of 4 demonstrations, 4 x each",
        "it is right in 43.8% of its responses to them",
    ]
