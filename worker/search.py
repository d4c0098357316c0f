"""One query of current values: which keys are looked at, what becomes of each, and where the next page begins.

The log decides. Indexes only tell which keys to look at: every key is looked up in the log, behind a fence, and its
value there has to match. So what a page shows was true when it was asked for; what it does not show, because an index
had not heard of it yet, is bounded by ``as_of``.
"""

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import orjson

from ..events import Event, HoldfastError, InvalidError, QueryCommand, check_key
from ..events.limits import REPLY_MESSAGE_BYTES
from ..events.queries import Filter, Path, Sort, parse_filter, parse_projection, parse_sort
from ..stores import (
    Candidate,
    EventStore,
    Fence,
    IndexedStore,
    IndexQuery,
    IndexState,
    KeyScope,
    QueryTimeoutError,
    narrow,
)
from ..stores.matching import Position, is_rank, matches, position, project, sort_key
from .lapse import is_there

#: Keys that are looked at together: few enough for commands to get their turn in between, and for their values to fit
#: into memory.
CHUNK = 200
#: Seconds that one query takes at most.
TIME_LIMIT = 5.0

_NO_INDEX = IndexState(frozenset(), 0)


class SlowQueryError(HoldfastError):
    """A query has to see more keys before it can answer than it has time for."""


@dataclass(frozen=True, slots=True)
class Query:
    """A query that has been read."""

    #: Those that are asked for, as far as the sender may see them.
    keys: KeyScope
    filter: Filter | None
    sorts: tuple[Sort, ...]
    #: None for whole values.
    projection: tuple[Path, ...] | None
    limit: int
    #: Where the page before ended.
    after: Position | None
    #: Of everything that has to be the same from page to page.
    identity: str

    @classmethod
    def of(cls, command: QueryCommand, scope: KeyScope) -> "Query":
        """Read a command.

        :param scope: the keys that its sender may see.
        :raises InvalidError: if its token is none of this query's.
        """
        sorts = parse_sort(command.sort)
        told = [command.store, command.prefix, command.filter, command.sort]
        identity = blake2b(orjson.dumps(told), digest_size=8).hexdigest()
        return cls(
            keys=scope & KeyScope.of(prefixes=[command.prefix]),
            filter=None if command.filter is None else parse_filter(command.filter),
            sorts=sorts,
            projection=None if command.projection is None else parse_projection(command.projection),
            limit=command.limit,
            after=None if command.token is None else _read_token(command.token, identity, len(sorts)),
            identity=identity,
        )

    def token(self, place: Position) -> str:
        """What the next page is asked for by."""
        return urlsafe_b64encode(orjson.dumps([self.identity, *place])).decode()


def _read_token(token: str, identity: str, ranks: int) -> Position:
    # It says where to go on and nothing else: whoever makes one up gets no other answers than without it.
    bad = InvalidError("is not one that this query was answered with", code="bad_token", field="token")
    try:
        told, *place = orjson.loads(urlsafe_b64decode(token.encode("ascii")))
        read = tuple(tuple(rank) for rank in place[0])
        key = check_key(place[1])
    except (ValueError, TypeError, AttributeError, IndexError):
        raise bad from None
    if told != identity or len(place) != 2 or len(read) != ranks or not all(map(is_rank, read)):
        raise bad
    return read, key


class Plan(NamedTuple):
    """How a query is answered."""

    #: No index serves it: every key is looked at.
    scan: bool
    #: Keys come in the order that is asked for.
    in_order: bool
    #: What the indexes are asked.
    narrowed: Filter | None
    #: Service time; what was acknowledged before is seen.
    as_of: int


class Page(NamedTuple):
    """Entries, as JSON, and the token of the next page; None on the last one."""

    entries: list[bytes]
    token: str | None


@dataclass(slots=True)
class _Collected:
    """Entries of a page, until it is full."""

    query: Query
    entries: list[bytes] = field(default_factory=list)
    size: int = 0

    def add(self, event: Event) -> bool:
        """Put one in, if there is room for it; for one there always is."""
        value = event.value if self.query.projection is None else project(event.value, self.query.projection)
        entry = orjson.dumps(
            {
                "key": event.key,
                "value": value,
                "etag": event.etag,
                "version": event.version,
                "updated_at": event.time,
                **({} if event.expires is None else {"expires": event.expires}),
            }
        )
        if self.entries and (len(self.entries) == self.query.limit or self.size + len(entry) > REPLY_MESSAGE_BYTES):
            return False
        self.entries.append(entry)
        self.size += len(entry)
        return True


