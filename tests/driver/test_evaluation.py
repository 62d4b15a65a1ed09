"""When it evaluates, what it reports, and that a resumed run compares with the base model."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from coop_rl.config import RunConfig, load_config
from coop_rl.driver.evaluation import Evaluator
from coop_rl.errors import ConfigError, RunError
from coop_rl.evaluation.result import EvaluationResult
from coop_rl.evaluation.sets import EvaluationSet
from coop_rl.metric_names import describe
from coop_rl.tracing.stages import Stages
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
SETS = [EvaluationSet("sums", PROMPTS), EvaluationSet("few", PROMPTS[:3])]


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
                (Reward(float(int(p.id) < self.level), int(p.id) < self.level, answer="4"),) * n,
            )
            for p in prompts
        ]


def config(*overrides: str) -> RunConfig:
    return load_config(DEMO, [*FIELDS, *overrides])


def evaluator(policy: Policy, config: RunConfig, folder: Path | None = None) -> Evaluator:
    return Evaluator(config, SETS, policy.generate, Stages(), folder)


@pytest.mark.parametrize(
    ("every", "due"), [(0, [0, 6]), (2, [0, 2, 4, 6]), (4, [0, 4, 6]), (9, [0, 6])]
)
def test_due_before_after_and_every_n_steps(every: int, due: list[int]) -> None:
    role = evaluator(Policy(5), config(f"evaluation.every={every}"))
    assert [s for s in range(7) if role.maybe_run(s, PolicyVersion(s, s))] == due


def test_metrics_have_values_and_intervals() -> None:
    policy = Policy(5)
    metrics = evaluator(policy, config()).maybe_run(0, PolicyVersion(0, 0))
    for key in ("pass@1", "avg@4", "pass@2", "pass@4", "maj@4"):
        assert metrics[f"eval/sums/{key}"] == 0.5
        assert metrics[f"eval/sums/{key}_low"] < 0.5 < metrics[f"eval/sums/{key}_high"]
    assert metrics["eval/sums/truncated"] == pytest.approx(0.8)
    assert metrics["eval/sums/length_mean"] == 3
    assert metrics["eval/sums/unscored"] == 0
    assert metrics["eval/sums/format"] == 1
    assert metrics["eval/few/pass@1"] == 1
    assert [name for name in metrics if describe(name) is None] == []
    greedy, sampled, *_ = policy.asked
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
    assert role.comparisons() == []
    role.maybe_run(0, PolicyVersion(0, 0))
    assert role.comparisons() == []
    policy.level = 7
    role.maybe_run(6, PolicyVersion(6, 6))
    sums, few = role.comparisons()
    assert (sums.name, few.name) == ("sums", "few")
    assert (sums.before.step, sums.after.step) == (0, 6)
    assert sums.differences["pass@1"].value == pytest.approx(0.5)
    assert sums.differences["avg@4"].low > 0
    assert few.differences["maj@4"].value == pytest.approx(1 / 3)


def test_a_resumed_run_compares_with_the_base_model(tmp_path: Path) -> None:
    evaluator(Policy(2), config(), tmp_path / "e").maybe_run(0, PolicyVersion(0, 0))
    resumed = evaluator(Policy(7), config(), tmp_path / "e")
    assert resumed.comparisons() == []
    resumed.maybe_run(6, PolicyVersion(6, 6))
    comparison, _ = resumed.comparisons()
    assert comparison.before.step == 0
    assert comparison.before.greedy_correct == (True, True, *(False,) * 8)


def test_other_items_are_not_compared(tmp_path: Path) -> None:
    shorter = [EvaluationSet("sums", PROMPTS[:5])]
    Evaluator(config(), shorter, Policy(2).generate, Stages(), tmp_path).maybe_run(
        0, PolicyVersion(0, 0)
    )
    resumed = evaluator(Policy(7), config(), tmp_path)
    resumed.maybe_run(6, PolicyVersion(6, 6))
    assert resumed.comparisons() == []


def test_every_response_is_kept_with_its_verdict(tmp_path: Path) -> None:
    evaluator(Policy(5), config(), tmp_path).maybe_run(6, PolicyVersion(6, 6))
    folder = tmp_path / "step-000006"
    assert sorted(p.name for p in folder.iterdir()) == [
        "few.json",
        "few.responses.jsonl",
        "sums.json",
        "sums.responses.jsonl",
    ]
    rows = [json.loads(line) for line in (folder / "sums.responses.jsonl").open()]
    kept = {(row["prompt_id"], row["kind"], row["sample"]) for row in rows}
    greedy = {(p.id, "greedy", 0) for p in PROMPTS}
    assert kept == greedy | {(p.id, "sampled", i) for p in PROMPTS for i in range(4)}
    assert rows[0] == {
        "prompt_id": "0",
        "prompt": PROMPTS[0].text,
        "kind": "greedy",
        "sample": 0,
        "text": "#4",
        "num_tokens": 3,
        "is_truncated": False,
        "gold": "4",
        "answer": "4",
        "is_correct": True,
        "has_format": True,
        "reward": 1.0,
        "status": "scored",
    }
    result = EvaluationResult.read(folder / "sums.json")
    assert sum(row["is_correct"] for row in rows if row["kind"] == "sampled") == sum(
        result.num_correct
    )


def test_what_was_judged_before_a_failure_stays(tmp_path: Path) -> None:
    policy = Policy(5)

    def generate(
        prompts: Sequence[Prompt], sampling: SamplingSettings, version: PolicyVersion
    ) -> list[ScoredGroup]:
        if sampling.temperature:
            raise RunError("rollout-0 died")
        return policy.generate(prompts, sampling, version)

    role = Evaluator(config(), SETS, generate, Stages(), tmp_path)
    with pytest.raises(RunError):
        role.maybe_run(0, PolicyVersion(0, 0))
    (left,) = (tmp_path / "step-000000").iterdir()
    assert left.name == "sums.responses.jsonl.part"
    assert len(left.read_text().splitlines()) == len(PROMPTS)


def test_large_sets_are_asked_in_parts() -> None:
    policy = Policy(5)
    evaluator(policy, config("rollout.max_num_seqs=1")).maybe_run(0, PolicyVersion(0, 0))
    # Eight responses at a time: 10 greedy ones in 2 parts, then two items' samples in each of 5.
    assert [s.num_samples for s in policy.asked[:7]] == [1, 1, 4, 4, 4, 4, 4]


def test_settings_reach_the_sampler() -> None:
    policy = Policy(5)
    changed = config("evaluation.top_p=0.9", "evaluation.max_tokens=99", "evaluation.pass_at=[3]")
    metrics = evaluator(policy, changed).maybe_run(0, PolicyVersion(0, 0))
    greedy, sampled, *_ = policy.asked
    assert (greedy.top_p, sampled.top_p, greedy.max_tokens) == (1.0, 0.9, 99)
    assert "eval/sums/pass@3" in metrics
    assert "eval/sums/pass@4" not in metrics


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("evaluation.pass_at=[5]", "must lie between 2 and evaluation.num_samples 4, got 5"),
        ("evaluation.benchmarks=[sums]", "got sums twice"),
        ("evaluation.name=demonstrations", "must not be called demonstrations"),
        ("evaluation.data=null", "needs data (held-out prompts) or benchmarks"),
        ("checkpoint.best=eval/sums/pass@8", "is no metric of the evaluation; allowed: "),
    ],
)
def test_sections_that_make_no_sense(override: str, expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        config(override)
    assert expected in str(refused.value)
