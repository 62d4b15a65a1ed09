"""Reads everything a run needs before anything starts; called by `commands.checks`.

Beyond the form of each row it checks two things that otherwise make every reward 0 without a word:
each gold answer must be one the verifier can call right, and so must what demonstrations teach.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from coop_rl.config import RunConfig
from coop_rl.config.data import DemonstrationsSection, PromptsSection, RowSource, Traces
from coop_rl.config.evaluation import HeldOut
from coop_rl.config.paths import files_matching
from coop_rl.config.schema import ServingConfig
from coop_rl.config.sizes import has_scaffold, reads_demonstrations, validation_rows
from coop_rl.data.bins import bin_names, prompts_of, require_few_rows, split_by_length
from coop_rl.data.collection import Mixture, render_rows
from coop_rl.data.golds import (
    CALLED_PROMPTS,
    refuse_failing_functions,
    unverifiable_prompts,
    verifiable_share,
)
from coop_rl.data.jsonl import open_jsonl
from coop_rl.data.model_folder import ModelFacts, read_model_facts
from coop_rl.data.rendering import Renderer, load_tokenizer
from coop_rl.data.rows import Dropped, ReadRows, RowError, TextRow, Wanted
from coop_rl.data.tables import open_dataset, open_parquet
from coop_rl.data.task import generate_rows
from coop_rl.errors import ConfigError, DataError
from coop_rl.types import Demonstration, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunData:
    """All data of one run, tokenised, or rendered when asked for."""

    prompts: Mixture[Prompt]
    """D_RL; empty where the method samples nothing for training."""
    demonstrations: Mixture[Demonstration]
    """D_SFT; empty where the method uses none."""
    validation: tuple[Demonstration, ...]
    """Demonstrations kept from training, to measure their NLL."""
    held_out: Sequence[Prompt]
    """Prompts of the evaluation's first own set, the first `evaluation.num_items` rows."""
    sources: tuple[str, ...]
    """Names of the demonstrations' sources."""
    decode: Callable[[Sequence[int]], str]
    """From tokens to text, without special tokens."""
    asked: tuple[Prompt, ...] = ()
    """The prompt of each row of `demonstrations` with its gold answer; empty: not needed."""
    dropped: tuple[Dropped, ...] = ()
    """What was left out, by source."""


@dataclass(frozen=True, slots=True)
class Loader:
    """What all sections are read with."""

    config: ServingConfig
    tokenizer: "PreTrainedTokenizerBase"
    facts: ModelFacts

    def prompts(
        self,
        section: str,
        source: RowSource,
        max_tokens: int,
        *,
        name: str = "",
        max_dropped: float = 0.0,
        limit: int | None = None,
    ) -> tuple[Sequence[Prompt], Dropped]:
        """Read one source of prompts, which leave room for responses of `max_tokens`.

        Raises:
            UserError: A file, a row or a template is bad.
        """
        renderer = Renderer(section, source, self.tokenizer, self.facts, max_tokens, name)
        read = open_rows(section, source, self.config, limit)

        def verify(rows: Sequence[TextRow], prompts: Sequence[Prompt]) -> Sequence[RowError]:
            return unverifiable_prompts(rows, prompts, self.config.reward)

        return render_rows(read, renderer.prompt, verify, source.origin, max_dropped)

    def demonstrations(
        self, source: Traces, name: str, max_dropped: float, teacher_template: str | None
    ) -> tuple[Sequence[Demonstration], Dropped]:
        """Read one source of demonstrations; a template adds their teacher's prompts.

        Raises:
            UserError: A file, a row or a template is bad, or what they teach is never right.
        """
        renderer = Renderer(
            "demonstrations",
            source,
            self.tokenizer,
            self.facts,
            self.config.rollout.max_tokens,
            name,
        )
        read = open_rows("demonstrations", source, self.config)

        def render(row: TextRow) -> Demonstration:
            shown = renderer.demonstration(row, source)
            if teacher_template is None:
                return shown
            taught = renderer.teacher_prompt(row, source, teacher_template)
            return replace(shown, teacher_prompt_ids=taught)

        def verify(rows: Sequence[TextRow], _: Sequence[Demonstration]) -> Sequence[RowError]:
            rows = [row for row in rows if renderer.has_answer(row)]
            texts = [renderer.response_text(row, source) for row in rows]
            golds = [renderer.answer(row) for row in rows]
            kind, section = source.verifier or "", self.config.reward
            details = [row.details for row in rows]
            if verifiable_share(texts, golds, details, kind, section) == 0 and rows:
                raise ConfigError(
                    f"no demonstration of {source.origin} is right for reward.kind {section.kind} "
                    f"(the first response ends in {texts[0][-20:]!r}, reward.marker is "
                    f"{section.marker!r}); change demonstrations.response_template or reward.marker"
                )
            return ()

        return render_rows(read, render, verify, source.origin, max_dropped)


