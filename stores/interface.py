"""The EventStore interface: what the engine needs of a place that keeps a log.

The log holds events (one version of one key), refusals (the recorded answer of a command that changed nothing) and
receipts (the recorded answer of a transaction). Two rules of the log carry everything else: a command id with a
position stands in it once, and so does a (key, version). Every store has to pass the same suite, holdfast.contract.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol, runtime_checkable

from ..events import Event, Record, Topology
from ..events.queries import Path
from .indexes import Candidate, IndexQuery, IndexState, Progress


class Fence(Protocol):
    """A point in the log, as a token of the store that made it. Reads ``after`` it see all that was acknowledged
    before it was made. Opaque to everybody else.
    """


class Head(NamedTuple):
    """What decisions need to know of a key's newest event."""

    version: int
    exists: bool
    #: The command that made it.
    id: str
    #: Service time of the event, in milliseconds.
    time: int
    #: Service time in milliseconds from which on the key is absent, whatever ``exists`` says.
    expires: int | None = None
    #: What is written on it begins the key anew, and says so (:attr:`Event.first`): there is no event, or one that is
    #: about to be dropped.
    opens: bool = False


class Outcome(Enum):
    """What became of one record of an append."""

    #: On the journal of a majority.
    APPENDED = "appended"
    #: The key has an event of this version already; nothing was written.
    VERSION_TAKEN = "version taken"
    #: May be in the log or get there later: the answer was lost, or no majority has confirmed it.
    UNKNOWN = "unknown"
    #: Somebody's open transaction is in the way, and the store did not wait for its end; nothing was written.
    BLOCKED = "blocked"
    #: Behind the first record that failed: not tried.
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class AlreadyApplied:
    """The command's id is in the log, on a majority. ``original`` is what stands there; nothing was written."""

    original: Record


@dataclass(frozen=True, slots=True)
class Appended:
    """The result of an append.

    ``outcomes`` has one for each record, in order: some APPENDED, then, if not all are, one that says what
    stopped it, then NOT_TRIED; or UNKNOWN for all. ``fence`` is set if all were appended: a read after it
    sees them and everything acknowledged before them.
    """

    outcomes: Sequence[Outcome | AlreadyApplied]
    fence: Fence | None


class Transacted(NamedTuple):
    """The result of a transaction, which is all or nothing.

    ``outcome`` is APPENDED, for all of it; or VERSION_TAKEN (that of a record, or a guarded one), BLOCKED or UNKNOWN.
    """

    outcome: Outcome | AlreadyApplied
    #: As of an append, if all of it was appended.
    fence: Fence | None


class KeyPage(NamedTuple):
    """Keys in byte order, and where to go on: give ``next`` as ``after``; None on the last page."""

    keys: list[str]
    next: str | None


class Expiry(NamedTuple):
    """The place of an event in the order in which events expire."""

    #: When it expires, in milliseconds.
    time: int
    key: str = ""
    version: int = 0


class ExpiryPage(NamedTuple):
    """Some keys whose time has come."""

    keys: list[str]
    #: Up to where events were looked at; None if there are no more.
    next: Expiry | None


@runtime_checkable
class Suspects(Protocol):
    """Notes that outlive a worker: which message it had in hand, alone, in case it is what ends the worker."""

    async def strike(self, mark: str) -> int:
        """Note it once more, on a majority, and say how often it is noted now."""

    async def clear(self, mark: str) -> None:
        """Forget it. Harmless if it is not noted."""


