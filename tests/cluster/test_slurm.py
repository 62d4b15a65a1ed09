"""The Slurm script, run with stand-ins for Slurm's commands: labels, and what SIGTERM does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT_S = 30
# As srun does: whatever ends it, its step is killed.
SRUN = """#!/bin/bash
args=("$@")
while [[ $1 == -* ]]; do if [[ $1 == -w ]]; then export NODE=$2; shift; fi; shift; done
if [[ $1 == hostname ]]; then echo 127.0.0.1; exit; fi
"$@" &
trap 'kill -KILL $!; exit 143' TERM
wait
"""
SCONTROL = """#!/bin/bash
if [[ $1 == show ]]; then printf 'n%s\\n' 1 2 3; else echo "$@" >>"$SEEN/scontrol"; fi
"""
RAY = f"""#!/bin/bash
echo "$@" >"$SEEN/ray-$NODE"
for argument in "$@"; do
  if [[ $argument == --port=* ]]; then
    exec {sys.executable} -m http.server --bind 127.0.0.1 "${{argument#--port=}}" 2>/dev/null
  fi
done
"""
# It takes a while to save.
DRIVER = """#!/bin/bash
trap 'sleep 1; echo saved >"$SEEN/checkpoint"; exit 130' TERM
echo "$@" >"$SEEN/driver"
while true; do sleep 0.1; done
"""


def write(folder: Path, commands: Mapping[str, str]) -> None:
    folder.mkdir(parents=True)
    for name, text in commands.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + LIMIT_S
    while not (path.exists() and path.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return path.read_text()


def test_sigterm_lets_the_run_save_and_puts_the_job_back_into_the_queue(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    seen.mkdir()
    write(tmp_path / "slurm", {"srun": SRUN, "scontrol": SCONTROL, "openssl": "#!/bin/sh\necho 1"})
    write(tmp_path / "venv/bin", {"ray": RAY, "coop-rl": DRIVER})
    allocation = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "n[1-3]",
        "SLURM_CPUS_PER_TASK": "96",
        "SLURM_GPUS_ON_NODE": "8",
        "VENV": str(tmp_path / "venv"),
        "SEEN": str(seen),
        "PATH": f"{tmp_path / 'slurm'}{os.pathsep}{os.environ['PATH']}",
    }
    script = subprocess.Popen(
        ["bash", str(ROOT / "cluster/slurm/train.sbatch"), "configs/cluster/16-gpus.yaml"],
        env=os.environ | allocation, cwd=tmp_path, start_new_session=True,
    )  # fmt: skip
    try:
        assert "placement.min_nodes=3" in wait_for(seen / "driver")
        started = [wait_for(seen / f"ray-n{i}") for i in (1, 2, 3)]
        time.sleep(0.5)
        script.send_signal(signal.SIGTERM)
        assert script.wait(LIMIT_S) == 130
    finally:
        os.killpg(script.pid, signal.SIGKILL)
    assert (seen / "checkpoint").exists()
    assert (seen / "scontrol").read_text() == f"requeue {os.getpid()}\n"
    labels = [given.partition("--labels=")[2].split()[0] for given in started]
    assert labels == ["role=learner", "role=rollout", "role=rollout"]
