"""A store inside the process, with the exact semantics of the interface: for tests, ours and those of users."""

import time
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import overload

import orjson

from ..events import ClosedError, Event, Receipt, Record, Refusal, StoreError, Topology
from ..events.queries import Path
from .indexes import Candidate, IndexQuery, IndexState, Progress, narrow
from .inspection import EventPage, Malformed, Place, RecordPage
from .interface import AlreadyApplied, Appended, Expiry, ExpiryPage, Fence, Head, KeyPage, Outcome, Transacted
from .matching import matches, position, sort_key
from .names import checked_name
from .retention import KeyVersion, Mark, Trace

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
        #: In the order in which they were appended, by id and position.
        self._by_id: dict[tuple[str, int], Record] = {}
        #: How many records there were ever.
        self._count = 0
        #: Each key's events; the one of version v is at index v - 1 unless somebody appended with gaps.
        self._by_key: dict[str, list[Event]] = {}
        # Byte order of UTF-8 is the order of code points, which is how Python compares strings.
        self._keys: list[str] = []
        #: The events that expire, in that order.
        self._expiries: list[Expiry] = []
        self._swept = 0
        self._topology: Topology | None = None
        self._strikes: Counter[str] = Counter()
        self._declared: frozenset[Path] = frozenset()
        self._mark = Mark()
        #: When events were closed.
        self._closed: dict[KeyVersion, int] = {}
        #: Keys, and the versions of the events that say that they are their first.
        self._firsts: dict[str, int] = {}
        #: Of each key the receipts that carry messages, by id, and at which version they stand.
        self._carrying: dict[str, dict[str, int]] = {}

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
            if isinstance(record, Event) and self._is_taken(record):
                outcomes.append(Outcome.VERSION_TAKEN)
                break
            self._add(_freeze(record))
            outcomes.append(Outcome.APPENDED)
        else:
            return Appended(outcomes, MemoryFence(self._count))
        outcomes += [Outcome.NOT_TRIED] * (len(records) - len(outcomes))
        return Appended(outcomes, None)

    async def transact(
        self, records: Sequence[Record], guards: Collection[tuple[str, int]], *, firsts: Collection[str] = ()
    ) -> Transacted:
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
        begun = {*firsts, *(record.key for record in records if isinstance(record, Event) and record.first)}
        if begun & self._firsts.keys() or any(self._at(*place) is not None for place in (*wanted, *guards)):
            return Transacted(Outcome.VERSION_TAKEN, None)
        for record in frozen:
            self._add(record)
        return Transacted(Outcome.APPENDED, MemoryFence(self._count))

    async def fence(self) -> Fence:
        """The number of records up to now."""
        self._check_open()
        return MemoryFence(self._count)

    async def heads(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, Head]:
        """The newest event of each key."""
        self._check_fence(after)
        newest = ((key, self._by_key[key][-1]) for key in keys if key in self._by_key)
        return {
            key: Head(
                event.version,
                event.exists,
                event.id,
                event.time,
                event.expires,
                (key, event.version) in self._closed,
            )
            for key, event in newest
        }

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
        """Events of one key, oldest or newest first."""
        self._check_fence(after)
        events = self._by_key.get(key, [])
        start = bisect_right(events, after_version, key=_version)
        end = len(events) if before_version is None else bisect_left(events, before_version, key=_version)
        chosen = events[start:end]
        if backward:
            chosen.reverse()
        return [_thaw(event) for event in chosen[:limit]]

    async def version_at(self, key: str, time: int, *, after: Fence | None = None) -> int:
        """The version of a key's newest event at that time or before; 0 if there is none."""
        self._check_fence(after)
        return max((event.version for event in self._by_key.get(key, []) if event.time <= time), default=0)

    async def strip(self, ranges: Sequence[tuple[str, int, int]]) -> int:
        """Erase values and metadata of events."""
        self._check_open()
        count = 0
        for key, first, last in ranges:
            self._strip_receipts(key, first, last)
            for event in self._by_key.get(key, [])[:]:
                if first <= event.version <= last and not event.stripped:
                    self._put(event.model_copy(update=_STRIPPED))
                    count += 1
        return count

    async def carrying(self, keys: Collection[str], *, after: Fence | None = None) -> set[str]:
        """Those of these keys of which there are receipts that carry messages."""
        self._check_fence(after)
        return {key for key in keys if self._carrying.get(key)}

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

    async def expired(self, *, until: int, after: Expiry | None = None, limit: int = 1000) -> ExpiryPage:
        """Keys that have expired by a time, and whose log does not say so yet."""
        self._check_open()
        start = 0 if after is None else bisect_right(self._expiries, after)
        places = self._expiries[start : bisect_left(self._expiries, Expiry(until + 1))][: limit + 1]
        keys = [key for _, key, version in places[:limit] if self._by_key[key][-1].version == version]
        return ExpiryPage(keys, places[limit - 1] if len(places) > limit else None)

    async def swept(self) -> int:
        """The time that was noted last."""
        self._check_open()
        return self._swept

    async def note_swept(self, until: int) -> None:
        """Keep a time; an earlier one changes nothing."""
        self._check_open()
        self._swept = max(self._swept, until)

    async def scan(self) -> AsyncIterator[Record]:
        """Every record that is there when the scan starts, in the order in which they were appended."""
        self._check_open()
        for record in list(self._by_id.values()):
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

    async def places(self, *, after: KeyVersion | None = None, limit: int = 1000) -> list[KeyVersion]:
        """Events in the order of the keys, the newest version of each first."""
        self._check_open()
        start = 0 if after is None else bisect_left(self._keys, after[0])
        every = ((key, event.version) for key in self._keys[start:] for event in reversed(self._by_key[key]))
        return list(islice((place for place in every if after is None or _behind(place, after)), limit))

    async def traces(self, places: Sequence[KeyVersion]) -> dict[KeyVersion, Trace]:
        """What compaction needs to know of these events."""
        self._check_open()
        found = ((place, self._at(*place)) for place in places)
        return {
            place: Trace(
                *place,
                event.type,
                event.time,
                event.stripped,
                self._closed.get(place),
                bool(event.messages) or place[1] in self._carrying.get(place[0], {}).values(),
            )
            for place, event in found
            if event is not None
        }

    async def close_key(self, place: KeyVersion, *, now: int) -> None:
        """Mark an event as closed."""
        self._check_open()
        event = self._at(*place)
        if event is not None:
            self._closed.setdefault(place, now)

    async def drop(self, places: Sequence[KeyVersion]) -> int:
        """Remove events in this order."""
        self._check_open()
        count = 0
        for key, version in places:
            self._strip_receipts(key, version, version)
            event = self._at(key, version)
            if event is None:
                continue
            count += 1
            events = self._by_key[key]
            events.remove(event)
            if not events:
                del self._by_key[key]
                self._keys.remove(key)
            if self._firsts.get(key) == version:
                del self._firsts[key]
            self._closed.pop((key, version), None)
            del self._by_id[event.id, event.position]
        return count

    async def drop_refusals(self, before: int, *, limit: int) -> int:
        """Remove refusals of before this time."""
        self._check_open()
        old = [place for place, one in self._by_id.items() if isinstance(one, Refusal) and one.time < before][:limit]
        for place in old:
            del self._by_id[place]
        return len(old)

    async def mark(self) -> Mark:
        """The log's mark."""
        self._check_open()
        return self._mark

    async def set_mark(self, old: Mark, new: Mark) -> bool:
        """Put a mark in the place of another one."""
        self._check_open()
        if self._mark != old:
            return False
        self._mark = new
        return True

    async def prepare_compaction(self) -> None:
        """Nothing has to be made for it here."""
        self._check_open()

    def inspection(self) -> "MemoryInspection":
        """A look through the log."""
        self._check_open()
        return MemoryInspection(list(self._by_id.values()), self._count, self._mark)

    def _add(self, record: Record) -> None:
        self._count += 1
        self._by_id[record.id, record.position] = record
        if isinstance(record, Receipt) and record.messages:
            self._carrying.setdefault(record.key, {})[record.id] = _thaw(record).at
        if isinstance(record, Event):
            if record.first:
                self._firsts[record.key] = record.version
            if record.key not in self._by_key:
                insort(self._keys, record.key)
                self._by_key[record.key] = []
            insort(self._by_key[record.key], record, key=_version)
            if record.expires is not None:
                insort(self._expiries, Expiry(record.expires, record.key, record.version))

    def _put(self, event: Event) -> None:
        """Put an event in the place of the one with its key and version."""
        events = self._by_key[event.key]
        events[bisect_left(events, event.version, key=_version)] = event
        self._by_id[event.id, event.position] = event

    def _strip_receipts(self, key: str, first: int, last: int) -> None:
        carrying = self._carrying.get(key, {})
        for id_ in [id_ for id_, at in carrying.items() if first <= at <= last]:
            self._by_id[id_, 0] = self._by_id[id_, 0].model_copy(update={"messages": None})
            del carrying[id_]

    def _is_taken(self, event: Event) -> bool:
        return self._at(event.key, event.version) is not None or (event.first and event.key in self._firsts)

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

    def __init__(self, log: Sequence[Record], sequence: int, mark: Mark) -> None:
        self._log = log
        self._fence = MemoryFence(sequence)
        self._mark = mark

    async def mark(self) -> Mark:
        """As it was when the look began."""
        return self._mark

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


#: What strip does to an event; the value is kept as JSON.
_STRIPPED = {
    **dict.fromkeys(("patch", "messages", "metadata", "correlation_id", "causation_id")),
    "value": b"null",
    "stripped": True,
}


def _behind(place: KeyVersion, other: KeyVersion) -> bool:
    """Whether a place comes after another one: keys rise, and the versions of each fall."""
    return place[0] > other[0] or (place[0] == other[0] and place[1] < other[1])


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
def _thaw(record: Receipt) -> Receipt: ...
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
