"""Copies elsewhere: the manifest comes last, what is whole comes back, no failure ends a run."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from coop_rl.commands.resume import find_start
from coop_rl.config import load_config
from coop_rl.driver.checkpoint_check import MANIFEST, Inputs, damage
from coop_rl.driver.checkpoint_mirror import CheckpointMirror
from coop_rl.driver.checkpoint_store import CheckpointStore, read_progress
from coop_rl.driver.checkpoint_target import CheckpointTarget, TargetError
from coop_rl.errors import ConfigError, Interrupted, RunDirectoryError
from tests.driver.buckets import RUNS, SERVED, Bucket
from tests.driver.tiny_checkpoints import ROLES, progress, save
from tests.support.in_process import ROOT, coop_rl

DEMO = ROOT / "configs/local/demo.yaml"
in_memory = pytest.mark.parametrize("bucket", ["memory"], indirect=True)


PROVED = [pytest.param(name, marks=pytest.mark.prove) for name in ("s3", "gs")]


@pytest.fixture(params=["memory", *PROVED])
def bucket(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with SERVED[request.param](monkeypatch) as served:
        yield served


@pytest.fixture
def target(bucket: Bucket) -> CheckpointTarget:
    return CheckpointTarget.open(bucket.url, "demo")


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "here", keep=2, roles=ROLES)


def mirror_of(target: CheckpointTarget, store: CheckpointStore) -> CheckpointMirror:
    return CheckpointMirror(target, store, keep=2)


def copied(mirror: CheckpointMirror, newest: Path) -> list[str]:
    """Note a checkpoint, wait, and return what failed."""
    mirror.note(newest)
    mirror.finish(20.0, lambda: None, lambda _: None)
    return mirror.lines()


def test_what_is_kept_here_is_kept_there_without_snapshots(
    target: CheckpointTarget, store: CheckpointStore
) -> None:
    mirror = mirror_of(target, store)
    assert target.names() == []
    for step in (3, 6, 9, 12):
        save(store, step - 1, is_snapshot=True)
        assert copied(mirror, save(store, step)) == []
        if step == 3:
            store.mark_best(3, "eval/sums/pass@1", 0.5)
    assert target.names() == ["step-000003", "step-000009", "step-000012"]
    store.mark_best(12, "eval/sums/pass@1", 0.7)
    assert copied(mirror, save(store, 15)) == []
    assert target.names() == ["step-000012", "step-000015"]


def test_another_machine_gets_the_newest_and_what_is_the_best(
    target: CheckpointTarget, store: CheckpointStore, tmp_path: Path
) -> None:
    written = save(store, 6)
    store.mark_best(6, "eval/sums/pass@1", 0.5)
    assert copied(mirror_of(target, store), written) == []
    there = tmp_path / "there"
    there.mkdir()
    found = target.fetch_newest(there, ROLES)
    assert found.newest == there / "step-000006"
    assert damage(found.newest, ROLES) is None
    assert read_progress(found.newest, ROLES) == progress(6)
    again = CheckpointStore(there, keep=2, roles=ROLES)
    assert not again.is_better("eval/sums/pass@1", 0.4)
    assert sorted(path.name for path in there.iterdir()) == ["best.json", "step-000006"]
    # Its line goes on there.
    again.go_on_from(found.newest, Inputs())
    mirror = mirror_of(target, again)
    for step in (9, 12):
        assert copied(mirror, save(again, step)) == []
    assert target.names() == ["step-000006", "step-000009", "step-000012"]  # 6 is the best


def flip(bucket: Bucket, place: str) -> None:
    content = bytearray(bucket.files.cat_file(f"{place}/joint/tensors-00000.safetensors"))
    content[-1] ^= 1
    bucket.files.pipe_file(f"{place}/joint/tensors-00000.safetensors", bytes(content))


def lose(bucket: Bucket, place: str) -> None:
    bucket.files.rm(f"{place}/meta/state.json")


def lead_out(bucket: Bucket, place: str) -> None:
    manifest = json.loads(bucket.files.cat_file(f"{place}/{MANIFEST}"))
    bucket.files.pipe_file(f"/{RUNS}/demo/evil", b"x")
    manifest["../evil"] = "0" * 64
    bucket.files.pipe_file(f"{place}/{MANIFEST}", json.dumps(manifest).encode())


def tear(bucket: Bucket, place: str) -> None:
    content = bucket.files.cat_file(f"{place}/{MANIFEST}")
    bucket.files.pipe_file(f"{place}/{MANIFEST}", content[: len(content) // 2])


@pytest.mark.parametrize("harm", [flip, lose, lead_out, tear])
def test_a_damaged_copy_is_passed_over_and_told(
    target: CheckpointTarget,
    store: CheckpointStore,
    bucket: Bucket,
    tmp_path: Path,
    harm: Callable[[Bucket, str], None],
) -> None:
    for step in (3, 6):
        assert copied(mirror_of(target, store), save(store, step)) == []
    harm(bucket, f"{bucket.folder}/step-000006")
    there = tmp_path / "there"
    there.mkdir()
    found = target.fetch_newest(there, ROLES)
    assert found.newest == there / "step-000003"
    (line,) = found.lines()
    assert line.startswith("checkpoint step-000006 is damaged: ")
    assert line.endswith(f"(in {target})")
    assert [path.name for path in there.iterdir()] == ["step-000003"]


def test_a_copy_that_was_broken_off_is_none_and_goes(
    target: CheckpointTarget, store: CheckpointStore, bucket: Bucket, tmp_path: Path
) -> None:
    assert copied(mirror_of(target, store), save(store, 3)) == []
    bucket.files.pipe_file(f"{bucket.folder}/step-000002/joint/state.json", b"{}")
    bucket.files.pipe_file(f"{bucket.folder}/notes.txt", b"somebody's")
    assert target.names() == ["step-000003"]
    assert copied(mirror_of(target, store), save(store, 6)) == []
    places = bucket.files.ls(bucket.folder, detail=False)
    left = sorted(place.rstrip("/").rpartition("/")[2] for place in places)
    assert left == ["notes.txt", "step-000003", "step-000006"]


def test_a_step_of_another_line_is_replaced_there_too(
    target: CheckpointTarget, store: CheckpointStore, bucket: Bucket, tmp_path: Path
) -> None:
    mirror = mirror_of(target, store)
    assert copied(mirror, save(store, 3)) == []
    assert copied(mirror, save(store, 3, weight=0.5)) == []
    here = (tmp_path / "here/step-000003" / MANIFEST).read_bytes()
    assert bucket.files.cat_file(f"{bucket.folder}/step-000003/{MANIFEST}") == here
    assert target.fetch_newest(tmp_path, ROLES).newest == tmp_path / "step-000003"


@in_memory
def test_a_failed_copy_is_told_and_tried_again_with_the_next(
    target: CheckpointTarget, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, put_file = mirror_of(target, store), MemoryFileSystem.put_file

    def refuse(files: MemoryFileSystem, here: str, there: str, **options: Any) -> None:
        if there.endswith("meta/state.json"):
            raise PermissionError("AccessDenied\nand a page of XML")
        put_file(files, here, there, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
    assert copied(mirror, save(store, 3)) == [
        f"step-000003 is not copied to {target}: AccessDenied; tried again with the next one, "
        "the run goes on"
    ]
    assert target.names() == []
    monkeypatch.undo()
    assert copied(mirror, save(store, 6)) == []
    assert target.names() == ["step-000003", "step-000006"]


@in_memory
def test_a_second_request_to_stop_breaks_off_the_wait_for_a_copy(
    target: CheckpointTarget, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    gate, mirror, told = threading.Event(), mirror_of(target, store), list[str]()

    def stop() -> None:
        raise Interrupted("at once")

    monkeypatch.setattr(CheckpointTarget, "copy", lambda *_: gate.wait(20.0))
    mirror.note(save(store, 3))
    with pytest.raises(Interrupted):
        mirror.finish(20.0, stop, told.append)
    assert told == [f"copying the last checkpoint to {target}"]
    mirror.finish(0.0, stop, told.append)
    assert mirror.lines() == [f"{target} has no copy after 0 s"]
    gate.set()


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme, package in (("s3", "s3fs"), ("gs", "gcsfs")):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(_registry, scheme, raising=False)  # what was found before
        with pytest.raises(
            ConfigError,
            match=rf'{scheme}://mine/runs needs the package {package}, .*"coop-rl\[{scheme}\]"',
        ):
            CheckpointTarget.open(f"{scheme}://mine/runs", "demo")


@pytest.mark.parametrize("given", ["ftp://x/y", "s3://", "simplecache::s3://x", "http://h/x"])
def test_other_schemes_are_refused(given: str) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.target: must be a path or one of file"):
        load_config(DEMO, [f"checkpoint.target={given}"])


def test_keys_in_the_url_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.target holds what looks like a secret"):
        load_config(DEMO, ["checkpoint.target=s3://me:hunter22hunter22@bucket/runs"])


def checked(*options: str) -> dict[str, str]:
    """Return what `coop-rl check` finds, by check."""
    findings = json.loads(coop_rl("check", str(DEMO), "--json", *options).stdout)
    return {finding["check"]: finding["found"] for finding in findings}


@in_memory
def test_a_target_that_cannot_be_read_is_one_line(
    target: CheckpointTarget, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Forbidden\nmore")

    monkeypatch.setattr(MemoryFileSystem, "ls", refuse)
    with pytest.raises(TargetError, match=r"^Forbidden$"):
        target.names()
    with pytest.raises(RunDirectoryError, match="can be fetched from memory"):
        target.fetch_newest(tmp_path, ROLES)
    given = f"checkpoint.target={str(target).removesuffix('/demo')}"
    found = checked("--set", given, "--run-dir", str(tmp_path / "run"))
    assert found["checkpoint target"] == f"checkpoint.target {target} cannot be read: Forbidden"


def test_where_a_run_starts_with_copies_elsewhere(tmp_path: Path) -> None:
    config, there = load_config(DEMO), ("step-000003",)
    empty = CheckpointStore(tmp_path / "empty", keep=2, roles=ROLES)
    assert find_start(config, empty, "auto", Inputs(), elsewhere=there).is_elsewhere
    with pytest.raises(RunDirectoryError, match=r"checkpoint\.target already holds checkpoints"):
        find_start(config, empty, "never", Inputs(), elsewhere=there)
    store = CheckpointStore(tmp_path / "here", keep=2, roles=ROLES)
    written = save(store, 3)
    assert find_start(config, store, "auto", Inputs(), elsewhere=there).checkpoint == written
    (written / MANIFEST).write_bytes(b"")  # nothing whole is here
    start = find_start(config, store, "auto", Inputs(), elsewhere=there)
    assert start.is_elsewhere
    assert "step-000003 is damaged" in start.notes[0]


def test_the_command_fetches_before_it_looks_where_to_start(tmp_path: Path) -> None:
    """What is fetched was written with other files, which `train` refuses: nothing is started."""
    store = CheckpointStore(tmp_path / "here", keep=2, roles=ROLES)
    store.go_on_from(None, Inputs({}, {"prompts p.jsonl": "1"}))
    url = f"file://{tmp_path}/copies"
    target = CheckpointTarget.open(url, "demo")
    assert copied(mirror_of(target, store), save(store, 3)) == []
    args = (str(DEMO), "--set", f"checkpoint.target={url}", "--run-dir", str(tmp_path / "run"))
    found = checked(*args[1:])
    assert found["run directory"] == f"{tmp_path}/run, goes on from {target}"
    assert not (tmp_path / "run").exists()
    done = coop_rl("train", *args)
    assert done.returncode == 2
    assert "since step-000003 was written" in done.stderr
    assert damage(tmp_path / "run/checkpoints/step-000003", ROLES) is None
    # Of copies that are all damaged none is taken.
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "copies/demo/step-000003/joint/state.json").unlink()
    done = coop_rl("train", *args)
    assert done.returncode == 2
    assert "step-000003 is damaged: joint/state.json is missing" in done.stderr
