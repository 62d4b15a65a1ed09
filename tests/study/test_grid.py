"""A grid is refused at the door, in one line, for everything that is wrong with it."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from coop_rl.cli import app
from coop_rl.errors import ConfigError
from coop_rl.study.planned import read_study
from tests.study.stored import GRID, write_grid

ROOT = Path(__file__).parents[2]
GRIDS = sorted((ROOT / "configs/study").glob("*.yaml"))
SFT = {"sft": {"method.kind": "sft"}}
RATES = [{"learner.lr": 1e-4}, {"learner.lr": 2e-4}]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"arm": {}}, "unknown key arm; allowed: question, base, set, arms"),
        ({"seeds": None}, "seeds is missing; add it to the grid"),
        ({"seeds": [0, 0]}, "seeds must differ from each other, got 0 twice"),
        ({"seeds": [-1]}, "seeds.0: Input should be greater than or equal to 0, got -1"),
        ({"seeds": [0, 1000]}, "none of the study's seeds, got 1000 in both"),
        ({"known_seeds": [3]}, "known_seeds must be some of the seeds, got 3"),
        ({"arms": {}}, "arms: "),
        ({"arms": {"0": {}}}, "arms.0: String should match pattern"),
        ({"contrasts": [{"arm": "x", "reference": "rl"}]}, "no arm x; arms are bridge, rl"),
        ({"contrasts": [{"arm": "rl", "reference": "rl"}]}, "needs two arms, got rl twice"),
        ({"contrasts": [{"arm": "rl"}]}, "contrasts.0.reference is missing"),
        (
            {"contrasts": [{"arm": "rl", "reference": "bridge", "tost": 1}]},
            "unknown key contrasts.0.tost; allowed: arm, reference, margin",
        ),
        (
            {"contrasts": [*GRID["contrasts"], {"arm": "rl", "reference": "bridge"}]},
            "contrasts must differ from each other, got bridge and rl twice",
        ),
        ({"trials": {"x": RATES}}, "there is no arm x"),
        ({"trials": {"rl": RATES[:1]}}, "trials.rl: a choice needs 2 trials, got 1"),
        (
            {"arms": SFT, "contrasts": [], "trials": {"sft": RATES}},
            "method.kind sft samples nothing; remove them",
        ),
        ({"base": "gone.yaml"}, "base gone.yaml: cannot read config"),
        ({"primary": "avg@8"}, "the figure avg@8 is not measured; allowed are pass@1, avg@2"),
        (
            {"arms": {"a": {}, "b": {"evaluation.num_items": 3}}, "contrasts": []},
            "arms a and b differ in evaluation.num_items, so their figures would not compare",
        ),
        (
            {"arms": {"a": {}, "b": {"rollout.max_tokens": 9}}, "contrasts": []},
            "arms a and b differ in evaluation.max_tokens",
        ),
        ({"arms": {"a": {}, "b": {}}, "contrasts": []}, "arms a and b are the same run"),
        ({"set": {"run.seed": 1}}, "set: the study sets run.seed of each run; remove it"),
        (
            {"arms": {"a": {"learner.lr": 1e-3, "learner": {"lr": 1e-4}}}, "contrasts": []},
            "arms.a: learner.lr is set twice; keep one",
        ),
        (
            {"arms": {"a": {"run": 3, "run.num_steps": 1}}, "contrasts": []},
            "arms.a: run.num_steps: run is not a section",
        ),
        (
            {"arms": {"a": {"learner.rate": 1}}, "contrasts": []},
            "arm a: unknown config key learner.rate",
        ),
        (
            {"trials": {"rl": [{}, {"learner.rate": 1}]}},
            "trials.rl.2: unknown config key learner.rate",
        ),
        ({"trial_evaluation": {"every": 0}}, "trial_evaluation is for trials, and there are none"),
        (
            {"trials": {"rl": RATES}, "trial_evaluation": {"num_demonstrations": 8}},
            "trial_evaluation.num_demonstrations: those are kept from training",
        ),
        (
            {"trials": {"rl": RATES}, "trial_evaluation": {"items": 8}},
            "trials.rl.1 with trial_evaluation: unknown config key evaluation.items",
        ),
    ],
)
def test_a_wrong_grid_is_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    path = write_grid(tmp_path, **changes)
    with pytest.raises(ConfigError) as refused:
        read_study(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_study_is_named_by_its_file(tmp_path: Path) -> None:
    path = write_grid(tmp_path).rename(tmp_path / "my grid.yaml")
    with pytest.raises(ConfigError, match="got 'my grid'; rename it"):
        read_study(path)


def test_runs_come_seed_by_seed_over_all_arms(tmp_path: Path) -> None:
    study = read_study(write_grid(tmp_path / "grids"), tmp_path / "runs")
    runs = study.runs({})
    assert [run.name for run in runs] == [
        "bridge/0",
        "rl/0",
        "bridge/1",
        "rl/1",
        "bridge/2",
        "rl/2",
    ]
    assert [(r.config.run.seed, r.config.method.kind) for r in runs[:3]] == [
        (0, "bridge"), (0, "rl"), (1, "bridge"),
    ]  # fmt: skip
    assert runs[1].config.run.name == "grid-rl-0"
    assert runs[1].folder == tmp_path / "runs/rl/0"
    assert runs[1].log == tmp_path / "runs/rl/0.log"


def test_arms_wait_for_their_trials(tmp_path: Path) -> None:
    path = write_grid(tmp_path, trials={"rl": RATES}, seeds=[0])
    study = read_study(path)
    assert [run.name for run in study.trial_runs()] == ["rl/trial-1/1000", "rl/trial-2/1000"]
    assert [run.name for run in study.runs({})] == ["bridge/0"]
    bridge, rl = study.runs({"rl": 2})
    assert (bridge.config.learner.lr, rl.config.learner.lr) == (2e-4, 2e-4)
    assert study.runs({"rl": 1})[1].config.learner.lr == 1e-4


def test_trials_have_an_evaluation_of_their_own_which_no_arm_takes_over(tmp_path: Path) -> None:
    cheap = {"every": 0, "num_items": 16, "num_samples": 1}
    path = write_grid(tmp_path, trials={"rl": RATES}, seeds=[0], trial_evaluation=cheap)
    study = read_study(path)
    bridge, rl = study.runs({"rl": 2})
    for run in study.trial_runs():
        assert run.config.evaluation.model_dump().items() >= cheap.items()
        taken = rl.config.model_copy(update={"evaluation": run.config.evaluation})
        same = {"run": taken.run, "learner": taken.learner}
        assert run.config.model_copy(update=same) == taken
    assert [run.config.learner.lr for run in study.trial_runs()] == [1e-4, 2e-4]
    assert rl.config.evaluation == bridge.config.evaluation


def test_arms_may_be_of_unlike_length_and_be_evaluated_unlike_often(tmp_path: Path) -> None:
    long = {"method.kind": "sft", "run.num_steps": 60, "evaluation.every": 30}
    study = read_study(write_grid(tmp_path, arms={"bridge": {}, "long": long}, contrasts=[]))
    _, run = study.runs({})[:2]
    assert (run.config.run.num_steps, run.config.evaluation.every) == (60, 30)
    assert study.configs["bridge"].run.num_steps == 20


def test_paths_of_overrides_are_from_the_grids_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("{}\n")
    study = read_study(write_grid(tmp_path, set={**GRID["set"], "prompts.path": "mine.jsonl"}))
    assert study.configs["rl"].prompts.path == str(tmp_path / "mine.jsonl")


@pytest.mark.parametrize("grid", GRIDS, ids=lambda path: path.stem)
def test_a_shipped_grid_is_accepted_and_says_what_it_takes(grid: Path, tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["study", str(grid), "--dry-run", "--study-dir", str(tmp_path)])
    assert shown.exception is None, shown.exception
    assert "0 done" in shown.output
    assert not list(tmp_path.iterdir())
