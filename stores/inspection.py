"""Looking through a log as it is, at fault or not, without changing anything: for ``holdfast verify``.

Everything else in a store may take for granted that its database is as it should be. This may not.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from ..events import Event, Record
from .interface import EventStore, Fence
from .retention import Mark


@dataclass(frozen=True, slots=True)
class Malformed:
    """A document in the log that is no record, and why not."""

    #: Its id, or what stands in its place, as text.
    id: str
    #: Key and version, as far as they can be read.
    key: str | None
    version: int | None
    reason: str


class EventPage(NamedTuple):
    """Some events. Reads ``after`` the fence see them, and all that they follow."""

    events: Sequence[Event | Malformed]
    after: Fence


class Place(NamedTuple):
    """Where a record stands by its id."""

    id: str
    #: In a transaction; else 0.
    position: int
    is_event: bool


class RecordPage(NamedTuple):
    """Some ids, and those of their records that are no events."""

    ids: Sequence[Place]
    others: Sequence[Record | Malformed]
    after: Fence


class Inspection(Protocol):
    """A look through one log. All pages show what a majority has; they are of a size that fits into memory.

    All methods raise :class:`StoreUnavailable` when the database cannot be reached for longer than a few seconds.
    """

    async def count(self) -> int:
        """About how many records there are."""

    async def mark(self) -> Mark:
        """What compaction has noted of the log."""

    async def definition_faults(self) -> list[str]:
        """What is wrong with the indexes, the view and the collection, each in a sentence."""

    def events(self) -> AsyncIterator[EventPage]:
        """Every event that is there throughout: key by key, the newest version of each first.

        Of events that are written meanwhile some are shown, but never one without those before it of its key.
        """

    def records(self) -> AsyncIterator[RecordPage]:
        """Every record that is there throughout, in the order of the ids, and of their positions."""

    async def find(self, ids: Collection[str], after: Fence) -> dict[str, Record | Malformed]:
        """What stands in the log under these command ids, as far as there is anything."""

    async def at(self, places: Collection[tuple[str, int]], after: Fence) -> dict[tuple[str, int], Record | Malformed]:
        """What stands in the log at (key, version), as far as there is anything."""


@runtime_checkable
class InspectableStore(EventStore, Protocol):
    """A store whose log can be looked through."""

    async def open(self, *, create: bool = True) -> None:
        """As for every store; without ``create`` nothing is checked and nothing is created."""

    def inspection(self) -> Inspection:
        """A look through the log. The store has to be open."""
