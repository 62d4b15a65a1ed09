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
