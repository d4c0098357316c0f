"""A store whose every call waits for its turn, so that a test decides what happens next, and what goes wrong.

Engines do nothing but wait for their store. So they need no event loop: whoever holds the coroutine sends it on.
"""

from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Generator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar

from holdfast.events import Event, Record, StoreUnavailable, Topology
from holdfast.stores import Appended, Expiry, ExpiryPage, Fence, Head, KeyPage, MemoryStore, Outcome

T = TypeVar("T")


class Fault(Enum):
    """What becomes of one call."""

    NONE = "as it should be"
    #: The database is away. An append may then have landed, in part, or may land later.
    AWAY = "away"
    #: Of an append: it landed, but the answer is lost.
    LOST_ANSWER = "lost answer"
    #: Of an append: it hangs, and lands when the test says so.
    IN_FLIGHT = "in flight"
    #: Of an append: half of it landed, then the connection broke.
    HALF = "half"
    #: Of a read without a fence: it is answered from the past.
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Turn:
    """A call that waits. Send a fault into the coroutine to let it go on."""

    method: str
    fenced: bool

    def __await__(self) -> Generator["Turn", Fault, Fault]:
        return (yield self)


@dataclass(slots=True)
class Zombie:
    """What is left of an append that hangs."""

    records: list[Record]


@dataclass(slots=True)
class TurnStore:
    """A log in memory behind turns. ``landed`` tells when each record got into it, by the test's own clock."""

    tick: Callable[[], int]
    inner: MemoryStore = field(default_factory=MemoryStore)
    landed: dict[str, int] = field(default_factory=dict)
    zombies: list[Zombie] = field(default_factory=list)
    log: list[Record] = field(default_factory=list)
    #: How far back a stale read sees, in records.
    lag: int = 1

    async def land(self, records: Sequence[Record]) -> Appended:
        """Append for real."""
        appended = await self.inner.append(records)
        for record, outcome in zip(records, appended.outcomes, strict=True):
            if outcome is Outcome.APPENDED:
                self.log.append(record)
                self.landed[record.id] = self.tick()
        return appended

    async def wake(self, zombie: Zombie, count: int) -> None:
        """Let an append that hangs go on by so many records. It ends where one is refused."""
        part, zombie.records = zombie.records[:count], zombie.records[count:]
        appended = await self.land(part)
        if appended.fence is None:
            zombie.records = []
        if not zombie.records and zombie in self.zombies:
            self.zombies.remove(zombie)

    async def _past(self) -> MemoryStore:
        past = MemoryStore()
        await past.open()
        await past.append(self.log[: max(0, len(self.log) - self.lag)])
        return past

    async def _source(self, method: str, after: Fence | None) -> MemoryStore:
        fault = await Turn(method, fenced=after is not None)
        if fault is Fault.AWAY:
            raise StoreUnavailable("away")
        if fault is Fault.STALE and after is None:
            return await self._past()
        return self.inner

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def health(self) -> None:
        await self.inner.health()

    async def service_time(self) -> int:
        return await self.inner.service_time()

    async def agree(self, proposal: Topology) -> Topology:
        return await self.inner.agree(proposal)

    async def strike(self, mark: str) -> int:
        return await self.inner.strike(mark)

    async def clear(self, mark: str) -> None:
        await self.inner.clear(mark)

    async def append(self, records: Sequence[Record]) -> Appended:
        fault = await Turn("append", fenced=False)
        unknown = Appended([Outcome.UNKNOWN] * len(records), None)
        match fault:
            case Fault.AWAY:
                return unknown
            case Fault.LOST_ANSWER:
                await self.land(records)
                return unknown
            case Fault.IN_FLIGHT:
                self.zombies.append(Zombie(list(records)))
                return unknown
            case Fault.HALF:
                await self.land(records[: (len(records) + 1) // 2])
                return unknown
            case _:
                return await self.land(records)

    async def fence(self) -> Fence:
        return await (await self._source("fence", None)).fence()

    async def heads(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, Head]:
        return await (await self._source("heads", after)).heads(keys)

    async def versions(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, int]:
        return await (await self._source("versions", after)).versions(keys)

    async def events(
        self, places: Collection[tuple[str, int]], *, after: Fence | None = None
    ) -> dict[tuple[str, int], Event]:
        return await (await self._source("events", after)).events(places)

    async def find(
        self, ids: Collection[str], *, after: Fence | None = None, with_values: bool = True
    ) -> dict[str, Record]:
        return await (await self._source("find", after)).find(ids, with_values=with_values)

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
        source = await self._source("history", after)
        return await source.history(
            key, after_version=after_version, before_version=before_version, backward=backward, limit=limit
        )

    async def version_at(self, key: str, time: int, *, after: Fence | None = None) -> int:
        return await (await self._source("version_at", after)).version_at(key, time)

    async def keys(
        self, prefix: str = "", *, after: str | None = None, limit: int = 1000, fence: Fence | None = None
    ) -> KeyPage:
        return await self.inner.keys(prefix, after=after, limit=limit, fence=fence)

    async def expired(self, *, until: int, after: Expiry | None = None, limit: int = 1000) -> ExpiryPage:
        return await self.inner.expired(until=until, after=after, limit=limit)

    async def swept(self) -> int:
        return await self.inner.swept()

    async def note_swept(self, until: int) -> None:
        await self.inner.note_swept(until)

    def scan(self) -> AsyncIterator[Record]:
        return self.inner.scan()


def at_once(work: Coroutine[Turn, Fault, T]) -> T:
    """Run a coroutine to its end, with nothing going wrong."""
    for _ in range(10_000):
        try:
            work.send(None)  # type: ignore[arg-type]  # the first one starts it; later ones mean: no fault
        except StopIteration as end:
            result: T = end.value
            return result
    raise AssertionError("it makes no progress")
