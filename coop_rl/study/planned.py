"""A grid to runs: a config and a folder each, all checked before the first one starts.

    base --set--> arm --trial--> seed

Runs come seed by seed over all arms, so that a study that was stopped is a paired one with fewer
seeds.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coop_rl.config import RunConfig
from coop_rl.config.load import build_config
from coop_rl.config.paths import settle_paths
from coop_rl.config.read import lay_over, read_sections
from coop_rl.errors import ConfigError
from coop_rl.study.grid import NAME, Grid, Overrides, leaves, read_grid

OWN_FIELDS = ("run.seed", "run.name", "run.dir")
"""Fields of a run that the study sets."""


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One ordinary run of `coop-rl train`."""

    arm: str
    seed: int
    trial: int | None
    """Which trial of the arm, from 1; None: a run of the study itself."""
    config: RunConfig
    folder: Path
    """Its run directory."""

    @property
    def name(self) -> str:
        """How lines call it, and where in the study's folder it lies."""
        return run_name(self.arm, self.seed, self.trial)

    @property
    def declared(self) -> Path:
        """The config it is started from, beside its run directory."""
        return self.folder.with_name(f"{self.folder.name}.json")

    @property
    def log(self) -> Path:
        """What it printed, beside its run directory."""
        return self.folder.with_name(f"{self.folder.name}.log")


@dataclass(frozen=True, slots=True)
class Study:
    """A grid whose every config was built; nothing was started."""

    path: Path
    grid: Grid
    folder: Path
    """Where its runs lie."""
    configs: Mapping[str, RunConfig]
    """The config of every arm, before trials and at the base's seed."""
    trials: Mapping[str, tuple[RunConfig, ...]]
    """The configs of every arm's trials, as the arm takes them over."""
    tried: Mapping[str, tuple[RunConfig, ...]]
    """The same as they are tried: with the trials' own evaluation."""

    @property
    def name(self) -> str:
        """The grid's file, without its suffix."""
        return self.path.stem

    @property
    def primary_set(self) -> str:
        """The evaluation set that figures are of."""
        return next(iter(self.configs.values())).evaluation.set_names[0]

    def trial_runs(self) -> list[PlannedRun]:
        """Return the runs that settings are chosen by, trial by trial."""
        return [
            self._run(arm, seed, config, number)
            for arm, configs in self.tried.items()
            for seed in self.grid.trial_seeds
            for number, config in enumerate(configs, 1)
        ]

    def runs(self, chosen: Mapping[str, int]) -> list[PlannedRun]:
        """Return the study's own runs, seed by seed.

        An arm that took a trial with the config of another arm has that arm's runs.

        Args:
            chosen: The trial, from 1, that each arm with trials takes; arms whose trials are not
                done yet have no runs.
        """
        plain = {arm: config for arm, config in self.configs.items() if arm not in self.trials}
        taken = {arm: self.trials[arm][number - 1] for arm, number in chosen.items()}
        configs = {arm: (plain | taken)[arm] for arm in self.configs if arm in plain | taken}
        arms = {config.model_dump_json(): arm for arm, config in plain.items()}
        same = {arm: arms.get(config.model_dump_json(), arm) for arm, config in taken.items()}
        return [
            self._run(arm, seed, config, folder_of=same.get(arm, arm))
            for seed in self.grid.seeds
            for arm, config in configs.items()
        ]

    def _run(
        self,
        arm: str,
        seed: int,
        config: RunConfig,
        trial: int | None = None,
        *,
        folder_of: str | None = None,
    ) -> PlannedRun:
        name = run_name(folder_of or arm, seed, trial)
        own = {"seed": seed, "name": f"{self.name}-{name.replace('/', '-')}"}
        config = config.model_copy(update={"run": config.run.model_copy(update=own)})
        return PlannedRun(arm, seed, trial, config, self.folder / name)


def run_name(arm: str, seed: int, trial: int | None = None) -> str:
    """Return the run's folder from the study's."""
    return f"{arm}/{seed}" if trial is None else f"{arm}/trial-{trial}/{seed}"


