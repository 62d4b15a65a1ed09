"""Reads everything a run needs before anything starts; called by `distributed.run`.

Beyond the form of each row it checks two things that otherwise make every reward 0 without a word:
each gold answer must be one the verifier can call right, and so must what demonstrations teach.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from transformers import PreTrainedTokenizerBase

from coop_rl.config import RunConfig
from coop_rl.config.data import DataSource
from coop_rl.config.schema import ServingConfig
from coop_rl.config.sizes import validation_rows
from coop_rl.data.jsonl import Row, read_rows
from coop_rl.data.model_folder import ModelFacts, read_model_facts
from coop_rl.data.order import SeededOrder
from coop_rl.data.rendering import Renderer, load_tokenizer
from coop_rl.data.task import generate_rows
from coop_rl.errors import ConfigError, DataError
from coop_rl.rewards.registry import VERIFIERS, settings_of
from coop_rl.rewards.verdict import Answer
from coop_rl.types import Demonstration, Prompt, ScoredGroup

MATCHING_METHODS = ("hpt", "luffy", "srft", "relift")
"""Methods that use the demonstration of a sampled prompt."""
DEMONSTRATIONS_STREAM = 1
"""Order stream of the demonstrations; prompts use 0, so equal files are not walked in step."""


@dataclass(frozen=True, slots=True)
class RunData:
    """All data of one run, tokenised."""

    prompts: tuple[Prompt, ...]
    """D_RL; empty where the method samples nothing for training."""
    demonstrations: tuple[Demonstration, ...]
    """D_SFT; empty where the method uses none."""
    validation: tuple[Demonstration, ...]
    """Demonstrations kept from training, to measure their NLL."""
    held_out: tuple[Prompt, ...]
    """Evaluation prompts, the first `evaluation.num_items` rows."""


def load_run_data(config: RunConfig) -> RunData:
    """Check the model's folder, then read and render all files the method uses.

    Raises:
        ModelError: The model or its tokenizer is missing or does not fit.
        DataError: A file or row is bad.
        ConfigError: A template or a count does not fit the data.
    """
    facts = read_model_facts(config.model)
    tokenizer = load_tokenizer(config.model.path)
    trains_rl, trains_sft = config.method.kind != "sft", config.method.kind != "rl"
    if trains_rl and config.reward.shuffle and config.prompts.per_step < 2:
        raise ConfigError(
            "reward.shuffle needs prompts.per_step >= 2 to hand rewards around, got 1"
        )
    prompts = load_prompts(config, tokenizer, facts) if trains_rl else ()
    shown = load_demonstrations(config, tokenizer, facts) if trains_sft else ()
    split = max(0, len(shown) - validation_rows(config, len(shown)))
    training, validation = shown[:split], shown[split:]
    if trains_sft:
        _refuse_more_than_rows("demonstrations", config.demonstrations.per_step, len(training))
    if config.method.kind in MATCHING_METHODS:
        _refuse_no_match(config, prompts, training)
    return RunData(prompts, training, validation, load_held_out(config, tokenizer, facts))


def load_prompts(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, facts: ModelFacts
) -> tuple[Prompt, ...]:
    """Read D_RL."""
    prompts = _read_prompts("prompts", config.prompts, config, tokenizer, facts)
    _refuse_more_than_rows("prompts", config.prompts.per_step, len(prompts))
    return prompts


def load_held_out(
    config: ServingConfig, tokenizer: PreTrainedTokenizerBase, facts: ModelFacts
) -> tuple[Prompt, ...]:
    """Read the evaluation's prompts, at most `evaluation.num_items` from the top."""
    section = config.evaluation
    if section.data is None:
        return ()
    return _read_prompts(
        "evaluation.data", section.data, config, tokenizer, facts, limit=section.num_items
    )


