"""Chats in a column: `messages` (role, content) or ShareGPT (from, value); `jsonl` reads them.

[system] user assistant user ... user  [assistant]
'---------- the prompt --------------'  '-- the demonstration, or a solution that holds the gold
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]
ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
"""What role a turn has, by the name it is given."""
UNREAD = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking")
"""Parts of a turn besides its text, which would be lost."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message."""

    role: Role
    text: str


Chat = tuple[Turn, ...]


def is_chat(value: object) -> bool:
    """Whether a value is a list of messages, readable or not."""
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(turn, Mapping) and (_named(turn) is not None) for turn in value)


def read_chat(value: object) -> Chat:
    """Return the turns of a list of messages.

    Raises:
        ValueError: A turn is no text, or of another role; says which and why.
    """
    assert isinstance(value, list)
    return tuple(_read_turn(number, turn) for number, turn in enumerate(value, start=1))


def prompt_of(chat: Chat) -> Chat:
    """Return what is asked: all turns, but for the last one where it is the assistant's.

    Raises:
        ValueError: The user does not have the last word in it.
    """
    asked = chat[:-1] if chat[-1].role == "assistant" else chat
    if not asked or asked[-1].role != "user":
        raise ValueError(
            "must end in a turn of the user's, or in one and the assistant's answer to it"
        )
    return asked


def answer_of(chat: Chat) -> str:
    """Return the text of the last turn, which is the assistant's.

    Raises:
        ValueError: It is somebody else's.
    """
    if chat[-1].role != "assistant":
        raise ValueError(f"must end in a turn of the assistant's, got the {chat[-1].role}'s")
    return chat[-1].text


def _named(turn: Mapping[str, object]) -> tuple[object, object] | None:
    """Return who speaks and what is said; None: it is no turn."""
    for role, content in (("role", "content"), ("from", "value")):
        if turn.get(role) is not None:
            return turn[role], turn.get(content)
    return None


def _read_turn(number: int, turn: Mapping[str, object]) -> Turn:
    named = _named(turn)
    assert named is not None
    role, content = named
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"turn {number} is of {role!r}; allowed: {', '.join(ROLES)}")
    for key in UNREAD:
        if turn.get(key):
            raise ValueError(f"turn {number} has {key}, which is not read; write it in its text")
    if isinstance(content, list):
        parts = [_text_of(part) for part in content]
        content = None if None in parts else "".join(filter(None, parts))
    if not isinstance(content, str):
        raise ValueError(f"turn {number} must be text alone")
    return Turn(ROLES[role], content)


def _text_of(part: object) -> str | None:
    """Return the text of a part of a turn; None: it is an image or the like."""
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    return text if isinstance(text, str) else None
