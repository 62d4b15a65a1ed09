"""The commands as functions, and a run as tables."""

import json
from pathlib import Path

import pandas as pd
import pytest

import coop_rl
from coop_rl.api import Config
from coop_rl.commands import evaluate as evaluate_command
from coop_rl.commands import train as train_command
from coop_rl.config import load_config
from coop_rl.errors import UserError
from tests.observability.records import evaluated
from tests.observability.test_observer import Session

DEMO = Path(__file__).parents[1] / "configs/local/demo.yaml"


def test_a_run_is_tables(tmp_path: Path) -> None:
    session = Session(tmp_path)
    session.run(range(6), evaluated=(0, 6))
    folder = session.directory.evaluations / "step-000006"
    folder.mkdir(parents=True)
    evaluated("sums", 6, 3, 4).write(folder / "sums.json")
    (tmp_path / "run.json").write_text(json.dumps({"status": "finished"}))
    run = coop_rl.load_run(tmp_path)
    assert list(run.metrics.index) == list(range(6))
    assert run.metrics["reward/mean"].notna().all()
    assert run.metrics["grad/cosine"].isna().all()
    assert list(run.evaluations["eval/sums/pass@1"]) == [0.5, 0.5]
    assert list(run.evaluations.index) == [0, 6]
    assert list(run.samples.columns[:2]) == ["step", "version"]
    assert len(run.samples) == 12
    assert run.evaluation(6)["sums"].pass_at_1.value == 0.75
    assert run.config == session.config
    assert run.status["status"] == "finished"


def test_a_run_that_wrote_nothing_yet_has_empty_tables(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(load_config(DEMO).model_dump_json())
    run = coop_rl.load_run(str(tmp_path))
    for table in (run.metrics, run.evaluations, run.samples):
        assert isinstance(table, pd.DataFrame)
        assert table.empty
    with pytest.raises(UserError, match="is no run"):
        coop_rl.load_run(tmp_path / "none")


@pytest.mark.parametrize("form", ["path", "text", "config", "mapping"])
def test_train_takes_a_config_in_any_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    got: list[object] = []

    def run_training(config: object, run_dir: Path | None, resume: str) -> Path:
        got.extend([config, run_dir, resume])
        return tmp_path

    monkeypatch.setattr(train_command, "run_training", run_training)
    loaded = load_config(DEMO)
    forms: dict[str, Config] = {
        "path": DEMO,
        "text": str(DEMO),
        "config": loaded,
        "mapping": loaded.model_dump(mode="json"),
    }
    result = coop_rl.train(forms[form], overrides=["run.num_steps=3"], run_dir=str(tmp_path))
    assert result == coop_rl.Result(tmp_path)
    assert got == [load_config(DEMO, ["run.num_steps=3"]), tmp_path, "auto"]


def test_evaluate_takes_the_command_s_options(tmp_path: Path, monkeypatch) -> None:
    got: list[object] = []

    def run_evaluation(*given: object) -> dict:
        got.extend(given)
        return {}

    monkeypatch.setattr(evaluate_command, "run_evaluation", run_evaluation)
    assert (
        coop_rl.evaluate("a", tmp_path, benchmarks=["gsm8k"], config=str(DEMO), num_items=2) == {}
    )
    request = evaluate_command.EvaluationRequest(
        ("a", str(tmp_path)), ("gsm8k",), num_items=2, config=DEMO
    )
    assert got == [request, None]
    with pytest.raises(TypeError, match="num_item"):
        coop_rl.evaluate("a", num_item=2)


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute tain"):
        coop_rl.tain  # noqa: B018
