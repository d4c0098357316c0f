"""A store inside the process, with the exact semantics of the interface: for tests, ours and those of users."""

import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import overload

import orjson

from ..events import ClosedError, Event, Record, StoreError, Topology
from ..events.queries import Path
from .indexes import Candidate, IndexQuery, IndexState, Progress, narrow
from .inspection import EventPage, Malformed, Place, RecordPage
from .interface import AlreadyApplied, Appended, Fence, Head, KeyPage, Outcome, Transacted
from .matching import matches, position, sort_key
from .names import checked_name

_PAGE = 1000


@dataclass(frozen=True, slots=True, order=True)
class MemoryFence:
    """The number of records that the log held when it was made."""

    sequence: int


class MemoryStore:
    """A log in memory. What is in it ends with the object: closing and opening it again keeps it.

    Values are kept as JSON, so that nothing the caller does to them afterwards shows. What becomes of an append is
    always known here, because no answer can get lost on its way: none of its outcomes is UNKNOWN.

    :param name: as in the configuration; for messages only.
    :param clock: service time in milliseconds since 1970, to let tests turn the clock.
    :raises StoreConfigError: if the name cannot be used.
    """

    def __init__(self, *, name: str = "default", clock: Callable[[], int] | None = None) -> None:
        self.name = checked_name(name)
        self._clock = clock or _wall_clock
        self._open = False
        self._log: list[Record] = []
        self._by_id: dict[tuple[str, int], Record] = {}
        #: Each key's events; the one of version v is at index v - 1 unless somebody appended with gaps.
        self._by_key: dict[str, list[Event]] = {}
        # Byte order of UTF-8 is the order of code points, which is how Python compares strings.
        self._keys: list[str] = []
        self._topology: Topology | None = None
        self._strikes: Counter[str] = Counter()
        self._declared: frozenset[Path] = frozenset()

    def __repr__(self) -> str:
        return f"MemoryStore(name={self.name!r})"

    async def open(self, *, create: bool = True) -> None:  # noqa: ARG002 - there is nothing to create
        """Make it usable. Repeating it is harmless."""
        self._open = True

    async def close(self) -> None:
        """Make it unusable until it is opened again. Repeating it is harmless."""
        self._open = False

    async def health(self) -> None:
        """Return if it is open.

        :raises ClosedError: if it is not.
        """
        self._check_open()

    async def service_time(self) -> int:
        """The clock it was given, else the machine's."""
        self._check_open()
        return self._clock()

    async def agree(self, proposal: Topology) -> Topology:
        """The first proposal that was made."""
        self._check_open()
        if self._topology is None:
            self._topology = proposal
        return self._topology

    async def strike(self, mark: str) -> int:
        """Note it once more, and say how often it is noted now."""
        self._check_open()
        self._strikes[mark] += 1
        return self._strikes[mark]

    async def clear(self, mark: str) -> None:
        """Forget it."""
        self._check_open()
        self._strikes.pop(mark, None)

    async def append(self, records: Sequence[Record]) -> Appended:
        """Append in order, up to the first that fails.

        :raises StoreError: if a value is not JSON; nothing at or behind it was written.
        """
        self._check_open()
        outcomes: list[Outcome | AlreadyApplied] = []
        for record in records:
            original = self._by_id.get((record.id, record.position))
            if original is not None:
                outcomes.append(AlreadyApplied(_thaw(original)))
                break
            if isinstance(record, Event) and self._at(record.key, record.version) is not None:
                outcomes.append(Outcome.VERSION_TAKEN)
                break
            self._add(_freeze(record))
            outcomes.append(Outcome.APPENDED)
        else:
            return Appended(outcomes, MemoryFence(len(self._log)))
        outcomes += [Outcome.NOT_TRIED] * (len(records) - len(outcomes))
        return Appended(outcomes, None)

    async def transact(self, records: Sequence[Record], guards: Collection[tuple[str, int]]) -> Transacted:
        """Append all records in one step, or none of them.

        :raises StoreError: if a value is not JSON; nothing was written.
        """
        self._check_open()
        original = self._by_id.get((records[0].id, 0))
        if original is not None:
            return Transacted(AlreadyApplied(_thaw(original)), None)
        frozen = [_freeze(record) for record in records]
        wanted = [(record.key, record.version) for record in records if isinstance(record, Event)]
        ids = {(record.id, record.position) for record in records}
        if len({*wanted, *guards}) < len(wanted) + len(guards) or len(ids) < len(records) or ids & self._by_id.keys():
            raise StoreError(f"the transaction {records[0].id!r} has a place twice")
        if any(self._at(*place) is not None for place in (*wanted, *guards)):
            return Transacted(Outcome.VERSION_TAKEN, None)
        for record in frozen:
            self._add(record)
        return Transacted(Outcome.APPENDED, MemoryFence(len(self._log)))

    async def fence(self) -> Fence:
        """The number of records up to now."""
        self._check_open()
        return MemoryFence(len(self._log))

    async def heads(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, Head]:
        """The newest event of each key."""
        self._check_fence(after)
        newest = ((key, self._by_key[key][-1]) for key in keys if key in self._by_key)
        return {key: Head(event.version, event.exists, event.id, event.time) for key, event in newest}

    async def versions(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, int]:
        """The newest version of each key."""
        self._check_fence(after)
        return {key: self._by_key[key][-1].version for key in keys if key in self._by_key}

    async def events(
        self, places: Collection[tuple[str, int]], *, after: Fence | None = None
    ) -> dict[tuple[str, int], Event]:
        """The events at (key, version), as far as there are any."""
        self._check_fence(after)
        found = ((place, self._at(*place)) for place in places)
        return {place: _thaw(event) for place, event in found if event is not None}

    async def find(
        self, ids: Collection[str], *, after: Fence | None = None, with_values: bool = True
    ) -> dict[str, Record]:
        """What stands in the log under these command ids."""
        self._check_fence(after)
        found = ((id_, self._by_id[id_, 0]) for id_ in ids if (id_, 0) in self._by_id)
        return {id_: _thaw(record) if with_values else _without_value(_thaw(record)) for id_, record in found}

    async def history(self, key: str, *, after_version: int = 0, limit: int = 100) -> list[Event]:
        """Events of one key, oldest first."""
        self._check_open()
        events = self._by_key.get(key, [])
        start = bisect_right(events, after_version, key=_version)
        return [_thaw(event) for event in events[start : start + limit]]

    async def keys(
        self, prefix: str = "", *, after: str | None = None, limit: int = 1000, fence: Fence | None = None
    ) -> KeyPage:
        """Keys that have an event, in byte order."""
        self._check_fence(fence)
        start = bisect_left(self._keys, prefix)
        if after is not None:
            start = max(start, bisect_right(self._keys, after))
        page: list[str] = []
        for key in self._keys[start : start + limit + 1]:
            if not key.startswith(prefix):
                break
            if len(page) == limit:
                return KeyPage(page, page[-1])
            page.append(key)
        return KeyPage(page, None)

    async def scan(self) -> AsyncIterator[Record]:
        """Every record that is there when the scan starts, in the order in which they were appended."""
        self._check_open()
        for record in self._log[:]:
            yield _thaw(record)

    def declare(self, fields: Collection[Path]) -> None:
        """Take these fields for indexed. The log itself is at hand, so that there is nothing to keep."""
        self._declared = frozenset(fields)

    async def index_state(self) -> IndexState:
        """All that is declared is ready, and never behind."""
        self._check_open()
        return IndexState(self._declared, self._clock())

    async def candidates(self, query: IndexQuery) -> list[Candidate]:
        """The next keys whose values match."""
        self._check_open()
        if query.filter is not None and narrow(query.filter, self._declared) != query.filter:
            raise ValueError("asked for fields that are not declared")
        sorts = () if query.sort is None else (query.sort,)
        behind = None if query.after is None else sort_key(query.after, sorts)
        found: list[Candidate] = []
        for key in self._keys:
            newest = self._by_key[key][-1]
            if not newest.exists or key not in query.keys:
                continue
            value = _thaw(newest).value
            place = position(value, key, sorts)
            if (query.filter is None or matches(query.filter, value)) and (
                behind is None or behind < sort_key(place, sorts)
            ):
                found.append(Candidate(key, place))
        return sorted(found, key=lambda one: sort_key(one.position, sorts))[: query.limit]

    async def maintain(self) -> None:
        """There is nothing to keep up to date."""

    async def rebuild(self, progress: Progress) -> None:
        """There is nothing to be made."""
        progress(len(self._keys), len(self._keys))

    def inspection(self) -> "MemoryInspection":
        """A look through the log."""
        self._check_open()
        return MemoryInspection(self._log[:], len(self._log))

    def _add(self, record: Record) -> None:
        self._log.append(record)
        self._by_id[record.id, record.position] = record
        if isinstance(record, Event):
            if record.key not in self._by_key:
                insort(self._keys, record.key)
                self._by_key[record.key] = []
            insort(self._by_key[record.key], record, key=_version)

    def _at(self, key: str, version: int) -> Event | None:
        events = self._by_key.get(key, [])
        index = bisect_left(events, version, key=_version)
        return events[index] if index < len(events) and events[index].version == version else None

    def _check_open(self) -> None:
        if not self._open:
            raise ClosedError(f"the store {self.name!r} is not open")

    def _check_fence(self, fence: Fence | None) -> None:
        self._check_open()
        # Reads here are never behind, but a fence of another store is a mistake that a test should find.
        if fence is not None and not isinstance(fence, MemoryFence):
            raise TypeError(f"not a fence of this store: {fence!r}")


