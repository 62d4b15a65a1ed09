"""The sets to evaluate on, read and rendered before anything starts; called by `commands`.

evaluation.data, more_data  --data.load--> prompts ----------------------+
evaluation.benchmarks       --benchmarks--> rows --rendering--> prompts --+--> EvaluationSet
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coop_rl.config.data import DataSource
from coop_rl.config.schema import ServingConfig
from coop_rl.data.load import load_held_out
from coop_rl.data.model_folder import ModelFacts, read_model_facts
from coop_rl.data.rendering import Renderer, load_tokenizer
from coop_rl.errors import ConfigError
from coop_rl.evaluation.benchmarks import (
    BENCHMARKS,
    benchmark_rows,
    find_benchmark,
)
from coop_rl.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN = "{prompt}\n"
"""How a model without a chat template is asked."""


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """What one line of figures is about."""

    name: str
    prompts: Sequence[Prompt]


def serving_sets(config: ServingConfig) -> list[EvaluationSet]:
    """Check the model's folder, then read all sets.

    Raises:
        ModelError: The model or its tokenizer is missing.
        UserError: As `benchmark_sets`, and there is no set at all.
    """
    section = config.evaluation
    if not section.set_names:
        raise ConfigError(
            f"there is nothing to evaluate on; give --benchmark ({', '.join(BENCHMARKS)}), or "
            "--data FILE.jsonl"
        )
    for name in section.benchmarks:
        find_benchmark(name)  # an unknown one is refused before the model is read
    facts, tokenizer = read_model_facts(config.model), load_tokenizer(config.model.path)
    names = [held_out.name for held_out in section.held_out]
    sets = list(map(EvaluationSet, names, load_held_out(config, tokenizer, facts)))
    return sets + benchmark_sets(config, tokenizer, facts)


def benchmark_sets(
    config: ServingConfig, tokenizer: "PreTrainedTokenizerBase", facts: ModelFacts
) -> list[EvaluationSet]:
    """Read and render the benchmarks of section `evaluation`.

    Raises:
        ConfigError: A name is unknown, or an argument of the chat template.
        DataError: A file is missing, or a row bad or too long for the model.
    """
    section = config.evaluation
    if section.template_arguments and not tokenizer.chat_template:
        raise ConfigError(
            "evaluation.template_arguments are for the model's chat template, and it has none; "
            "remove them"
        )
    benchmarks = [find_benchmark(name) for name in section.benchmarks]
    sets: list[EvaluationSet] = []
    for benchmark in benchmarks:
        source = DataSource.model_validate(
            {
                "path": benchmark.name,
                "template": None if tokenizer.chat_template else PLAIN,
                "template_arguments": section.template_arguments,
                "question_template": benchmark.question,
                "verifier": benchmark.verifier,
            }
        )
        renderer = Renderer(
            "evaluation.benchmarks", source, tokenizer, facts, config.max_evaluation_tokens
        )
        rows = benchmark_rows(
            benchmark,
            section.data_dir,
            section.benchmark_items,
            is_whole=bool(config.reward.functions),
        )
        name = section.shown_name(benchmark.name)
        sets.append(EvaluationSet(name, [renderer.prompt(row) for row in rows]))
    return sets
