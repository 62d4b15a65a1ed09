"""When it evaluates, what it reports, and that a resumed run compares with the base model."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from coop_rl.config import RunConfig, load_config
from coop_rl.evaluation.evaluator import Evaluator
from coop_rl.observability.metrics import describe
from coop_rl.observability.stages import Stages
from coop_rl.types import (
    PolicyVersion,
    Prompt,
    Reward,
    Rollout,
    SamplingSettings,
    ScoredGroup,
)

DEMO = Path(__file__).parents[2] / "configs/local/demo.yaml"
FIELDS = (
    "run.num_steps=6",
    "rollout.max_tokens=56",
    "evaluation.name=sums",
    "evaluation.num_samples=4",
    "evaluation.temperature=1.0",
    "evaluation.every=0",
)
PROMPTS = [Prompt(str(i), "?", (1,), "4") for i in range(10)]


class Policy:
    """Right on the items below `level`; remembers how it was asked."""

    def __init__(self, level: int) -> None:
        self.level = level
        self.asked: list[SamplingSettings] = []

    def generate(
        self, prompts: Sequence[Prompt], sampling: SamplingSettings, version: PolicyVersion
    ) -> list[ScoredGroup]:
        self.asked.append(sampling)
        rollout = Rollout((1, 2, 3), (0.0,) * 3, "#4", sampling.temperature > 0, version)
        n = sampling.num_samples
        return [
            ScoredGroup(
                p,
                (rollout,) * n,
                (Reward(float(int(p.id) < self.level), int(p.id) < self.level),) * n,
            )
            for p in prompts
        ]


def config(*overrides: str) -> RunConfig:
    return load_config(DEMO, [*FIELDS, *overrides])


def evaluator(policy: Policy, config: RunConfig, folder: Path | None = None) -> Evaluator:
    return Evaluator(config, PROMPTS, policy.generate, Stages(), folder)


@pytest.mark.parametrize(
    ("every", "due"), [(0, [0, 6]), (2, [0, 2, 4, 6]), (4, [0, 4, 6]), (9, [0, 6])]
)
def test_due_before_after_and_every_n_steps(every: int, due: list[int]) -> None:
    role = evaluator(Policy(5), config(f"evaluation.every={every}"))
    assert [s for s in range(7) if role.maybe_run(s, PolicyVersion(s, s))] == due


def test_metrics_have_values_and_intervals() -> None:
    policy = Policy(5)
    metrics = evaluator(policy, config()).maybe_run(0, PolicyVersion(0, 0))
    for key in ("pass@1", "avg@4", "pass@4"):
        assert metrics[f"eval/sums/{key}"] == 0.5
        assert metrics[f"eval/sums/{key}_low"] < 0.5 < metrics[f"eval/sums/{key}_high"]
    assert metrics["eval/sums/truncated"] == pytest.approx(0.8)
    assert metrics["eval/sums/length_mean"] == 3
    assert metrics["eval/sums/unscored"] == 0
    assert [name for name in metrics if describe(name) is None] == []
    greedy, sampled = policy.asked
    assert (greedy.temperature, greedy.num_samples) == (0.0, 1)
    assert (sampled.temperature, sampled.num_samples) == (1.0, 4)
    assert sampled.max_tokens == 56


def test_every_evaluation_uses_the_same_random_numbers() -> None:
    policy = Policy(5)
    role = evaluator(policy, config())
    for step in (0, 6):
        role.maybe_run(step, PolicyVersion(step, step))
    assert len({sampling.seed for sampling in policy.asked}) == 1


def test_comparison_is_paired_by_item() -> None:
    policy = Policy(2)
    role = evaluator(policy, config())
    assert role.comparison() is None
    role.maybe_run(0, PolicyVersion(0, 0))
    assert role.comparison() is None
    policy.level = 7
    role.maybe_run(6, PolicyVersion(6, 6))
    comparison = role.comparison()
    assert comparison
    assert (comparison.before.step, comparison.after.step) == (0, 6)
    assert comparison.pass_at_1_difference.value == pytest.approx(0.5)
    assert comparison.average_difference.low > 0


def test_a_resumed_run_compares_with_the_base_model(tmp_path: Path) -> None:
    evaluator(Policy(2), config(), tmp_path / "e").maybe_run(0, PolicyVersion(0, 0))
    resumed = evaluator(Policy(7), config(), tmp_path / "e")
    assert resumed.comparison() is None
    resumed.maybe_run(6, PolicyVersion(6, 6))
    comparison = resumed.comparison()
    assert comparison
    assert comparison.before.step == 0
    assert comparison.before.greedy_correct == (True, True, *(False,) * 8)


def test_other_items_are_not_compared(tmp_path: Path) -> None:
    Evaluator(config(), PROMPTS[:5], Policy(2).generate, Stages(), tmp_path).maybe_run(
        0, PolicyVersion(0, 0)
    )
    resumed = evaluator(Policy(7), config(), tmp_path)
    resumed.maybe_run(6, PolicyVersion(6, 6))
    assert resumed.comparison() is None