class MemoryInspection:
    """A look through a log that is in memory."""

    def __init__(self, log: Sequence[Record], sequence: int) -> None:
        self._log = log
        self._fence = MemoryFence(sequence)

    async def count(self) -> int:
        """How many records there are."""
        return len(self._log)

    async def definition_faults(self) -> list[str]:
        """None: there is nothing that could be defined otherwise."""
        return []

    async def events(self) -> AsyncIterator[EventPage]:
        """Every event, key by key, the newest version of each first."""
        events = [_thaw(record) for record in self._log if isinstance(record, Event)]
        events.sort(key=lambda event: (event.key, -event.version))
        for start in range(0, len(events), _PAGE):
            yield EventPage(events[start : start + _PAGE], self._fence)

    async def records(self) -> AsyncIterator[RecordPage]:
        """Every record, in the order of the ids."""
        records = sorted(self._log, key=lambda record: (record.id, record.position))
        for start in range(0, len(records), _PAGE):
            page = records[start : start + _PAGE]
            others = [_thaw(record) for record in page if not isinstance(record, Event)]
            ids = [Place(record.id, record.position, isinstance(record, Event)) for record in page]
            yield RecordPage(ids, others, self._fence)

    async def find(self, ids: Collection[str], after: Fence) -> dict[str, Record | Malformed]:  # noqa: ARG002
        """What stands in the log under these command ids."""
        return {record.id: _thaw(record) for record in self._log if record.id in ids and record.position == 0}

    async def at(
        self,
        places: Collection[tuple[str, int]],
        after: Fence,  # noqa: ARG002
    ) -> dict[tuple[str, int], Record | Malformed]:
        """What stands in the log at (key, version)."""
        events = (record for record in self._log if isinstance(record, Event))
        return {(one.key, one.version): _thaw(one) for one in events if (one.key, one.version) in places}


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000


def _version(event: Event) -> int:
    return event.version


def _freeze(record: Record) -> Record:
    """A copy that holds its value, or its answer, as JSON text."""
    try:
        if isinstance(record, Event):
            return record.model_copy(update={"value": orjson.dumps(record.value), "metadata": _copy(record.metadata)})
        answer = {"json": orjson.dumps(record.answer)}
        return record.model_copy(update={"answer": answer, "metadata": _copy(record.metadata)})
    except TypeError as error:
        raise StoreError(f"the record {record.id!r} cannot be kept: {error}") from None


@overload
def _thaw(record: Event) -> Event: ...
@overload
def _thaw(record: Record) -> Record: ...
def _thaw(record: Record) -> Record:
    update = {"metadata": _copy(record.metadata)}
    if isinstance(record, Event):
        return record.model_copy(update={**update, "value": orjson.loads(record.value)})
    return record.model_copy(update={**update, "answer": orjson.loads(record.answer["json"])})


def _without_value(record: Record) -> Record:
    return record.model_copy(update={"value": None}) if isinstance(record, Event) else record


def _copy(metadata: dict[str, str] | None) -> dict[str, str] | None:
    return None if metadata is None else dict(metadata)
