"""From rows to tokens: plain templates or the model's chat template; `data.load` calls it.

A plain template gets no special tokens: what the template says is all the model sees.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from coop_rl.config.data import RowSource, Traces
from coop_rl.data.chat_template import apply_chat_template, try_chat_template
from coop_rl.data.chats import Chat, Turn
from coop_rl.data.model_folder import ModelFacts, local_folder
from coop_rl.data.rows import RowError, TextRow
from coop_rl.errors import ConfigError, ModelError, first_line
from coop_rl.types import Demonstration, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_CLASS = "TokenizersBackend"
"""What a tokenizer's config says where tokenizer.json holds all of it."""
MOST_CHARACTERS_PER_TOKEN = 64
"""A text of more for each token of the context is too long, and is not tokenised to see that."""
OWN_ARGUMENTS = ("messages", "tools", "documents", "add_generation_prompt")
"""What chat templates read and the config does not set."""
OPENED = re.compile(r"(<\w+>)\s*$")
"""A tag that a text opens at its end."""
DEFAULT_SOURCE = "demonstrations"
"""Source of demonstrations that name none."""


def load_tokenizer(model: str) -> "PreTrainedTokenizerBase":
    """Load a model's tokenizer; code that comes with a model is never run.

    Raises:
        ModelError: There is no such folder or hub id, or it has no usable tokenizer.
    """
    folder = local_folder(model)
    try:
        if folder and _is_plain(folder):
            # At once: to find the class, AutoTokenizer imports torch and all of transformers.
            from transformers import TokenizersBackend

            tokenizer: PreTrainedTokenizerBase = TokenizersBackend.from_pretrained(str(folder))
        else:
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(str(folder or model), trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = first_line(error)
        where = "in the folder" if folder else "on the hub or in its cache"
        raise ModelError(
            f"no usable tokenizer for model.path {model} {where}: {reason}; "
            "save the tokenizer beside the model, or give another model.path"
        ) from None
    return tokenizer


def _is_plain(folder: Path) -> bool:
    """Whether the folder itself says that its tokenizer is of the general class."""
    with suppress(OSError, ValueError):
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        return isinstance(settings, dict) and settings.get("tokenizer_class") == PLAIN_CLASS
    return False


def _mentions(template: object, name: str) -> bool:
    """Whether a chat template, or one of several by name, reads a variable."""
    return re.search(rf"\b{re.escape(name)}\b", str(template)) is not None


def fill(template: str, values: Mapping[str, str]) -> str:
    r"""Put values into `{name}` places, once: braces in a value or elsewhere stay (`\boxed{}`)."""
    pattern = "|".join(re.escape("{" + name + "}") for name in values)
    return re.sub(pattern, lambda match: values[match.group()[1:-1]], template)


class Renderer:
    """Turns rows of one data file into tokens that fit the model."""

    def __init__(
        self,
        section: str,
        data: RowSource,
        tokenizer: "PreTrainedTokenizerBase",
        facts: ModelFacts,
        max_new_tokens: int,
        name: str = "",
    ) -> None:
        """Check the section's templates.

        Args:
            section: Name of the section in the config, for errors.
            data: The section itself.
            tokenizer: The model's tokenizer.
            facts: Context length and vocabulary size.
            max_new_tokens: Room a prompt must leave for the response.
            name: Name of the source, which begins the ids; empty: there is no mixture.

        Raises:
            ConfigError: A template lacks its place for the value.
            ModelError: A chat template is wanted, and the model has none or a faulty one.
        """
        self._section, self._data = section, data
        self._tokenizer, self._facts = tokenizer, facts
        self._max_new_tokens = max_new_tokens
        self._name = name
        if "{prompt}" not in data.question_template:
            raise ConfigError(
                f"{section}.question_template must contain {{prompt}}, "
                f"got {data.question_template!r}"
            )
        for argument in data.template_arguments:
            if argument in OWN_ARGUMENTS or not _mentions(tokenizer.chat_template, argument):
                raise ConfigError(
                    f"{section}.template_arguments: the model's chat template reads no {argument}; "
                    "correct its spelling, or remove it"
                )
        if data.template is None:
            try_chat_template(
                tokenizer,
                section,
                has_system=data.system is not None,
                arguments=data.template_arguments,
            )
        elif "{prompt}" not in data.template:
            raise ConfigError(f"{section}.template must contain {{prompt}}, got {data.template!r}")

    def prompt(self, row: TextRow) -> Prompt:
        """Render a prompt with a gold answer.

        Raises:
            RowError: It has no token, or is too long for the context.
        """
        text = self._prompt_text(row, row.turns(self._data.prompt_column))
        token_ids = self._tokenize(text, row)
        if not token_ids:
            raise RowError(row.place, "the prompt has no tokens; drop the row", "no tokens")
        self._require_room(row, token_ids, "prompts")
        return Prompt(
            self._id(row),
            text,
            token_ids,
            self.answer(row),
            row.details,
            self._data.verifier or "",
            self._name,
            columns=row.whole,
        )

    def demonstration(self, row: TextRow, section: Traces) -> Demonstration:
        """Render an expert trace.

        Raises:
            RowError: It is too long for the context, or empty, or repeats what the prompt's last
                or the response's end token says.
        """
        turns = row.turns(section.prompt_column)
        prompt = self._prompt_text(row, turns)
        prompt_ids = self._tokenize(prompt, row)
        response = self.response_text(row, section)
        self._refuse_opened_twice(row, prompt, response)
        response_ids = (*self._tokenize(response, row), self.end_of_sequence())
        if (end := response_ids[-1]) in response_ids[:-1]:
            raise RowError(
                row.place,
                f"the response holds {self._tokenizer.decode([end])} itself, which is added at its "
                "end; take it out of demonstrations.response_template, or out of the row",
                "end token twice",
            )
        total = len(prompt_ids) + len(response_ids)
        if not prompt_ids:
            raise RowError(row.place, "the prompt has no tokens; drop the row", "no tokens")
        if total > self._facts.max_length:
            raise RowError(
                row.place,
                f"prompt, response and end token may have {self._facts.max_length} "
                f"tokens together, got {len(prompt_ids)} + {len(response_ids)}; drop the row, or "
                "raise model.max_length if the model allows it",
                "too long",
            )
        source = self._name or DEFAULT_SOURCE
        if section.source_column is not None:
            source = row.columns[section.source_column]
        return Demonstration(self._id(row), prompt_ids, response_ids, source)

    def teacher_prompt(self, row: TextRow, section: Traces, template: str) -> tuple[int, ...]:
        """Render the prompt with the row's demonstration in it.

        Raises:
            RowError: It leaves no room for the response.
        """
        *before, asked = row.turns(section.prompt_column)
        values = {"prompt": asked.text, "demonstration": self.response_text(row, section)}
        taught = Turn("user", fill(template, values))
        token_ids = self._tokenize(self._prompt_text(row, (*before, taught)), row)
        self._require_room(row, token_ids, "prompts with a demonstration in them")
        return token_ids

    @staticmethod
    def _refuse_opened_twice(row: TextRow, prompt: str, response: str) -> None:
        """Refuse a response that opens what the prompt has opened for it, such as <think>."""
        opened = OPENED.search(prompt)
        if opened and response.lstrip().startswith(opened[1]):
            raise RowError(
                row.place,
                f"the prompt ends by opening {opened[1]}, and the response opens it again; take it "
                "out of demonstrations.response_template, or out of the row",
                "opened twice",
            )

    def _require_room(self, row: TextRow, token_ids: Sequence[int], what: str) -> None:
        """Refuse a prompt that leaves no room for the response."""
        allowed = self._facts.max_length - self._max_new_tokens
        if len(token_ids) > allowed:
            raise RowError(
                row.place,
                f"{what} may have {allowed} tokens (context {self._facts.max_length} "
                f"less {self._max_new_tokens} for the response), got {len(token_ids)}; drop the "
                "row, lower rollout.max_tokens, or raise model.max_length if the model allows it",
                "too long",
            )

    def response_text(self, row: TextRow, section: Traces) -> str:
        """Write out the response as the model is to produce it.

        Raises:
            RowError: A solution lacks its marker, or a chat its answer.
        """
        if section.response_column is not None:
            return row.text(section.response_column)
        reasoning = row.text(section.reasoning_column)
        if section.answer_marker and section.reasoning_column == section.answer_column:
            reasoning = reasoning.rpartition(section.answer_marker)[0].strip()
        return fill(section.response_template, {"reasoning": reasoning, "answer": self.answer(row)})

    def answer(self, row: TextRow) -> str:
        """Return the gold answer.

        Raises:
            RowError: The solution it ends has no marker, or nothing after it.
        """
        column, marker = self._data.answer_column, self._data.answer_marker
        text = row.text(column)
        if marker is not None:
            _, found, text = text.rpartition(marker)
            if not found or not text.strip():
                raise RowError(
                    row.place,
                    f"column {column!r} has no answer after a {marker!r} "
                    f"({self._section}.answer_marker); mend or drop the row",
                    "no answer after the marker",
                )
        return text.strip()

    def has_answer(self, row: TextRow) -> bool:
        """Whether the row has a gold answer: where the whole response is given it need not."""
        return self._data.answer_column in {*row.columns, *row.chats}

    def end_of_sequence(self) -> int:
        """Return the token that ends a response.

        Raises:
            ModelError: The tokenizer has none.
        """
        token = self._tokenizer.eos_token_id
        if not isinstance(token, int):
            raise ModelError(
                "the model's tokenizer has no end-of-sequence token, which demonstrations must end "
                "with; set eos_token in its tokenizer_config.json"
            )
        return token

    def _id(self, row: TextRow) -> str:
        return f"{self._name}/{row.id}" if self._name else row.id

    def _prompt_text(self, row: TextRow, turns: Chat) -> str:
        """Write out what is asked: the last turn through the templates, the others as they are."""
        *before, asked = turns
        question = fill(self._data.question_template, {"prompt": asked.text})
        if self._data.template is not None:
            if before:
                raise RowError(
                    row.place,
                    f"a chat of {len(turns)} turns needs the model's chat template; set "
                    f"{self._section}.template null",
                    "chat without a chat template",
                )
            return fill(self._data.template, {"prompt": question})
        if self._data.system is not None and not any(turn.role == "system" for turn in before):
            before = [Turn("system", self._data.system), *before]
        messages = [
            {"role": turn.role, "content": turn.text} for turn in (*before, Turn("user", question))
        ]
        return apply_chat_template(
            self._tokenizer,
            messages,
            self._section,
            add_generation_prompt=True,
            **self._data.template_arguments,
        )

    def _tokenize(self, text: str, row: TextRow) -> tuple[int, ...]:
        most = MOST_CHARACTERS_PER_TOKEN * self._facts.max_length
        if len(text) > most:  # 100 MB of text would take 23 GB to tokenise
            raise RowError(
                row.place,
                f"{len(text):,} characters do not fit into the context of "
                f"{self._facts.max_length} tokens, which is given at most {most:,}; shorten or "
                "drop the row",
                "too long",
            )
        # verbose: transformers would print its own warning beside our error on a long text
        token_ids = tuple(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))
        size = self._facts.vocab_size
        if size is not None and token_ids and max(token_ids) >= size:
            raise ModelError(
                f"{row.place}: the tokenizer gives token {max(token_ids)}, the model knows {size}; "
                "tokenizer and model do not belong together"
            )
        return token_ids
