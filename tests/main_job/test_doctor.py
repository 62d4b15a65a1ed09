"""`coop-rl doctor` as a user sees it."""

import json

import pytest

from tests.main_job.harness import DEMO, Job


@pytest.mark.prove  # its trials one by one: tests/diagnosis
def test_this_machine_can_run_the_demo() -> None:
    job = Job(["doctor", str(DEMO), "--json"]).start()
    done = job.finish()
    assert done.returncode == 0, done.stderr
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    for check in ("packages", "vLLM plugin", "GPUs", "Ray", "collective", "vLLM"):
        assert found[check]["status"] == "ok", found[check]
    assert "sampled 8 tokens" in found["vLLM"]["found"]
    assert job.left_over() == []


def test_a_cluster_that_does_not_answer_is_a_finding() -> None:
    done = Job(["doctor", str(DEMO), "--quick", "--set=placement.address=127.0.0.1:9"]).start()
    finished = done.finish()
    assert finished.returncode == 2
    shown = " ".join(finished.stdout.split())
    assert "fail cluster no Ray cluster at placement.address '127.0.0.1:9'" in shown
    assert "fix: start one with ray start --head" in shown
    assert "packages" in shown
