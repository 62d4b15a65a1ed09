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
from coop_rl.data.model_folder import ModelFacts, local_folder
from coop_rl.data.rows import RowError, TextRow
from coop_rl.errors import ConfigError, ModelError, first_line
from coop_rl.types import Demonstration, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLAIN_CLASS = "TokenizersBackend"
"""What a tokenizer's config says where tokenizer.json holds all of it."""
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
        if data.template is None:
            try_chat_template(tokenizer, section, has_system=data.system is not None)
        elif "{prompt}" not in data.template:
            raise ConfigError(f"{section}.template must contain {{prompt}}, got {data.template!r}")

    def prompt(self, row: TextRow) -> Prompt:
        """Render a prompt with a gold answer.

        Raises:
            RowError: It has no token, or is too long for the context.
        """
        text = self._prompt_text(row.columns[self._data.prompt_column])
        token_ids = self._tokenize(text, row)
        if not token_ids:
            raise RowError(row.place, "the prompt has no tokens; drop the row", "no tokens")
        self._require_room(row, token_ids, "prompts")
        answer = row.columns[self._data.answer_column].strip()
        verifier = self._data.verifier or ""
        return Prompt(self._id(row), text, token_ids, answer, row.details, verifier, self._name)

    def demonstration(self, row: TextRow, section: Traces) -> Demonstration:
        """Render an expert trace.

        Raises:
            RowError: It is too long for the context, or empty, or repeats what the prompt's last
                or the response's end token says.
        """
        prompt = self._prompt_text(row.columns[section.prompt_column])
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
        demonstration = self.response_text(row, section)
        values = {"prompt": row.columns[section.prompt_column], "demonstration": demonstration}
        token_ids = self._tokenize(self._prompt_text(fill(template, values)), row)
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

    @staticmethod
    def response_text(row: TextRow, section: Traces) -> str:
        """Write out reasoning and answer as the model is to produce them."""
        values = {
            "reasoning": row.columns[section.reasoning_column],
            "answer": row.columns[section.answer_column].strip(),
        }
        return fill(section.response_template, values)

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

    def _prompt_text(self, prompt: str) -> str:
        prompt = fill(self._data.question_template, {"prompt": prompt})
        if self._data.template is not None:
            return fill(self._data.template, {"prompt": prompt})
        messages = [{"role": "user", "content": prompt}]
        if self._data.system is not None:
            messages.insert(0, {"role": "system", "content": self._data.system})
        return apply_chat_template(
            self._tokenizer, messages, self._section, add_generation_prompt=True
        )

    def _tokenize(self, text: str, row: TextRow) -> tuple[int, ...]:
        # verbose: transformers would print its own warning beside our error on a long text
        token_ids = tuple(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))
        size = self._facts.vocab_size
        if size is not None and token_ids and max(token_ids) >= size:
            raise ModelError(
                f"{row.place}: the tokenizer gives token {max(token_ids)}, the model knows {size}; "
                "tokenizer and model do not belong together"
            )
        return token_ids
