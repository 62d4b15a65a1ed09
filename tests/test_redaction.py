"""No secret is kept or shown: config, logs, run.json, terminal."""

import logging
from pathlib import Path

import pytest

from coop_rl import cli
from coop_rl.config import load_config
from coop_rl.errors import ConfigError
from coop_rl.observability.logs import route_library_logs
from coop_rl.observability.run_status import RunStatus
from coop_rl.redaction import redacted
from tests.main_job.harness import DEMO

HUB = "hf_" + "aB3" * 12
TOLD = "cannot fetch with "


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{TOLD}{HUB}!", f"{TOLD}***!"),
        ("https://me:pass@host/x of https://host/a:b", "https://***@host/x of https://host/a:b"),
        ("AKIAABCDEFGHIJKLMNOP", "***"),
        ("sk-ant-" + "xY3" * 12, "***"),
        ("held-out/value of my wandb", "*** of my wandb"),
        ("task-123456789012345678901 keeps true", "task-123456789012345678901 keeps true"),
        ("models/sk-small-distilled-from-a-larger-one-2", None),
    ],
)
def test_secrets_are_hidden_by_look_and_by_their_variable(
    monkeypatch: pytest.MonkeyPatch, text: str, shown: str | None
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "held-out/value")
    monkeypatch.setenv("RAY_AUTH_TOKEN_SHOWN", "true")  # too short to be one
    assert redacted(text) == (shown or text)


@pytest.mark.parametrize(
    "field",
    [
        "observability.tracker_options={wandb: {host: VALUE}}",
        "model.path=VALUE",
        "evaluation.benchmarks=[VALUE]",
    ],
)
def test_a_config_with_a_secret_is_refused_and_does_not_show_it(field: str) -> None:
    with pytest.raises(ConfigError, match="holds what looks like a secret") as refused:
        load_config(DEMO, [field.replace("VALUE", HUB), "observability.trackers=[wandb]"])
    assert field.split("=")[0] in str(refused.value)
    assert HUB not in str(refused.value)


def test_logs_run_json_and_the_terminal_hide_secrets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with route_library_logs(tmp_path / "driver.log"):
        try:
            raise ValueError(TOLD + HUB)
        except ValueError:
            logging.getLogger("ray").exception("%s failed", HUB)
    RunStatus(tmp_path / "run.json", {"status": "running"}).finish("failed", TOLD + HUB)
    cli._tell(TOLD + HUB)
    shown = [(tmp_path / name).read_text() for name in ("driver.log", "run.json")]
    for text in (*shown, capsys.readouterr().err):
        assert "***" in text
        assert HUB not in text
