"""One list of checks behind `train`, `check`, `plan` and `doctor`: all faults at once."""

import json
from pathlib import Path

import pytest

from coop_rl.commands.checks import CHECKS
from coop_rl.data.rendering import load_tokenizer
from tests.support.in_process import ROOT, Ended, coop_rl

DEMO = "configs/local/demo.yaml"
MODEL = ROOT / "configs/local/demo/model"
TEMPLATE = "{% for m in messages %}{{ m.content }}END{% endfor %}"


def look(command: str, *overrides: str, options: tuple[str, ...] = ()) -> Ended:
    return coop_rl(command, DEMO, *options, *(f"--set={override}" for override in overrides))


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture
def chat_model(tmp_path: Path):
    """Return the demo's model with a chat template, and the fields that use it."""

    def make(template: str) -> list[str]:
        tokenizer = load_tokenizer(str(MODEL))
        tokenizer.chat_template = template
        folder = tmp_path / "chat"
        tokenizer.save_pretrained(folder)
        for name in ("config.json", "model.safetensors"):
            (folder / name).symlink_to(MODEL / name)
        sections = ("prompts", "demonstrations", "evaluation.data")
        return [f"model.path={folder}", *(f"{section}.template=null" for section in sections)]

    return make


def test_the_demo_passes_and_nothing_is_written(tmp_path: Path) -> None:
    done = look("check", options=("--json", "--run-dir", str(tmp_path / "run")))
    assert done.returncode == 0, done.stdout
    findings = json.loads(done.stdout)
    assert [f["check"] for f in findings] == [check.name for check in CHECKS]
    assert {f["status"] for f in findings} == {"ok"}
    found = {f["check"]: f["found"] for f in findings}
    assert "rows; the first ends in" in found["prompts"]
    assert found["demonstrations"].endswith("<eos>'")
    assert not (tmp_path / "run").exists()


FAULTS = ("rollout.num_actors=64", "evaluation.benchmarks=[mathh]", "prompts.path=no/such.jsonl")


@pytest.mark.parametrize(
    ("command", "options"), [("check", ()), ("train", ("--dry-run",)), ("doctor", ("--quick",))]
)
def test_all_faults_are_told_at_once(command: str, options: tuple[str, ...]) -> None:
    done = look(command, *FAULTS, options=options)
    assert done.returncode == 2
    shown = one_line(done.stdout)
    for expected in ("CPUs are asked for", "unknown benchmark 'mathh'", "no/such.jsonl"):
        assert expected in shown
    assert "not looked at without prompts" in shown
    assert "checks failed: devices, benchmarks, prompts" in done.stderr


def test_what_needs_a_missing_model_is_not_looked_at() -> None:
    done = look("doctor", "model.path=./absent", options=("--json", "--quick"))
    assert done.returncode == 2
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    assert found["model"]["found"] == f"there is no model folder {Path.cwd() / 'absent'}"
    assert found["model"]["fix"] == "set model.path to an existing folder or a hub id"
    assert found["tokenizer"]["found"] == "not looked at without model"
    assert found["trials"]["found"] == "not made before it is mended: model"


@pytest.mark.parametrize("command", ["train", "plan"])
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("evaluation.benchmarks=[mathh]", "unknown benchmark 'mathh'"),
        ("adapter.targets=[wq]", "adapter.targets wq match no linear layer"),
        ("adapter.targets=[]", "adapter.targets: Tuple should have at least 1 item"),
        ("learner.lr=.inf", "learner.lr: Input should be a finite number"),
        (
            "demonstrations.response_template='{reasoning}\\n#{answer}<eos>'",
            "the response holds <eos> itself",
        ),
    ],
)
def test_train_and_plan_refuse_alike(
    tmp_path: Path, command: str, override: str, expected: str
) -> None:
    options = ("--run-dir", str(tmp_path / "run")) if command == "train" else ()
    done = look(command, override, options=options)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert expected in line
    assert not (tmp_path / "run").exists()


def test_plan_shows_a_rendered_row_and_asks_nothing_of_this_machine() -> None:
    done = look("plan", "rollout.num_actors=64", options=("--device-gib", "500"))
    assert "prompts: " in done.stdout
    assert "rows; the first ends in" in done.stdout
    assert "CPUs are asked for" not in done.stdout + done.stderr


def test_a_window_is_refused_before_anything_starts(tmp_path: Path) -> None:
    values = json.loads((MODEL / "config.json").read_text())
    values |= {"layer_types": ["sliding_attention"] * 4, "sliding_window": 64}
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values | {"use_sliding_window": True}))
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to(MODEL / name)
    done = look("train", f"model.path={folder}", options=("--run-dir", str(tmp_path / "run")))
    assert done.returncode == 2
    assert "by sliding_window of its config.json layers attend to 64 tokens" in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("end", "status"), [("<bos>", "warn"), ("<eos>", "ok")])
def test_a_template_that_ends_answers_otherwise_is_told(chat_model, end: str, status: str) -> None:
    done = look("check", *chat_model(TEMPLATE.replace("END", end)), options=("--json",))
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}["tokenizer"]
    assert found["status"] == status
    assert ("ends an answer with <bos>" in found["found"]) == (status == "warn")


@pytest.mark.parametrize(("response", "is_refused"), [("<think>", True), ("", False)])
def test_thinking_that_prompt_and_response_open_is_refused(
    chat_model, response: str, is_refused: bool
) -> None:
    model = chat_model(TEMPLATE.replace("END", "<think>\n"))
    template = f"demonstrations.response_template='{response}{{reasoning}}\\n#{{answer}}'"
    done = look("check", *model, template, "rollout.max_tokens=32", options=("--json",))
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}["demonstrations"]
    text = "the prompt ends by opening <think>, and the response opens it again"
    assert (text in found["found"]) == is_refused