class RunReader:
    """Reads what a run needs, part by part, so that each part's faults can be told beside others'.

    `prompts`, `demonstrations` and `held_out` come first, in any order, then `together`.
    """

    def __init__(self, config: RunConfig, tokenizer: "PreTrainedTokenizerBase", facts: ModelFacts):
        """Read with the model's tokenizer, for its context."""
        self._config = config
        self._loader = Loader(config, tokenizer, facts)
        self._prompts: Mixture[Prompt] = Mixture([], [])
        self._training: Mixture[Demonstration] = Mixture([], [])
        self._asked: tuple[Prompt, ...] = ()
        self._validation: tuple[Demonstration, ...] = ()
        self._held_out: Sequence[Sequence[Prompt]] = ()
        self._dropped: dict[str, list[Dropped]] = {"prompts": [], "demonstrations": []}

    def prompts(self) -> Mixture[Prompt]:
        """Read D_RL; empty where the method samples nothing for training.

        Raises:
            UserError: A file, a row, a template, the user's reward or a count is bad.
        """
        config = self._config
        if not config.method.samples:
            return self._prompts
        if config.reward.shuffle and config.prompts.per_step < 2:
            raise ConfigError(
                "reward.shuffle needs prompts.per_step >= 2 to hand rewards around, got 1"
            )
        prompts = _load_prompts(config.prompts, self._loader, self._dropped["prompts"])
        _refuse_more_than_rows("prompts", config.prompts.per_step, prompts)
        refuse_failing_functions(prompts[:CALLED_PROMPTS], config.reward)
        self._prompts = prompts
        return prompts

    def demonstrations(self) -> Mixture[Demonstration]:
        """Read D_SFT, and keep some of it from training; empty where the method learns from none.

        Raises:
            UserError: A file, a row, a template or a count is bad.
        """
        config, section = self._config, self._config.demonstrations
        if not reads_demonstrations(config):
            return self._training
        dropped, template = self._dropped["demonstrations"], config.method.teacher_template
        shown = _load_demonstrations(section, self._loader, dropped, template)
        kept = min(len(shown), validation_rows(config, len(shown)))
        training, self._validation = shown.split_tail(kept)
        if config.method.demonstrations == "none":
            return self._training  # what is kept is measured, the rest is nobody's
        _refuse_more_than_rows("demonstrations", section.per_step, training)
        if section.split_by == "length":
            training = split_by_length(training, section)
        elif section.split_by is not None:
            require_few_rows(training, section)
        if section.split_by == "difficulty":
            room, most = config.rollout.max_tokens, section.max_dropped
            read, _ = self._loader.prompts("demonstrations", section, room, max_dropped=most)
            self._asked = prompts_of(training, read)
        self._training = training
        return training

    def held_out(self) -> Sequence[Sequence[Prompt]]:
        """Read the evaluation's prompts, own set by own set."""
        self._held_out = load_held_out(self._config, self._loader.tokenizer, self._loader.facts)
        return self._held_out

    def together(self) -> RunData:
        """Return all that was read.

        Raises:
            DataError: Prompts and demonstrations do not fit each other, the method or the run.
        """
        config, tokenizer = self._config, self._loader.tokenizer
        if config.method.demonstrations == "matching" or has_scaffold(config):
            _refuse_no_match(config, self._prompts, self._training)
        if config.method.needs_repeats:
            _refuse_single_epoch(config, len(self._prompts))
        return RunData(
            self._prompts,
            self._training,
            self._validation,
            self._held_out[0] if self._held_out else (),
            _source_names(config.demonstrations, self._training),
            partial(tokenizer.decode, skip_special_tokens=True),
            self._asked,
            (*self._dropped["prompts"], *self._dropped["demonstrations"]),
        )