@runtime_checkable
class EventStore(Suspects, Protocol):
    """A log of one named store. Methods may be called concurrently.

    All reads show only what a majority has. Without ``after`` they may be behind (a deposed primary may answer),
    never ahead. With ``after`` they are not behind that point.

    All methods but ``open`` and ``close`` raise :class:`StoreUnavailable` when the database cannot be reached
    within the store's timeouts; ``append`` alone reports that in its outcomes.
    """

    async def open(self) -> None:
        """Connect, check that the database is fit, create what is missing. Repeating it is harmless.

        :raises StoreConfigError: if it is not fit; the message says what to change.
        :raises StoreUnavailable: if it cannot be reached.
        """

    async def close(self) -> None:
        """Let go of connections. Repeating it is harmless."""

    async def health(self) -> None:
        """Return if the store could take a write now.

        :raises StoreUnavailable: if not.
        """

    async def service_time(self) -> int:
        """The database's clock, in milliseconds since 1970."""

    async def agree(self, proposal: Topology) -> Topology:
        """The topology that all workers of this database share: the proposal, if there is none yet."""

    async def append(self, records: Sequence[Record]) -> Appended:
        """Append in order, up to the first that fails. At most 1,000 records.

        All or nothing it is not: what precedes the first failure is in the log. It waits a second or so for a
        transaction that is in the way.

        :raises StoreError: if the database refuses a record for good; nothing at or behind it was written.
        """

    async def fence(self) -> Fence:
        """Make a point in the log by a majority write, so that a deposed primary cannot make one."""

    async def heads(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, Head]:
        """The newest event of each key, without its value. Keys without an event are left out."""

    async def versions(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, int]:
        """As ``heads``, the version alone, which an index can answer."""

    async def events(
        self, places: Collection[tuple[str, int]], *, after: Fence | None = None
    ) -> dict[tuple[str, int], Event]:
        """The events at (key, version), as far as there are any.

        If they are more bytes than the database gives at a time, only some of them, so that memory stays bounded: ask
        again for those that are missing. If none is found, none of them is there.
        """

    async def find(
        self, ids: Collection[str], *, after: Fence | None = None, with_values: bool = True
    ) -> dict[str, Record]:
        """What stands in the log under these command ids, as far as there is anything; of a transaction its receipt.

        :param with_values: False leaves the events' values out, None in their place.
        """

    async def history(
        self,
        key: str,
        *,
        after_version: int = 0,
        before_version: int | None = None,
        backward: bool = False,
        limit: int = 100,
        after: Fence | None = None,
    ) -> list[Event]:
        """Events of one key, oldest first, of versions greater than ``after_version`` and less than ``before_version``.

        Fewer than ``limit`` if they are more bytes than the database gives at a time, but one at least if there is one.

        :param backward: newest first.
        """

    async def version_at(self, key: str, time: int, *, after: Fence | None = None) -> int:
        """The version of a key's newest event at that service time or before; 0 if there is none."""

    async def keys(
        self, prefix: str = "", *, after: str | None = None, limit: int = 1000, fence: Fence | None = None
    ) -> KeyPage:
        """Keys that have an event, deleted ones too, in byte order, greater than ``after``.

        A key that is there throughout is on exactly one page, whatever is written meanwhile.

        :param fence: the page is not behind that point, as ``after`` of the other methods.
        """

    def scan(self) -> AsyncIterator[Record]:
        """Every record of the log, in no promised order: for checks, exports and counts."""


# -- Capabilities: see capabilities.py


@runtime_checkable
class ExpiringStore(EventStore, Protocol):
    """A store that finds what has expired. In others too values expire, but the log says so only when they are met."""

    async def expired(self, *, until: int, after: Expiry | None = None, limit: int = 1000) -> ExpiryPage:
        """Keys that have expired by a time, and whose log does not say so yet: no event follows the one that expires.

        In the order of their expiries, of those behind ``after``. It looks at ``limit`` events at most; of these there
        may be few, or none, whose keys are among the result. An event may come to stand behind a place that was
        looked at before, since what expires was decided some time before it is in the log.

        :param until: service time in milliseconds.
        """

    async def swept(self) -> int:
        """The time that was noted last by ``note_swept``; 0 before."""

    async def note_swept(self, until: int) -> None:
        """Keep a time beside the log: it says of all that expired until then that it did. An earlier one is no news."""


@runtime_checkable
class IndexedStore(EventStore, Protocol):
    """A store that can keep indexes on fields of current values, for queries.

    They follow the log at a distance. What they tell of is looked up there.
    """

    def declare(self, fields: Collection[Path]) -> None:
        """Keep an index on each of these fields, and no others. Called once, before the store is opened."""

    async def index_state(self) -> IndexState:
        """What the indexes can be used for at this moment."""

    async def candidates(self, query: IndexQuery) -> list[Candidate]:
        """Up to ``limit`` keys whose values may match, in order, and none left out before the last of them that does.

        That is, as far as the indexes know, by the state that ``index_state`` told before. Fewer than ``limit`` means
        that there are no more.

        :raises QueryTimeoutError: if that takes longer than the store's time limit.
        """

    async def maintain(self) -> None:
        """Keep the indexes up to date until cancelled, together with the other workers of this store.

        What goes wrong is logged and tried again. Returns at once if nothing is declared.
        """

    async def rebuild(self, progress: Progress) -> None:
        """Make the indexes anew from the log, beside everything that goes on. Cancelled, it is gone on with later."""


@runtime_checkable
class TransactionalStore(EventStore, Protocol):
    """A store that can append to several keys in one step."""

    async def transact(
        self, records: Sequence[Record], guards: Collection[tuple[str, int]], *, firsts: Collection[str] = ()
    ) -> Transacted:
        """Append all records in one step, or none of them, and only if none of the guarded (key, version) is taken.

        In that step nobody else can take a guarded version, and afterwards it is free. The first record stands at
        position 0 of its command id; if that is taken, its original is told.

        :param guards: none of them is the place of one of the records.
        :param firsts: those of the guarded keys that nobody may begin either, at whatever version: two workers may
            know two floors.
        :raises StoreError: if the database refuses a record for good; nothing was written.
        """
