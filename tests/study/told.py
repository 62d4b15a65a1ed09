"""What README, log and decisions say of a study's figures, held against its raw figures."""

from pathlib import Path

from coop_rl.report.stored_run import Axis
from coop_rl.study.findings import Findings
from coop_rl.study.mean import Mean

STUDIES = Path(__file__).parents[2] / "docs/studies"
Told = tuple[str, str, Axis, tuple[str, ...]]
"""arm, reference, equal cost, texts that have their difference in avg@8."""


def words(page: Path) -> str:
    return " ".join(page.read_text(encoding="utf-8").split())


def require_told(found: Findings, told: list[Told]) -> None:
    for arm, reference, axis, texts in told:
        own = difference(found, arm, reference, "avg@8", axis)
        assert all(own in text for text in texts), (arm, reference, axis)


def readings(found: Findings) -> dict[tuple[str, str], str]:
    """What avg@8 at equal device-seconds says of every declared pair."""
    own = [c for c in found.contrasts if (c.figure, c.axis) == ("avg@8", "device_seconds")]
    return {(c.arm, c.reference): c.reads for c in own}


def difference(found: Findings, arm: str, reference: str, figure: str, axis: Axis) -> str:
    own = [c for c in found.contrasts if (c.arm, c.reference) == (arm, reference)]
    (d,) = [c.difference for c in own if (c.figure, c.axis) == (figure, axis)]
    assert d is not None
    return interval(d, 3)


def interval(mean: Mean, digits: int) -> str:
    shown = f"{mean.value:+.{digits}f} [{mean.low:+.{digits}f}, {mean.high:+.{digits}f}]"
    return shown.replace("-", "−")
