"""Sources for demonstrations that name none: bins of a measure (`demonstrations.split_by`).

rows --length, NLL or difficulty--> values --quantiles--> edges --> rows of n sources

`demonstrations` guidance then weighs the bins as it weighs sources. Lengths are known when data is
read; NLL and difficulty are measured by learners and rollout actors, which hold the base model
until training starts (`driver.bins`).
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from coop_rl.config.data import DemonstrationsSection
from coop_rl.data.collection import CHECKED_ROWS, EAGER_ROWS, Mixture
from coop_rl.data.rows import ByPosition
from coop_rl.errors import DataError
from coop_rl.types import Demonstration, Prompt

Measure = Callable[[int, Demonstration], float]
"""Value of the demonstration at a position."""


class Binned(ByPosition[Demonstration]):
    """Demonstrations whose source is the bin that their value falls in."""

    def __init__(
        self,
        rows: Sequence[Demonstration],
        measure: Measure,
        edges: Sequence[float],
        names: Sequence[str],
    ) -> None:
        """Call those up to the first edge by the first of `names`, and so on."""
        self._rows, self._measure, self._edges, self._names = rows, measure, edges, names

    def __len__(self) -> int:
        """Return the rows."""
        return len(self._rows)

    def item(self, position: int) -> Demonstration:
        """Return a row under its bin's name."""
        row = self._rows[position]
        value = self._measure(position, row)
        return replace(row, source=self._names[bisect_left(self._edges, value)])


def bin_names(section: DemonstrationsSection) -> tuple[str, ...]:
    """Return the bins' names, lowest first; none where rows are not split."""
    if section.split_by is None:
        return ()
    return tuple(f"{section.split_by}-{number + 1}" for number in range(section.bins))


def split_by_length(
    rows: Mixture[Demonstration], section: DemonstrationsSection
) -> Mixture[Demonstration]:
    """Split by the tokens of the response; of many rows some say where the edges are.

    Raises:
        DataError: Fewer lengths than bins.
    """
    step = max(1, len(rows) // CHECKED_ROWS) if len(rows) > EAGER_ROWS else 1
    lengths = [float(len(rows[i].response_ids)) for i in range(0, len(rows), step)]
    edges = _edges(lengths, section)
    return _labelled(rows, lambda _, row: float(len(row.response_ids)), edges, section)


def split_by_values(
    rows: Mixture[Demonstration], values: Sequence[float], section: DemonstrationsSection
) -> Mixture[Demonstration]:
    """Split by a value of every row, in order.

    Raises:
        DataError: Fewer values than bins.
    """
    return _labelled(rows, lambda position, _: values[position], _edges(values, section), section)


def require_few_rows(rows: Sequence[Demonstration], section: DemonstrationsSection) -> None:
    """Refuse to measure a data set that is too large for it to be done before the first step.

    Raises:
        DataError: With what to do.
    """
    if len(rows) > EAGER_ROWS:
        raise DataError(
            f"demonstrations.split_by {section.split_by} measures every row before the first step, "
            f"at most {EAGER_ROWS:,}, got {len(rows):,}; set demonstrations.split_by length, or "
            "give fewer"
        )


def prompts_of(shown: Sequence[Demonstration], prompts: Sequence[Prompt]) -> tuple[Prompt, ...]:
    """Return each demonstration's prompt among those with a gold answer, for the model to try.

    Raises:
        DataError: One has no answer that can be checked.
    """
    of_tokens = {prompt.token_ids: prompt for prompt in prompts}
    lacking = [d.id for d in shown if d.prompt_ids not in of_tokens]
    if lacking:
        raise DataError(
            "demonstrations.split_by difficulty needs a prompt with a checkable answer of every "
            f"row, got {len(lacking)} of {len(shown)} without, the first with id {lacking[0]}; "
            "set demonstrations.split_by length or nll, or drop these rows"
        )
    return tuple(of_tokens[d.prompt_ids] for d in shown)


def _labelled(
    rows: Mixture[Demonstration],
    measure: Measure,
    edges: Sequence[float],
    section: DemonstrationsSection,
) -> Mixture[Demonstration]:
    (weight,) = rows.weights  # a mixture has sources, which are not split
    return Mixture([Binned(rows, measure, edges, bin_names(section))], [weight])


def _edges(values: Sequence[float], section: DemonstrationsSection) -> list[float]:
    """Return the upper edges of all bins but the last: quantiles, moved apart where values repeat.

    Each bin then holds as many rows as another, as far as equal values stay together.
    """
    levels = np.unique(np.array(values))
    if len(levels) < section.bins:
        finer = ", or raise demonstrations.difficulty_samples"
        raise DataError(
            f"demonstrations.split_by {section.split_by} cannot make {section.bins} bins of "
            f"{len(values)} rows: too many are alike, with {len(levels)} values in all; lower "
            "demonstrations.bins" + finer * (section.split_by == "difficulty")
        )
    shares = np.arange(1, section.bins) / section.bins
    wanted = np.searchsorted(levels, np.quantile(np.array(values), shares, method="lower"))
    behind = np.arange(section.bins - 1)
    places = np.maximum.accumulate(wanted - behind) + behind
    highest = len(levels) - section.bins + behind
    return [float(levels[place]) for place in np.minimum(places, highest)]
