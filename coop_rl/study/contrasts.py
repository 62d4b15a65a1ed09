"""The contrasts that a grid declares: pairs of runs of the same seed, at equal cost.

p-values are adjusted over all declared contrasts, those without runs yet included, for each figure
and kind of equal cost by itself. Diagnostics are only described.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from coop_rl.evaluation.seeds import bootstrap_interval, difference_p, equivalence_p, holm
from coop_rl.report.stored_run import Axis
from coop_rl.study.equal_cost import PairAtCost, pair_at_cost
from coop_rl.study.grid import Contrast, Grid
from coop_rl.study.mean import Mean, mean_of
from coop_rl.study.runs import ByArm, runs_of

SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class ContrastFinding:
    """One figure of a declared contrast at one kind of equal cost."""

    figure: str
    axis: Axis
    arm: str
    reference: str
    num_seeds: int
    """Pairs of runs; 0: nothing to compare yet, and no figures."""
    arm_value: float | None = None
    reference_value: float | None = None
    difference: Mean | None = None
    bootstrap: tuple[float, float] | None = None
    """95 % interval over seeds and items."""
    p: float | None = None
    p_holm: float | None = None
    margin: float | None = None
    equivalence_p: float | None = None
    equivalence_p_holm: float | None = None

    @property
    def reads(self) -> str:
        """What may be said of it at 5 %, adjusted for the number of contrasts."""
        if self.difference is None or self.p_holm is None:
            return "too few seeds"
        said = []
        if self.p_holm < SIGNIFICANT:
            said.append("higher" if self.difference.value > 0 else "lower")
        if self.equivalence_p_holm is not None and self.equivalence_p_holm < SIGNIFICANT:
            said.append(f"within ± {self.margin:g}")
        return ", ".join(said) or "no difference shown"


@dataclass(frozen=True, slots=True)
class DiagnosticFinding:
    """How far a declared contrast's diagnostics are apart, which is described and not tested."""

    arm: str
    reference: str
    differences: Mapping[str, Mean]
    """Of the last values of runs of the same seed, by metric; without those one arm lacks."""


def contrast_findings(
    grid: Grid, set_name: str, figure: str, axis: Axis, by_arm: ByArm
) -> list[ContrastFinding]:
    """Return one figure of every declared contrast at one kind of equal cost."""
    pairs = [_pairs(c, set_name, figure, axis, by_arm) for c in grid.contrasts]
    differences = [[pair.difference for pair in own] for own in pairs]
    p = [difference_p(own) if len(own) > 1 else None for own in differences]
    is_primary = figure == grid.primary
    margins = [c.margin if is_primary else None for c in grid.contrasts]
    equal = [
        equivalence_p(own, margin) if margin and len(own) > 1 else None
        for own, margin in zip(differences, margins, strict=True)
    ]
    tested = [1.0 if value is None else value for value in p]
    asked = [i for i, margin in enumerate(margins) if margin]
    equal_holm = dict(
        zip(asked, holm([1.0 if (e := equal[i]) is None else e for i in asked]), strict=True)
    )
    return [
        ContrastFinding(
            figure, axis, contrast.arm, contrast.reference, len(own),
            fmean(float(pair.arm_P.mean()) for pair in own) if own else None,
            fmean(float(pair.reference_P.mean()) for pair in own) if own else None,
            mean_of(differences[i]) if own else None,
            _bootstrap(own),
            p[i],
            None if p[i] is None else adjusted,
            margins[i],
            equal[i],
            None if equal[i] is None else equal_holm[i],
        )
        for i, (contrast, own, adjusted) in enumerate(
            zip(grid.contrasts, pairs, holm(tested), strict=True)
        )
    ]  # fmt: skip


def _pairs(
    contrast: Contrast, set_name: str, figure: str, axis: Axis, by_arm: ByArm
) -> list[PairAtCost]:
    found = [
        pair_at_cost(run, reference, set_name, figure, axis)
        for run, reference in runs_of(contrast, by_arm)
    ]
    return [pair for pair in found if pair]


def _bootstrap(pairs: Sequence[PairAtCost]) -> tuple[float, float] | None:
    if len(pairs) < 2 or pairs[0].arm_P.size < 2:
        return None
    return bootstrap_interval(np.stack([pair.arm_P - pair.reference_P for pair in pairs]))


def diagnostic_findings(grid: Grid, by_arm: ByArm) -> Iterator[DiagnosticFinding]:
    """Yield how far the diagnostics of every declared contrast are apart at the end."""
    for contrast in grid.contrasts:
        pairs = runs_of(contrast, by_arm)
        found = {}
        for name in grid.diagnostics:
            ends = [(run.measured(name), other.measured(name)) for run, other in pairs]
            differences = [own[-1] - others[-1] for own, others in ends if own and others]
            if differences:
                found[name] = mean_of(differences)
        if found:
            yield DiagnosticFinding(contrast.arm, contrast.reference, found)
