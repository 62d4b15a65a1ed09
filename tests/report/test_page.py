"""The page asks for nothing, runs only its own scripts, and holds what models wrote as data."""

import base64
import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from coop_rl.metric_names import METRICS
from coop_rl.observability.losses import Loss
from coop_rl.report.at_end import conclude
from coop_rl.report.content import MAX_POINTS, content_of
from coop_rl.report.page import LIBRARIES, SCRIPTS, page, write_report
from coop_rl.report.samples import MAX_BYTES, MAX_TEXT
from coop_rl.report.stored_run import read_run, read_runs
from coop_rl.report.summary import summarise
from tests.report.runs import lines, sample, step_row, write_run

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "\u202eturned \x00\x1b[31m",
    "a\u2028b",
    "\ud800",
)
WRONG, RIGHT = [False, False, True], [True, False, True]


def data_of(html: str) -> Any:
    (text,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', html)
    return json.loads(text)


def test_page_is_whole_and_asks_for_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", right={0: WRONG, 20: RIGHT})
    html = write_report([run], tmp_path / "out.html").read_text()
    assert "connect-src 'none'" in html
    assert not re.search(r"<(script|img|iframe)[^>]+src=|<link[^>]+href=\"(?!data:)|@import", html)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == len(LIBRARIES) + len(SCRIPTS)
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in html


@pytest.mark.parametrize("text", HOSTILE)
def test_what_models_wrote_is_data(tmp_path: Path, text: str) -> None:
    run = write_run(tmp_path / "run")
    lines(run / "samples.jsonl", [sample(0, text, prompt=text, answer=text)])
    html = page(content_of([read_run(run)]))
    assert html.count("<script>") == len(LIBRARIES) + len(SCRIPTS)
    assert data_of(html)["samples"][0]["response"] == text


def test_broken_lines_are_counted_and_long_texts_cut(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    long = json.dumps(sample(1, "x" * 100_000)).encode()
    broken = json.dumps(sample(0, "BAD")).encode().replace(b"BAD", b"\xff\xc3(")
    (run / "samples.jsonl").write_bytes(broken + b"\n{torn\n[1]\n" + long + b"\n" + long[:50])
    content = content_of([read_run(run)])
    assert [s["response"] for s in content["samples"]] == ["x" * MAX_TEXT, "\ufffd\ufffd("]
    assert content["samples"][0]["response_cut"] == 100_000 - MAX_TEXT
    assert "2 lines of metrics or samples could not be read" in " ".join(content["notes"])


def test_long_runs_stay_small(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", num_steps=2)
    lines(run / "metrics.jsonl", [step_row(step) for step in range(2 * MAX_POINTS + 1)])
    lines(run / "samples.jsonl", [sample(step, "y" * 3000) for step in range(1500)])
    content = content_of([read_run(run)])
    (drawn,) = content["runs"]
    assert drawn["x"]["steps"][-1] == 2 * MAX_POINTS + 1
    assert len(drawn["x"]["steps"]) <= MAX_POINTS + 1
    assert content["num_left_out"] > 0
    assert len(page(content)) < MAX_BYTES + 1_000_000


def test_500_steps_stay_under_5_mb(tmp_path: Path) -> None:
    """Every metric at every step, and samples of 1,000 tokens that are no ASCII."""
    run = write_run(tmp_path / "run", num_steps=2)
    names = [name for name in METRICS if "<" not in name]
    rows = [dict.fromkeys(names, 1 / (step + 3)) | step_row(step) for step in range(500)]
    lines(run / "metrics.jsonl", rows)
    tokens = {"log_probs": [-0.12] * 1000, "token_lengths": [1] * 1000}
    lines(run / "samples.jsonl", [sample(i // 2, "数" * 1000, **tokens) for i in range(1000)])
    assert len(names) > 80
    assert len(page(content_of([read_run(run)])).encode()) < 5_000_000


@pytest.mark.parametrize(
    ("given", "response", "tokens", "shown"),
    [
        ("", "1+1=2", {}, []),  # of an older version
        ("", "1+1=2", {"token_lengths": [], "log_probs": [-0.5]}, []),
        ("", "1+1=2", {"token_lengths": [2, 2], "log_probs": [-0.5, -1]}, []),
        ("", "1+1=2", {"token_lengths": "x", "log_probs": None}, []),
        ("so ", "a", {"token_lengths": [1, 0], "log_probs": [-0.5, None]}, [[1, -0.5], [0, None]]),
        ("g" * (MAX_TEXT - 1), "ab", {"token_lengths": [1, 1], "log_probs": [-1, -2]}, [[1, -1]]),
    ],
)
def test_tokens_are_those_of_the_text_that_is_shown(
    tmp_path: Path, given: str, response: str, tokens: dict, shown: list
) -> None:
    run = write_run(tmp_path / "run")
    lines(run / "samples.jsonl", [sample(0, response, given=given, **tokens)])
    (found,) = content_of([read_run(run)])["samples"]
    assert (found["tokens"], found["given"]) == (shown, len(given))


def test_charts_and_samples_of_one_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", right={0: WRONG, 20: RIGHT})
    content = content_of([read_run(run)])
    titles = {chart["title"] for chart in content["charts"]}
    assert {"Training reward", "Weights of the sources", "Held-out SFT loss"} <= titles
    assert "Training accuracy" not in titles  # it is the reward
    assert {m["text"] for m in content["missing"]} >= {
        "Gain on held-out prompts: set gain.audit_every"
    }
    changes = {(s["id"], s["step"]): s["change"] for s in content["samples"] if s["from"] == "sums"}
    assert changes["0", 20] == "gained"
    assert changes["1", 20] == changes["2", 0] == ""
    assert content["runs"][0]["seconds"] == {"generate": 10.0, "other": 10.0}
    assert "run.num_steps" in [row[0] for row in content["config"]["rows"]]


def test_fields_in_which_runs_differ(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", seed=3, overrides=["learner.lr=1e-5"])
    content = content_of(read_runs([tmp_path / "a", tmp_path / "b"]))
    assert content["config"]["rows"] == [["run.seed", "0", "3"], ["learner.lr", "0.0002", "1e-05"]]
    assert content["differences"]
    assert content["arms"] == ["a", "b"]


def test_a_run_that_has_only_begun_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for name in ("metrics.jsonl", "samples.jsonl", "run.json"):
        (run / name).unlink()
    content = content_of([read_run(run)])
    assert content["runs"][0]["status"] == "unknown"
    assert "<title>" in page(content)


def test_a_run_ends_with_its_summary_and_the_next_commands(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", right={0: WRONG, 20: RIGHT})
    (run / "checkpoints/step-000020").mkdir(parents=True)
    told = conclude(run)
    assert (run / "report.html").stat().st_size > 500_000
    summary = json.loads((run / "summary.json").read_text())
    (change,) = (e["difference"] for e in summary["evaluations"] if e["figure"] == "pass@1")
    assert change["value"] == pytest.approx(1 / 3)
    assert summary["gain"] == {"value": 0.01, "stderr": 0.004, "measurements": 3}
    assert summary["guidance"]["weights"] == {"good": 0.9, "bad": 0.1}
    assert summary["held_out_sft_loss"]["last"] == pytest.approx(0.29)
    text = (run / "summary.md").read_text()
    for command in summary["next"]:
        assert command in text
        assert f"  {command}" in told
    assert text.rstrip().endswith("```")
    assert f"coop-rl evaluate {run}" in text
    assert f"coop-rl export {run} {run}-model" in text
    assert f"--run-dir {run} --set run.num_steps=40" in text


def test_losses_are_in_the_summary(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    status = json.loads((run / "run.json").read_text())
    lost = [
        asdict(Loss("now", 5, (name,), "died", "it died", resumed_from=3))
        for name in ("driver", "learner-joint-0", "driver")
    ]
    (run / "run.json").write_text(json.dumps({**status, "losses": lost}))
    told = "went on after losing driver (2 times), learner-joint-0; 6 steps were trained again"
    assert told in content_of([read_run(run)])["notes"]
    conclude(run)
    assert told in (run / "summary.md").read_text()


@pytest.mark.parametrize(("num_steps", "over"), [(1, 1), (3, 1), (12, 6), (40, 10)])
def test_the_first_and_the_last_steps_of_a_short_run_are_others(
    tmp_path: Path, num_steps: int, over: int
) -> None:
    run = write_run(tmp_path / "run", num_steps=num_steps)
    rows = [step_row(step, reward=float(step >= over)) for step in range(num_steps)]
    lines(run / "metrics.jsonl", rows)
    found = summarise(read_run(run))["training_reward"]
    last = float(num_steps > over)
    assert found == {"first": 0.0, "last": last, "over_steps": over}


def test_no_run_fails_for_want_of_a_report(tmp_path: Path) -> None:
    (line,) = conclude(tmp_path / "gone")
    assert line.startswith("no report was written (RunDirectoryError: ")


def test_what_went_wrong_is_in_the_summary(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    bad = {"reward/crashed": 3, "reward/timeouts": 0, "grad/skipped": 1}
    silent = {"groups/all_right": 0.5, "groups/all_wrong": 0.5}
    lines(run / "metrics.jsonl", [step_row(step) | bad | silent for step in range(4)])
    told = " ".join(summarise(read_run(run))["warnings"])
    for expected in ("12 responses crashed", "4 of 4 updates of theta", "100% of the prompts"):
        assert expected in told
