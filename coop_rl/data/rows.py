"""Rows of any source, and what was wrong with those that are left out; all of `data` uses them."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, overload

from coop_rl.data.chats import Chat, Turn, answer_of, prompt_of
from coop_rl.errors import DataError

T = TypeVar("T")


class ByPosition(Sequence[T]):
    """A sequence whose items are made when they are asked for, by `item`."""

    @abstractmethod
    def item(self, position: int) -> T:
        """Make the item at a position in [0, len)."""

    @overload
    def __getitem__(self, position: int) -> T: ...
    @overload
    def __getitem__(self, position: slice) -> list[T]: ...
    def __getitem__(self, position: int | slice) -> T | list[T]:
        """Return an item, or several.

        Raises:
            IndexError: There is no such item.
        """
        positions = range(len(self))[position]
        if isinstance(positions, range):
            return [self.item(i) for i in positions]
        return self.item(positions)


class RowError(DataError):
    """A row is bad; `kind` says in a few words how, for a summary."""

    def __init__(self, place: str, message: str, kind: str) -> None:
        super().__init__(f"{place}: {message}")
        self.place, self.kind = place, kind


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is read of each row; a dot in a name goes into nested columns."""

    columns: tuple[str, ...]
    """Every row must have them: text, a whole number, or a list of messages."""
    optional: tuple[str, ...] = ()
    """Such that a row need not have."""
    details: tuple[str, ...] = ()
    """Columns of any kind that go into `TextRow.details`; every row must have them."""
    is_whole: bool = False
    """Whether `TextRow.whole` is filled."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name once."""
        return tuple(dict.fromkeys((*self.columns, *self.optional, *self.details)))


@dataclass(frozen=True, slots=True)
class TextRow:
    """One object of a file, its wanted columns as text."""

    place: str
    """`file:line`, for errors about the row."""
    id: str
    """The row's `id` column, or its line number where it has none."""
    columns: dict[str, str]
    """Wanted column -> text; whole numbers are written out."""
    details: str = ""
    """What its verifier needs besides the gold answer, as JSON; empty: nothing."""
    chats: dict[str, Chat] = field(default_factory=dict)
    """Wanted column -> its messages; a column is either here or in `columns`."""
    whole: str = ""
    """All its columns as JSON, for reward functions of the user's own; empty: nobody asks."""

    def text(self, column: str) -> str:
        """Return a column's text; of messages, what the assistant says last.

        Raises:
            RowError: The last of the messages is not the assistant's.
        """
        if column not in self.chats:
            return self.columns[column]
        try:
            return answer_of(self.chats[column])
        except ValueError as error:
            raise self._bad_chat(column, error) from None

    def turns(self, column: str) -> Chat:
        """Return what a column asks: its messages up to the last of the user's, or its text.

        Raises:
            RowError: The user does not have the last word.
        """
        if column not in self.chats:
            return (Turn("user", self.columns[column]),)
        try:
            return prompt_of(self.chats[column])
        except ValueError as error:
            raise self._bad_chat(column, error) from None

    def _bad_chat(self, column: str, error: ValueError) -> RowError:
        return RowError(self.place, f"column {column!r} {error}; mend or drop the row", "messages")


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was left out of one source."""

    origin: str
    num_rows: int
    """Rows the source had, the bad ones included; only a sample of a large one was looked at."""
    kinds: tuple[tuple[str, int, str], ...]
    """(kind, rows, message about the first)."""

    @property
    def total(self) -> int:
        """Rows left out."""
        return sum(count for _, count, _ in self.kinds)


@dataclass(slots=True)
class BadRows:
    """Collects bad rows; keeps the first message of each kind, however many there are."""

    first: RowError | None = None
    kinds: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, error: RowError) -> None:
        """Take in a bad row."""
        self.first = self.first or error
        count, message = self.kinds.get(error.kind, (0, str(error)))
        self.kinds[error.kind] = (count + 1, message)

    @property
    def total(self) -> int:
        """Bad rows so far."""
        return sum(count for count, _ in self.kinds.values())

    def settle(self, origin: str, num_rows: int, max_dropped: float) -> Dropped:
        """Return what is left out.

        Raises:
            DataError: It is more than `max_dropped` of `num_rows`; names the first.
        """
        if self.first is not None and self.total > max_dropped * num_rows:
            more = f" ({self.total} rows of {origin} are bad)" if self.total > 1 else ""
            raise DataError(f"{self.first}{more}")
        kinds = tuple((kind, count, message) for kind, (count, message) in self.kinds.items())
        return Dropped(origin, num_rows, kinds)


@dataclass(frozen=True, slots=True)
class ReadRows:
    """The well-formed rows of a source, by position, and the malformed ones."""

    rows: Sequence[TextRow]
    bad: BadRows

    @classmethod
    def of(cls, rows: Iterable[TextRow]) -> "ReadRows":
        """Hold rows that are in memory and good."""
        return cls(tuple(rows), BadRows())
