"""What a run lost and went on without: the list `losses` of run.json.

The driver writes a loss that it lived to see (`run_directory`); its supervisor writes the driver's
own (`commands.supervise`). The next attempt fills in where it goes on. Imports neither torch nor
ray, since the supervisor does not.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from coop_rl.errors import ActorLostError, RayLostError
from coop_rl.files import write_text
from coop_rl.metric_names import STEP_SECONDS
from coop_rl.observability.sinks import read_jsonl

RAY = "ray"
"""Who was lost where a process of Ray's own died."""
TO_GO_ON = "run the same command to go on from the last checkpoint"
"""What errors advise, this module's and `distributed.calls`'."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Somebody whom an attempt at a run could not go on without."""

    time: str
    step: int
    """Steps that were recorded by then."""
    who: tuple[str, ...]
    """Actors by name, `driver` or `ray`."""
    cause: str
    """died, or hung."""
    error: str
    resumed_from: int | None = None
    """Steps that the next attempt's checkpoint holds; None: there was none yet."""

    @classmethod
    def of(cls, error: ActorLostError, folder: Path) -> "Loss":
        """Describe what ended an attempt in a run's folder."""
        who = (RAY,) if isinstance(error, RayLostError) else error.actors
        return cls(now(), steps_recorded(folder), who, error.cause, str(error))

    @property
    def in_short(self) -> str:
        """What happened, without reasons and advice."""
        return self.error.split("; ")[0].split(": ")[0]

    def __str__(self) -> str:
        """Add when."""
        return f"{self.in_short} (after step {self.step})"


def now() -> str:
    """Return the time as run.json holds it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def steps_recorded(folder: Path) -> int:
    """Return how many steps the rows of a run's folder reach."""
    path = folder / "metrics.jsonl"
    rows = read_jsonl(path) if path.is_file() else []
    return max((row["step"] + 1 for row in rows if STEP_SECONDS in row), default=0)


def read_status(folder: Path) -> dict[str, Any]:
    """Return run.json; empty where there is none, or none that can be read."""
    try:
        values = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


LOSSES = TypeAdapter(list[Loss])


def losses(status: Mapping[str, Any]) -> list[Loss]:
    """Return the losses that run.json lists; none where somebody has damaged the list."""
    try:
        return LOSSES.validate_python(status.get("losses", []))
    except ValidationError:
        return []


def close_status(folder: Path, status: str, error: str, lost: Sequence[Loss] = ()) -> None:
    """Write how an attempt ended, and what it lost, for a driver that cannot any more.

    Raises:
        OSError: run.json cannot be written.
    """
    values = read_status(folder)
    listed = [asdict(loss) for loss in (*losses(values), *lost)]
    values |= {"status": status, "ended_at": now(), "error": error, "losses": listed}
    write_text(folder / "run.json", json.dumps(values, indent=2) + "\n")


def recovered(status: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a run that went on after losses; empty where there was none."""
    survived = [loss for loss in losses(status) if loss.resumed_from is not None]
    if not survived:
        return {}
    again = sum(max(0, loss.step - (loss.resumed_from or 0)) for loss in survived)
    return {"recovered/restarts": len(survived), "recovered/repeated_steps": again}