class Search:
    """Answers one query."""

    def __init__(self, store: EventStore, query: Query, *, service_time: Callable[[], int], seconds: float) -> None:
        """Make one.

        :param seconds: how long it may take.
        """
        self._store = store
        self._query = query
        self._service_time = service_time
        self._ends = asyncio.get_running_loop().time() + min(seconds, TIME_LIMIT)

    async def plan(self) -> Plan:
        """How it will be answered.

        :raises StoreUnavailable: if the store cannot be reached.
        """
        query, now = self._query, self._service_time()
        state = await self._store.index_state() if isinstance(self._store, IndexedStore) else _NO_INDEX
        narrowed = narrow(query.filter, state.ready)
        sorted_by_index = len(query.sorts) == 1 and query.sorts[0].path in state.ready
        scan = narrowed is None and not sorted_by_index
        return Plan(scan, not query.sorts or sorted_by_index, narrowed, now if scan else min(now, state.as_of))

    async def run(self, plan: Plan) -> Page:
        """The page.

        :raises SlowQueryError: if it cannot be made in time, and it would be of no use to go on from here.
        :raises StoreUnavailable: if the store cannot be reached.
        """
        fence = await self._store.fence()
        try:
            return await (self._in_order(plan, fence) if plan.in_order else self._sorted(plan, fence))
        except QueryTimeoutError:
            raise SlowQueryError from None

    async def _in_order(self, plan: Plan, fence: Fence) -> Page:
        query, page = self._query, _Collected(self._query)
        reached: Position | None = None
        async for chunk in self._chunks(plan):
            where = {candidate.key: candidate.position for candidate in chunk}
            async for event in self._matching(chunk, fence):
                if not page.add(event):
                    return Page(page.entries, None if reached is None else query.token(reached))
                reached = where[event.key]
            reached = chunk[-1].position
            if self._is_over:
                return Page(page.entries, query.token(reached))
        return Page(page.entries, None)

    async def _sorted(self, plan: Plan, fence: Fence) -> Page:
        """All that matches is looked at, and the first of it remembered, without the values."""
        query = self._query
        behind = None if query.after is None else sort_key(query.after, query.sorts)
        best: list[tuple[Any, Position, int]] = []
        async for chunk in self._chunks(plan):
            if self._is_over:
                raise SlowQueryError
            async for event in self._matching(chunk, fence):
                place = position(event.value, event.key, query.sorts)
                order = sort_key(place, query.sorts)
                if behind is None or behind < order:
                    best.append((order, place, event.version))
            if len(best) > 4 * query.limit + CHUNK:
                del sorted_in_place(best)[query.limit + 1 :]
        first = sorted_in_place(best)[: query.limit]
        where = {place[1]: place for _, place, _ in first}
        page = _Collected(query)
        reached: Position | None = None
        async for event in self._in_turn([(key, version) for _, (_, key), version in first], fence):
            if not page.add(event):
                return Page(page.entries, None if reached is None else query.token(reached))
            reached = where[event.key]
        return Page(page.entries, query.token(first[-1][1]) if len(best) > len(first) else None)

    async def _chunks(self, plan: Plan) -> AsyncIterator[list[Candidate]]:
        """The keys to look at: in the order that is asked for, from where the last page ended; or all of them, by key.

        They are asked for a chunk at a time, and no more than are needed.
        """
        after = self._query.after if plan.in_order else None
        source = self._scanned(after[1] if after else None) if plan.scan else self._indexed(plan, after)
        async for chunk in source:
            yield chunk

    async def _scanned(self, after: str | None) -> AsyncIterator[list[Candidate]]:
        for start, is_prefix in self._query.keys.spans(after):
            if not is_prefix:
                yield [Candidate(start, ((), start))]
                continue
            following = after
            while True:
                page = await self._store.keys(start, after=following, limit=CHUNK)
                if page.keys:
                    yield [Candidate(key, ((), key)) for key in page.keys]
                following = page.next
                if following is None:
                    break

    async def _indexed(self, plan: Plan, after: Position | None) -> AsyncIterator[list[Candidate]]:
        store, query = self._store, self._query
        if not isinstance(store, IndexedStore):
            raise TypeError(f"keeps no indexes: {store!r}")
        sort = query.sorts[0] if plan.in_order and query.sorts else None
        # One more than the page takes tells that there is another page.
        limit = min(CHUNK, query.limit + 1) if plan.in_order else CHUNK
        while True:
            chunk = await store.candidates(IndexQuery(query.keys, plan.narrowed, sort, after, limit))
            if chunk:
                yield chunk
            if len(chunk) < limit:
                return
            after = chunk[-1].position

    async def _matching(self, chunk: Sequence[Candidate], fence: Fence) -> AsyncIterator[Event]:
        """The events of those keys that are there, by the log, and match; in the order of the keys."""
        keys, filter_ = self._query.keys, self._query.filter
        # A key that is not asked for, or may not be seen, is none of an index's to bring.
        heads = await self._store.heads([one.key for one in chunk if one.key in keys], after=fence)
        now = self._service_time()
        there = [one.key for one in chunk if one.key in heads and is_there(heads[one.key], now)]
        async for event in self._in_turn([(key, heads[key].version) for key in there], fence):
            if event.exists and (filter_ is None or matches(filter_, event.value)):
                yield event

    async def _in_turn(self, places: list[tuple[str, int]], fence: Fence) -> AsyncIterator[Event]:
        """The events at these places, in this order, as far as they are there.

        No more of them are in memory than the database gives at a time.
        """
        count = len(places)
        while places:
            asked = places[:count]
            events = await self._store.events(asked, after=fence)
            if not events:
                # None of them is there.
                places = places[count:]
                count = len(places)
                continue
            done = 0
            while done < len(asked) and asked[done] in events:
                yield events.pop(asked[done])
                done += 1
            places = places[done:]
            # If what came is all behind the first one, this is either too far away from them or not there.
            count = len(places) if done else max(1, len(asked) // 2)

    @property
    def _is_over(self) -> bool:
        return asyncio.get_running_loop().time() >= self._ends


def sorted_in_place(best: list[tuple[Any, Position, int]]) -> list[tuple[Any, Position, int]]:
    """The same list, in order."""
    best.sort(key=lambda item: item[0])
    return best
