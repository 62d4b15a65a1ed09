"""What `coop-rl submit` sends, and what it refuses before it sends anything."""

from pathlib import Path

import pytest

from coop_rl.commands.submit import plan_submission
from coop_rl.config import load_config
from tests.support.in_process import ROOT, coop_rl

DEMO = ROOT / "configs/local/demo.yaml"
NOBODY = "http://127.0.0.1:9"


def test_a_submitted_job_starts_where_there_is_only_python3(tmp_path: Path) -> None:
    """As in vLLM's image, which docker/gpu.Dockerfile is built from."""
    job = plan_submission(load_config(DEMO), DEMO, (), tmp_path, ROOT)
    assert job.entrypoint.startswith("python3 -m coop_rl train ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--run-dir", "run"), "absolute run directory"),
        (("--working-dir", "tests"), "not in the working directory"),
        (("--address", NOBODY), "no Ray job server"),
        (("--set=placement.environment=[NOT_SET_ANYWHERE]",), "NOT_SET_ANYWHERE, which is not set"),
        (("--set=placement.environment=[HF_TOKEN]",), "a secret"),
    ],
)
def test_what_cannot_be_submitted_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.setenv(name, NOBODY)  # so that both are as before in the end
    done = coop_rl("submit", str(DEMO), "--run-dir", str(tmp_path / "run"), *arguments)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert words in line
