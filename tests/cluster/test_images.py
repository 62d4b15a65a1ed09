"""Dockerfiles and the Slurm script through their linters; what is pinned is what CI runs with."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCKERFILES = sorted(path.name for path in (ROOT / "docker").glob("*.Dockerfile"))


def lint(tool: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    path = shutil.which(tool, path=str(BIN))
    assert path, f"{tool} is not in {BIN}; run `make setup`"
    return subprocess.run([path, *arguments], cwd=ROOT, capture_output=True, text=True)


def pins(path: Path) -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line]
    return {name.partition("[")[0]: version for name, version in pairs}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    done = lint("hadolint", f"docker/{name}")
    assert done.returncode == 0, done.stdout


def test_hadolint_notices_an_unpinned_base(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM vllm/vllm-openai:latest\n")
    assert "DL3007" in lint("hadolint", str(tmp_path / "Dockerfile")).stdout


def test_shellcheck_finds_nothing() -> None:
    done = lint(
        "shellcheck",
        "cluster/slurm/train.sbatch",
        ".ci/run",
        ".ci/setup",
        ".ci/python",
        ".ci/audit",
    )
    assert done.returncode == 0, done.stdout


def test_shellcheck_notices_an_unquoted_variable(tmp_path: Path) -> None:
    (tmp_path / "bad.sh").write_text("#!/bin/bash\nrm -r $1\n")
    assert "SC2086" in lint("shellcheck", str(tmp_path / "bad.sh")).stdout


def test_gpu_image_adds_the_versions_that_ci_runs_with() -> None:
    gpu, lock = (
        pins(ROOT / path) for path in ("docker/requirements-gpu.txt", ".ci/requirements-cpu.lock")
    )
    assert gpu
    assert {name: lock[name] for name in gpu} == gpu


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_do_not_run_as_root_and_copy_what_docker_may_see(name: str) -> None:
    lines = (ROOT / "docker" / name).read_text().splitlines()
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000"]
    seen = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    for line in lines:
        if line.startswith("COPY "):
            *sources, _ = [part for part in line.split()[1:] if not part.startswith("--")]
            assert set(sources) <= seen, line
            assert all((ROOT / source).exists() for source in sources)
