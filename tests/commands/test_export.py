"""`coop-rl export`: a folder with its card, or one line and no folder."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import yaml
from typer.testing import CliRunner

from coop_rl.cli import app
from coop_rl.errors import UserError
from tests.observability.records import evaluated
from tests.support.stored_run import STEP, Stored, store_run


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    run = store_run(tmp_path_factory.mktemp("runs") / "mine")
    for step, num_right in ((0, 1), (STEP, 3)):
        folder = run.path / f"evaluations/step-{step:06d}"
        folder.mkdir(parents=True)
        evaluated("sums", step, num_right, 4).write(folder / "sums.json")
    rows = [{"step": k, "ledger/updates": k + 1, "time/device_s/rollout": 2.5} for k in range(5)]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def export(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["export", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_card_says_what_it_is_and_what_it_took(stored: Stored, tmp_path: Path) -> None:
    printed = export(stored.path, tmp_path / "model", "--dtype", "bfloat16")
    assert printed == f"mine-step-000003 as a merged model in {tmp_path}/model\n"
    card = (tmp_path / "model/README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "transformers"
    assert "base_model" not in header, "a path, which the hub refuses"
    for expected in (
        "for 3 of 50 steps with the method `bridge`",
        "| sums | pass@1 | 0.250 (",
        "| `ledger/updates` | 3 | steps: optimiser steps of theta so far |",
        "| prompts | demo/prompts.jsonl | 32 |",
        "rank 16, alpha 16; part of the policy",
    ):
        assert expected in card
    assert json.loads((tmp_path / "model/config.json").read_text())["dtype"] == "bfloat16"
    kept = json.loads((tmp_path / "model/coop-rl.json").read_text())
    assert kept == json.loads((stored.path / "config.json").read_text())
    assert {"tokenizer.json", "tokenizer_config.json"} <= {
        path.name for path in (tmp_path / "model").iterdir()
    }


def test_an_adapter_states_its_error(stored: Stored, tmp_path: Path) -> None:
    export(stored.checkpoint, tmp_path / "both", "--adapter")
    assert 'f"{folder}/adapter"' in (tmp_path / "both/README.md").read_text()
    printed = export(stored.path, tmp_path / "factors", "--adapter", "--rank", 4)
    assert "rank 4 leaves out" in printed
    assert printed.splitlines()[0] in (tmp_path / "factors/README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["RUN", "FULL"], "is not empty; give a new or empty folder"),
        (["FULL", "NEW"], "is no run .no checkpoints/.; give a run directory"),
        (["RUN", "NEW", "--rank", "4"], "--rank 4 is of an adapter; add --adapter"),
        (["RUN", "NEW", "--adapter", "--rank", "4", "--dtype", "float32"], "factors are fp32"),
        (["RUN", "NEW", "--checkpoint", "best"], "has no best checkpoint"),
        (["RUN", "NEW", "--base", "./gone"], "no model folder .*gone; .*, here by --base"),
    ],
)
def test_bad_input_leaves_nothing(
    stored: Stored, tmp_path: Path, arguments: list[str], expected: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    places = {"RUN": stored.path, "FULL": tmp_path / "full", "NEW": tmp_path / "new"}
    with pytest.raises(UserError, match=expected):
        export(*(places.get(argument, argument) for argument in arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


class ConnectError(Exception):
    """As the client's HTTP library raises."""


class Hub:
    """Stands in for the hub's client."""

    asked: list[tuple[str, object]]

    def __init__(self, refuses: str = "") -> None:
        self.asked, self.refuses = [], refuses

    def __call__(self) -> "Hub":
        return self

    def create_repo(self, name: str, **options: object) -> None:
        self.asked.append((name, options))
        if self.refuses == "create":
            raise ConnectError("401 Unauthorized\nmore")

    def upload_folder(self, repo_id: str, folder_path: Path) -> str:
        self.asked.append((repo_id, (folder_path / "README.md").is_file()))
        if self.refuses == "upload":
            raise ConnectError("403 Forbidden")
        return "https://hub/commit/1"


@pytest.mark.parametrize("refuses", ["", "create", "upload"])
def test_sent_to_the_hub(stored: Stored, tmp_path: Path, monkeypatch, refuses: str) -> None:
    hub, new = Hub(refuses), tmp_path / "new"
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    if refuses:
        wanted = {
            "create": "does not open me/mine: 401 Unauthorized; log in",
            "upload": "hf upload",
        }
        with pytest.raises(UserError, match=wanted[refuses]):
            export(stored.path, new, "--push", "me/mine")
    else:
        assert "sent to https://hub/commit/1" in export(stored.path, new, "--push", "me/mine")
        assert 'folder = "me/mine"' in (new / "README.md").read_text()
    assert new.exists() == (refuses != "create")
    assert hub.asked[0] == ("me/mine", {"private": True, "exist_ok": True})
