"""Bad input as a user meets it: exit code 2, one line, no process left. More: tests/commands."""

from pathlib import Path

from tests.main_job.harness import train


def test_a_wrong_path_is_refused_in_one_line(tmp_path: Path) -> None:
    job = train(tmp_path / "run", "model.path=no/such/model").start()
    done = job.finish(60)
    assert done.returncode == 2, done.stderr[-2000:]
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert "no/such/model" in line
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()
    assert job.left_over(within_s=1) == []