def load_run_data(config: RunConfig) -> RunData:
    """Check the model's folder, then read and render all files the method uses.

    Raises:
        ModelError: The model or its tokenizer is missing or does not fit.
        DataError: A file or row is bad.
        ConfigError: A template or a count does not fit the data.
    """
    facts = read_model_facts(config.model)
    reader = RunReader(config, load_tokenizer(config.model.path), facts)
    reader.prompts()
    reader.demonstrations()
    reader.held_out()
    return reader.together()


def load_held_out(
    config: ServingConfig, tokenizer: "PreTrainedTokenizerBase", facts: ModelFacts
) -> Sequence[Sequence[Prompt]]:
    """Read each of the evaluation's own sets, at most `evaluation.num_items` from the top."""
    section, loader = config.evaluation, Loader(config, tokenizer, facts)
    room, most = config.max_evaluation_tokens, section.num_items
    read = [loader.prompts(where, own, room, limit=most) for _, where, own in section.held_out]
    return [prompts for prompts, _ in read]


def open_rows(
    section: str,
    source: RowSource,
    config: ServingConfig,
    limit: int | None = None,
    wanted: Wanted | None = None,
) -> ReadRows:
    """Open a source's rows; training never gets a generated question of the evaluation.

    Args:
        section: Name of the section in the config, for errors.
        source: Where the rows are.
        config: The run.
        limit: Rows wanted, from the top; None: all.
        wanted: What is read of each row; None: all that the source names.

    Raises:
        UserError: The source is not there, or cannot be read.
    """
    wanted = wanted or _wanted_of(source, config)
    if source.dataset is not None:
        return open_dataset(source.dataset, wanted, limit)
    if source.task is None:
        return _open_files(section, source, wanted, limit)
    held_out, num_items = config.evaluation.held_out, config.evaluation.num_items
    num_rows, is_whole = source.task.num_rows, wanted.is_whole
    if any(source is own.source for own in held_out):
        num_rows = min(num_rows, num_items) if num_items else num_rows
        return ReadRows.of(generate_rows(section, source.task, num_rows, is_whole=is_whole))
    excluded = [question for own in held_out for question in _questions(own, config)]
    return ReadRows.of(generate_rows(section, source.task, num_rows, excluded, is_whole=is_whole))


def _wanted_of(source: RowSource, config: ServingConfig) -> Wanted:
    """Return what a source names; reward functions of the user's get all columns of a prompt."""
    is_whole = bool(config.reward.functions) and not isinstance(source, Traces)
    details = tuple(source.details_columns)
    return Wanted(source.columns, source.optional_columns, details, is_whole=is_whole)


def _open_files(section: str, source: RowSource, wanted: Wanted, limit: int | None) -> ReadRows:
    given = [source.path] if isinstance(source.path, str) else source.path or []
    paths: list[Path] = []
    for pattern in given:
        found = files_matching(pattern)
        if not found:
            raise DataError(f"{section}.path {pattern} matches no file; give existing files")
        paths += found
    kinds = {path.suffix == ".parquet" for path in paths}
    if len(kinds) > 1:
        raise DataError(f"{section}.path mixes parquet with other files; give one kind")
    if kinds == {True}:
        return open_parquet(paths, wanted, limit)
    return open_jsonl(paths, wanted, limit)


