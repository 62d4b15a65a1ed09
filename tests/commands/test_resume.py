"""Where a run starts: never from what is damaged, changed or another run's, unless asked to."""

import shutil
from pathlib import Path

import pytest

from coop_rl.commands.allowed import Allowed
from coop_rl.commands.resume import Start, find_start, saved_roles, schedule_notes
from coop_rl.config import RunConfig, load_config
from coop_rl.data.fingerprints import fingerprints
from coop_rl.driver.checkpoint_check import Inputs, read_inputs
from coop_rl.driver.checkpoint_store import CheckpointStore
from coop_rl.errors import RunDirectoryError
from coop_rl.observability.run_directory import flatten
from tests.driver.tiny_checkpoints import ROLES, save
from tests.support.in_process import ROOT, coop_rl

DEMO = ROOT / "configs/local/demo.yaml"
FILES = {"prompts p.jsonl": "1", "model config.json": "2", "reward function r.py:f": "3"}


def configure(*overrides: str) -> RunConfig:
    return load_config(DEMO, ["run.num_steps=90", *overrides])


def inputs(config: RunConfig, **changed: str) -> Inputs:
    files = {**FILES, **{name.replace("_", " "): digest for name, digest in changed.items()}}
    return Inputs(flatten(config.model_dump(mode="json")), files)


def planted(folder: Path, *steps: int) -> CheckpointStore:
    """A store whose checkpoints a run of the demo has written."""
    store = CheckpointStore(folder, keep=9, roles=ROLES)
    store.go_on_from(None, inputs(configure()))
    for step in steps:
        save(store, step)
    return store


def start(
    store: CheckpointStore, config: RunConfig, now: Inputs, resume: str = "auto", *allowed: str
) -> Start:
    return find_start(config, store, resume, now, [Allowed(word) for word in allowed])


def test_an_empty_directory_starts_anew_and_the_newest_goes_on(tmp_path: Path) -> None:
    config = configure()
    assert saved_roles(config) == ROLES
    assert start(planted(tmp_path), config, inputs(config)) == Start(None, [])
    store = planted(tmp_path, 25, 50)
    assert start(store, config, inputs(config)) == Start(tmp_path / "step-000050", [])
    assert start(store, config, inputs(config), str(tmp_path / "step-000025")).checkpoint
    with pytest.raises(RunDirectoryError, match="already holds checkpoints and --resume is never"):
        start(store, config, inputs(config), "never")
    with pytest.raises(RunDirectoryError, match=r"nothing to train: .* all 50 steps"):
        start(store, configure("run.num_steps=50"), inputs(config))
    # Lost after its last step: what follows, such as an evaluation, is not done yet.
    ended = configure("run.num_steps=50")
    assert find_start(ended, store, "auto", inputs(ended), is_restart=True).checkpoint


def test_damaged_ones_are_told_and_all_damaged_is_refused_by_name(tmp_path: Path) -> None:
    config, store = configure(), planted(tmp_path, 25, 50)
    (tmp_path / "step-000050/manifest.json").write_bytes(b"")
    found = start(store, config, inputs(config))
    assert found.checkpoint == tmp_path / "step-000025"
    assert "checkpoint step-000050 is damaged" in found.notes[0]
    (tmp_path / "step-000025/progress.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match=r"all 2 checkpoints .*step-000050 .*step-000025"):
        start(store, config, inputs(config))
    anew = start(store, config, inputs(config), "auto", "damaged-checkpoints")
    assert anew.checkpoint is None
    assert len(anew.notes) == 2
    with pytest.raises(RunDirectoryError, match="step-000050 is damaged"):
        start(store, config, inputs(config), str(tmp_path / "step-000050"))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"prompts_p.jsonl": "7"}, "prompts p.jsonl has changed since step-000025 was written"),
        ({"prompts_q.jsonl": "7"}, "prompts q.jsonl is new since"),
        ({"model_config.json": "7", "prompts_p.jsonl": "8"}, "has changed .*, and 1 more files"),
        ({"reward_function_r.py:f": "7"}, "reward function r.py:f has changed"),
    ],
)
def test_changed_files_are_refused_by_name(
    tmp_path: Path, changed: dict[str, str], told: str
) -> None:
    config, store = configure(), planted(tmp_path, 25)
    now = inputs(config, **changed)
    with pytest.raises(RunDirectoryError, match=rf"{told}.*--allow changed-files"):
        start(store, config, now)
    assert len(start(store, config, now, "auto", "changed-files").notes) == 1
    # What is written from then on holds the new digests, so nobody has to say so again.
    again = save(store, 50)
    assert read_inputs(again) == now
    assert start(store, config, now).notes == []


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    config, store = configure(), planted(tmp_path, 25)
    now = Inputs(inputs(config).config, {"prompts p.jsonl": "1", "model config.json": "2"})
    with pytest.raises(RunDirectoryError, match=r"reward function r\.py:f is gone since"):
        start(store, config, now)