def read_study(path: Path, folder: Path | None = None) -> Study:
    """Read a grid and build the config of every arm and trial.

    Args:
        path: The grid.
        folder: Where the runs lie; None: `<run.dir>/<the grid's name>`.

    Raises:
        ConfigError: The grid, its base or one of its arms is wrong; the arm is named.
    """
    grid = read_grid(path)
    base = path.parent / grid.base
    try:
        sections = read_sections(base)
    except ConfigError as error:
        raise ConfigError(f"{path}: base {grid.base}: {error}") from None
    common = lay_over(sections, _overlay(grid.set, path, "set"))
    configs, trials, tried = {}, {}, {}
    cheaper = _overlay({"evaluation": grid.trial_evaluation}, path, "trial_evaluation")
    for arm, overrides in grid.arms.items():
        own = lay_over(common, _overlay(overrides, path, f"arms.{arm}"))
        configs[arm] = build_config(own, f"{path}: arm {arm}")
        settings = {
            f"{path}: trials.{arm}.{number}": lay_over(
                own, _overlay(trial, path, f"trials.{arm}.{number}")
            )
            for number, trial in enumerate(grid.trials.get(arm, ()), 1)
        }
        if settings:
            trials[arm] = tuple(build_config(s, where) for where, s in settings.items())
            tried[arm] = tuple(
                build_config(lay_over(s, cheaper), f"{where} with trial_evaluation")
                for where, s in settings.items()
            )
    if folder is None:
        folder = Path(next(iter(configs.values())).run.dir) / path.stem
    study = Study(path, grid, folder.absolute(), configs, trials, tried)
    _check(study)
    return study


def _overlay(overrides: Overrides, path: Path, where: str) -> dict[str, Any]:
    """Return overrides as nested sections whose paths are absolute."""
    values: dict[str, Any] = {}
    for dotted, value in leaves(overrides):
        if dotted in OWN_FIELDS:
            raise ConfigError(f"{path}: {where}: the study sets {dotted} of each run; remove it")
        *names, leaf = dotted.split(".")
        section = values
        for name in names:
            section = section.setdefault(name, {})
            if not isinstance(section, dict):
                raise ConfigError(f"{path}: {where}: {dotted}: {name} is not a section")
        if leaf in section:
            raise ConfigError(f"{path}: {where}: {dotted} is set twice; keep one")
        section[leaf] = value
    settle_paths(values, path.parent)
    return values


def _check(study: Study) -> None:
    """Refuse figures that no run measures, and arms that cannot be compared.

    Raises:
        ConfigError: With what was got and what to change.
    """
    path, grid = study.path, study.grid
    if not re.fullmatch(NAME, study.name):
        raise ConfigError(
            f"{path}: the file's name is the study's, of letters, digits, dots, dashes and "
            f"underscores, got {study.name!r}; rename it"
        )
    first_arm, first = next(iter(study.configs.items()))
    for figure in (grid.primary, grid.second):
        if figure not in first.evaluation.figures:
            raise ConfigError(
                f"{path}: the figure {figure} is not measured; allowed are "
                f"{', '.join(first.evaluation.figures)} (evaluation.num_samples "
                f"{first.evaluation.num_samples}); change primary or second, or set "
                "evaluation.num_samples"
            )
    everything = {arm: [config] for arm, config in study.configs.items()}
    everything |= {arm: [*everything[arm], *configs] for arm, configs in study.trials.items()}
    for arm, configs in everything.items():
        for config in configs:
            _refuse_other_protocol(path, (first_arm, first), (arm, config))
    seen: dict[str, str] = {}
    for arm, config in study.configs.items():
        if arm in study.trials:
            continue
        if (same := seen.setdefault(config.model_dump_json(), arm)) != arm:
            raise ConfigError(f"{path}: arms {same} and {arm} are the same run; remove one")
    for arm in study.trials:
        if not study.configs[arm].method.samples:
            raise ConfigError(
                f"{path}: trials.{arm}: trials are chosen by the training reward, and method.kind "
                f"{study.configs[arm].method.kind} samples nothing; remove them"
            )


def _refuse_other_protocol(
    path: Path, first: tuple[str, RunConfig], second: tuple[str, RunConfig]
) -> None:
    """Refuse arms that are evaluated otherwise than the first: their figures would not compare.

    How often is an arm's own: arms of unlike length meet at equal cost.
    """
    (_, a), (arm, b) = first, second
    sections = [config.evaluation.model_dump(exclude={"every"}) for config in (a, b)]
    named = [f"evaluation.{name}" for name in sections[0] if sections[0][name] != sections[1][name]]
    if a.max_evaluation_tokens != b.max_evaluation_tokens:
        named.append("evaluation.max_tokens (rollout.max_tokens, where it is null)")
    if named:
        raise ConfigError(
            f"{path}: arms {first[0]} and {arm} differ in {named[0]}, so their figures would not "
            "compare; set it for all arms in set"
        )