def _questions(held_out: HeldOut, config: ServingConfig) -> list[str]:
    column, num_items = held_out.source.prompt_column, config.evaluation.num_items
    read = open_rows(held_out.section, held_out.source, config, num_items, Wanted((column,)))
    return [row.turns(column)[-1].text for row in read.rows]


def _load_prompts(
    section: PromptsSection, loader: Loader, dropped: list[Dropped]
) -> Mixture[Prompt]:
    sources: list[tuple[RowSource, str, float]] = [(s, s.name, s.weight) for s in section.mixture]
    parts, room, most = [], loader.config.rollout.max_tokens, section.max_dropped
    for source, name, _ in sources or [(section, "", 1.0)]:
        part, left_out = loader.prompts("prompts", source, room, name=name, max_dropped=most)
        parts.append(part)
        dropped.append(left_out)
    return Mixture(parts, [weight for _, _, weight in sources] or [1.0])


def _load_demonstrations(
    section: DemonstrationsSection,
    loader: Loader,
    dropped: list[Dropped],
    teacher_template: str | None,
) -> Mixture[Demonstration]:
    sources: list[tuple[Traces, str, float]] = [(s, s.name, s.weight) for s in section.mixture]
    parts = []
    for source, name, _ in sources or [(section, "", 1.0)]:
        part, left_out = loader.demonstrations(source, name, section.max_dropped, teacher_template)
        parts.append(part)
        dropped.append(left_out)
    return Mixture(parts, [weight for _, _, weight in sources] or [1.0])


def _source_names(section: DemonstrationsSection, shown: Mixture[Demonstration]) -> tuple[str, ...]:
    """Return every source; only where a column names them must all rows be looked at."""
    if section.split_by is not None:
        return bin_names(section)
    of_column = [*section.mixture, section] if section.mixture else [section]
    if any(source.source_column for source in of_column):
        return tuple(sorted({d.source for d in shown}))
    return tuple(sorted({part[0].source for part in shown.parts if len(part)}))


def _refuse_more_than_rows(section: str, per_step: int, rows: Mixture[T]) -> None:
    """A step must not use a row twice: its samples would be seeded, hence sampled, alike."""
    if per_step > len(rows):
        raise DataError(
            f"{section}.per_step must be at most the {len(rows)} rows of {section}, "
            f"got {per_step}; lower {section}.per_step or add rows"
        )
    total = sum(rows.weights)
    for part, weight in zip(rows.parts, rows.weights, strict=True):
        share = per_step * weight / total
        if share > len(part) and len(rows.parts) > 1:
            raise DataError(
                f"{section}.mixture: a source of {len(part)} rows gives about {share:.1f} of the "
                f"{per_step} rows of a step; lower its weight or {section}.per_step"
            )


def _refuse_no_match(
    config: RunConfig, prompts: Sequence[Prompt], demonstrations: Sequence[Demonstration]
) -> None:
    """Refuse a method that teaches by a prompt's own demonstration where no prompt has one."""
    shown = {d.prompt_ids for d in demonstrations}
    if not any(prompt.token_ids in shown for prompt in prompts):
        raise DataError(
            f"method.kind {config.method.kind} needs demonstrations of the prompts it samples, but "
            f"none of the {len(prompts)} prompts of {config.prompts.origin} is among the "
            f"{len(demonstrations)} of {config.demonstrations.origin}; give prompts.path (or task) "
            "the demonstrations' rows"
        )


def _refuse_single_epoch(config: RunConfig, num_prompts: int) -> None:
    """Refuse a method that needs prompts to come up again in a run where none does."""
    per_step, num_steps = config.prompts.per_step, config.run.num_steps
    if per_step * num_steps <= num_prompts:
        raise DataError(
            f"method.kind {config.method.kind} does something only with prompts that come up "
            f"again, but {num_steps} steps of prompts.per_step {per_step} do not go through the "
            f"{num_prompts} prompts of {config.prompts.origin} once; raise run.num_steps, or give "
            "fewer prompts"
        )