def test_a_checkpoint_of_another_run_is_refused_with_the_field(tmp_path: Path) -> None:
    config, store = configure("learner.lr=0.5"), planted(tmp_path, 25)
    with pytest.raises(
        RunDirectoryError,
        match=r"is of another run, with learner\.lr 0\.0002, got 0\.5; .*other-run",
    ):
        start(store, config, inputs(config), str(tmp_path / "step-000025"))
    assert start(store, config, inputs(config), "auto", "other-run").checkpoint


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("method.mix_schedule=linear",), "method.mix (linear) 0.505 instead of 1.01"),
        (
            ("learner.lr_schedule=cosine", "learner.warmup_steps=0"),
            "learner.lr (cosine) 0.0001 instead of 0",
        ),
        (
            ("adapter.lr_schedule=linear", "adapter.warmup_steps=0"),
            "adapter.lr (linear) 0.001 instead of 0",
        ),
        (("method.kind=prefix",), "method.share 0.25 instead of 0"),
        ((), ""),
    ],
)
def test_a_longer_run_says_what_its_schedules_are_now(
    overrides: tuple[str, ...], told: str
) -> None:
    before = inputs(configure("run.num_steps=50", *overrides))
    now = configure("run.num_steps=100", *overrides)
    notes = schedule_notes(before, now, 50)
    expected = [f"run.num_steps is 100, was 50: from step 50 on {told}"] if told else []
    assert notes == expected
    assert schedule_notes(inputs(now), now, 50) == []


def test_files_are_told_apart_by_their_content(tmp_path: Path) -> None:
    for name in ("prompts.jsonl", "demonstrations.jsonl", "held_out.jsonl"):
        shutil.copy(ROOT / "configs/local/demo" / name, tmp_path)
    shutil.copy(tmp_path / "held_out.jsonl", tmp_path / "harder.jsonl")
    shutil.copytree(ROOT / "configs/local/demo/model", tmp_path / "model")
    (tmp_path / "mine.py").write_text("def judge(answer):\n    return 1.0\n")
    config = configure(
        f"prompts.path={tmp_path}/p*.jsonl",
        f"demonstrations.path={tmp_path}/demonstrations.jsonl",
        f"evaluation.data.path={tmp_path}/held_out.jsonl",
        f"evaluation.more_data.harder.path={tmp_path}/harder.jsonl",
        f"model.path={tmp_path}/model",
        "reward.kind=python",
        f"reward.function={tmp_path}/mine.py:judge",
    )
    before = fingerprints(config)
    assert f"prompts {tmp_path}/prompts.jsonl" in before
    read = (p for p in tmp_path.rglob("*") if p.is_file() and p.name != "README.md")
    for path in sorted(read):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"\n ")
        after = fingerprints(config)
        assert [path.name in name for name in before if before[name] != after[name]] == [True]
        path.write_bytes(content)
    assert fingerprints(config) == before


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    sets = ("--run-dir", str(tmp_path / "run"))
    shown = coop_rl("show-config", str(DEMO))
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/config.json").write_text(shown.stdout)
    store = CheckpointStore(tmp_path / "run/checkpoints", keep=9, roles=ROLES)
    config = load_config(DEMO)
    store.go_on_from(None, Inputs(flatten(config.model_dump(mode="json")), FILES))
    (save(store, 25) / "manifest.json").write_text("{}")
    done = coop_rl("train", str(DEMO), *sets)
    assert (done.returncode, done.stdout) == (2, "")
    assert "all 1 checkpoints in" in done.stderr
    save(store, 25)
    done = coop_rl("train", str(DEMO), *sets)
    assert (done.returncode, done.stdout) == (2, "")
    assert "by --allow changed-files" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert line.startswith("coop-rl: ")
    assert coop_rl("train", str(DEMO), "--allow", "everything").returncode == 2
