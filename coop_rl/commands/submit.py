"""`coop-rl submit`: the run as a Ray job, followed to its end; no more than Ray's job client does.

    working directory --package--> job server --> driver: coop-rl train CONFIG --> actors

What is set is what Ray would get wrong: the run joins the cluster it is submitted to, Ray waits for
its checkpoint when it is stopped (3 s otherwise), and only named environment variables travel.
Submitting the same run again resumes it.
"""

import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from coop_rl.config import RunConfig, config_files
from coop_rl.distributed.cluster import named_environment
from coop_rl.distributed.jobs import Submission, connect, refuse_large, submit
from coop_rl.errors import RunDirectoryError

STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"
"""Read by Ray's job supervisor: seconds between SIGTERM and SIGKILL."""


def submit_run(
    config: RunConfig,
    path: Path,
    overrides: Sequence[str],
    run_dir: Path | None,
    working_dir: Path,
    address: str | None,
    write: Callable[[str], None],
    *,
    wait: bool,
) -> None:
    """Submit a run and, with `wait`, follow it to its end.

    Args:
        config: The run, as read from `path` and changed by `overrides`.
        path: The config's file.
        overrides: What `--set` was given.
        run_dir: Absolute; None: `<run.dir>/<run.name>`.
        working_dir: What travels to the cluster.
        address: Of the job server; None: from the environment.
        write: Gets the job's output as it comes.
        wait: Whether to follow it.

    Raises:
        UserError: It cannot be submitted; nothing was.
        RunError: The job failed or was stopped.
        Interrupted: The user stopped following; the job goes on.
    """
    job = plan_submission(config, path, overrides, run_dir, working_dir)
    refuse_large(working_dir.resolve())
    submit(connect(address), job, write, wait=wait)


def plan_submission(
    config: RunConfig,
    path: Path,
    overrides: Sequence[str],
    run_dir: Path | None,
    working_dir: Path,
) -> Submission:
    """Return the job of a config that lies in `working_dir`, as does the file it extends.

    Raises:
        RunDirectoryError: One of them is not there, or the run directory is not absolute.
        ResourceError: A named environment variable is not set.
    """
    root = working_dir.resolve()
    for file in config_files(path):
        if not file.resolve().is_relative_to(root):
            raise RunDirectoryError(
                f"{file} is not in the working directory {root}, which is all that travels; "
                "move it there, or set --working-dir"
            )
    folder = run_dir or Path(config.run.dir) / config.run.name
    if not folder.is_absolute():
        raise RunDirectoryError(
            f"a submitted run needs an absolute run directory that all nodes share, got {folder}: "
            "a relative one would lie in the package Ray deletes; set run.dir or --run-dir"
        )
    placement = config.placement
    # Images without a virtual environment may lack `python`.
    command = ["python3", "-m", "coop_rl", "train", str(path.resolve().relative_to(root))]
    sets = [*overrides, *([] if placement.address else ["placement.address=auto"])]
    command += [f"--set={value}" for value in sets]
    command += ["--run-dir", str(folder)]
    environment = named_environment(placement.environment) | {
        STOP_WAIT: str(placement.stop_grace_s),
        "PYTHONUNBUFFERED": "1",
    }
    resources = {
        "entrypoint_num_cpus": placement.driver.cpus or None,
        "entrypoint_num_gpus": placement.driver.gpus or None,
        "entrypoint_label_selector": dict(placement.driver.labels) or None,
    }
    return Submission(
        shlex.join(command),
        f"{config.run.name}-{time.strftime('%Y%m%d-%H%M%S')}",
        {"working_dir": str(root), "env_vars": environment},
        {name: value for name, value in resources.items() if value is not None},
    )
