"""The model's chat template, code that came with the model: tried once, with limits, before rows.

Called by `rendering` for every message, and by `commands.checks` for how the template ends a turn.
"""

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from coop_rl.errors import ModelError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRIAL_LIMIT_S = 10.0
"""Longest that a short conversation may take: a template may loop without end."""
TRIAL_LIMIT_CHARACTERS = 1_000_000
TRIAL = {"system": "Answer briefly.", "user": "How much is 7+8?", "assistant": "It is 15."}
"""Contents of the trial's messages, by role."""

Messages = Sequence[Mapping[str, str]]


def try_chat_template(
    tokenizer: "PreTrainedTokenizerBase",
    section: str,
    *,
    has_system: bool,
    arguments: Mapping[str, Any],
) -> None:
    """Render a short conversation, as the section's rows will be.

    Raises:
        ModelError: The model has no template, or it fails, does not end, or leaves a message out.
    """
    if not tokenizer.chat_template:
        raise ModelError(
            f"{section}.template is null, but the model has no chat template; "
            f'set {section}.template, for instance to "{{prompt}}"'
        )
    messages = _trial(*(["system"] if has_system else []), "user")
    with _limited():
        text = apply_chat_template(
            tokenizer, messages, section, add_generation_prompt=True, **arguments
        )
    if len(text) > TRIAL_LIMIT_CHARACTERS:
        raise ModelError(
            f"{section}: the model's chat template makes {len(text):,} characters of "
            f"{len(messages)} short messages; mend it in the model's folder, or set "
            f"{section}.template"
        )
    for message in messages:
        if message["content"] not in text:
            advice = "drop it" if message["role"] == "system" else f"set {section}.template"
            raise ModelError(
                f"{section}: the model's chat template leaves the {message['role']} message out: "
                f"it makes {text[-60:]!r}; {advice}, or mend the template in the model's folder"
            )


def apply_chat_template(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, section: str, **options: Any
) -> str:
    """Return the text that the template makes of messages.

    Raises:
        ModelError: It fails.
    """
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
    except Exception as error:  # the template's own code: whatever it raises
        roles = " and ".join(dict.fromkeys(message["role"] for message in messages))
        advice = f"drop {section}.system, " if messages[0]["role"] == "system" else ""
        raise ModelError(
            f"{section}: the model's chat template fails on {roles} messages: "
            f"{type(error).__name__}: {first_line(error)}; {advice}set {section}.template, or mend "
            "the template in the model's folder"
        ) from None


def end_of_turn(tokenizer: "PreTrainedTokenizerBase") -> str | None:
    """Return the special token that ends the assistant's turns; None: the template writes none.

    Raises:
        ModelError: It fails on a conversation with an answer.
    """
    messages = _trial("user", "assistant")
    text = apply_chat_template(tokenizer, messages, "chat template")
    _, _, tail = text.rpartition(TRIAL["assistant"])
    special = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    ids = tokenizer.encode(tail, add_special_tokens=False)
    return next((special[token] for token in ids if token in special), None)


def _trial(*roles: str) -> Messages:
    return [{"role": role, "content": TRIAL[role]} for role in roles]


@contextmanager
def _limited() -> Iterator[None]:
    """End what takes too long; signals arrive in the main thread, and only there.

    By CPU time, so that a busy machine refuses no template.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError(f"no end after {TRIAL_LIMIT_S:g} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, TRIAL_LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