def load_demonstrations(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, facts: ModelFacts
) -> tuple[Demonstration, ...]:
    """Read D_SFT."""
    section = config.demonstrations
    columns = [section.prompt_column, section.reasoning_column, section.answer_column]
    if section.source_column is not None:
        columns.append(section.source_column)
    rows = _rows("demonstrations", section, columns, config)
    renderer = Renderer("demonstrations", section, tokenizer, facts, max_new_tokens=0)
    rendered = [renderer.demonstration(row, section) for row in rows]
    verify = VERIFIERS[config.reward.kind].verify
    settings = settings_of(config.reward)
    golds = (row.columns[section.answer_column].strip() for row in rows)
    if not any(
        verify(Answer(text, gold), settings).is_correct
        for (_, text), gold in zip(rendered, golds, strict=True)
    ):
        raise ConfigError(
            f"no demonstration of {section.origin} is right for reward.kind {config.reward.kind} "
            f"(the first response ends in {rendered[0][1][-20:]!r}, reward.marker is "
            f"{config.reward.marker!r}); change demonstrations.response_template or reward.marker"
        )
    return tuple(demonstration for demonstration, _ in rendered)


def _read_prompts(
    section: str,
    data: DataSource,
    config: ServingConfig,
    tokenizer: PreTrainedTokenizerBase,
    facts: ModelFacts,
    limit: int | None = None,
) -> tuple[Prompt, ...]:
    renderer = Renderer(section, data, tokenizer, facts, config.rollout.max_tokens)
    rows = _rows(section, data, (data.prompt_column, data.answer_column), config, limit)
    prompts = tuple(renderer.prompt(row) for row in rows)
    verifier, settings = VERIFIERS[config.reward.kind], settings_of(config.reward)
    for row, prompt in zip(rows, prompts, strict=True):
        if verifier.render is None:
            break
        right = Answer(verifier.render(prompt.answer, settings), prompt.answer)
        if not verifier.verify(right, settings).is_correct:
            raise DataError(
                f"{row.place}: no response can be right, the gold answer {prompt.answer!r} itself "
                f"scores 0 for reward.kind {config.reward.kind} with reward.marker "
                f"{config.reward.marker!r}; change the answer or the marker"
            )
    return prompts


def _rows(
    section: str,
    data: DataSource,
    columns: Sequence[str],
    config: ServingConfig,
    limit: int | None = None,
) -> list[Row]:
    """Read a file or generate a task's rows; training never gets a question of the evaluation."""
    if data.task is None:
        return read_rows(Path(str(data.path)), columns, limit)
    held_out, num_items = config.evaluation.data, config.evaluation.num_items
    if data is held_out:
        num_rows = data.task.num_rows
        return generate_rows(section, data.task, min(num_rows, num_items or num_rows))
    if held_out is None:
        return generate_rows(section, data.task, data.task.num_rows)
    column = held_out.prompt_column
    items = _rows("evaluation.data", held_out, (column,), config, num_items)
    excluded = [item.columns[column] for item in items]
    return generate_rows(section, data.task, data.task.num_rows, excluded)


def _refuse_more_than_rows(section: str, per_step: int, num_rows: int) -> None:
    """A step must not use a row twice: its samples would be seeded, hence sampled, alike."""
    if per_step > num_rows:
        raise DataError(
            f"{section}.per_step must be at most the {num_rows} rows of {section}, "
            f"got {per_step}; lower {section}.per_step or add rows"
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


class Demonstrations:
    """Implements `algorithm.roles.Demonstrations`: the rows of a step, the same after a resume."""

    def __init__(self, config: RunConfig, demonstrations: Sequence[Demonstration]) -> None:
        self.num_rows = len(demonstrations)
        self._demonstrations = demonstrations
        self._of_prompt = {d.prompt_ids: d for d in reversed(demonstrations)}
        self._order = SeededOrder(
            len(demonstrations),
            config.demonstrations.per_step,
            config.run.seed,
            DEMONSTRATIONS_STREAM,
        )

    def next_batch(
        self,
        step: int,
        which: Literal["none", "next", "matching"],
        groups: Sequence[ScoredGroup],
    ) -> Sequence[Demonstration]:
        """Return none, the step's own, or those of the groups' prompts, under the prompts' ids."""
        if which == "none":
            return ()
        if which == "next":
            return [self._demonstrations[i] for i in self._order.batch(step)]
        prompts = [group.prompt for group in groups]
        return [
            replace(self._of_prompt[prompt.token_ids], id=prompt.id)
            for prompt in prompts
            if prompt.token_ids in self._of_prompt
        ]
