"""A store that follows a script: calls that fail, hang or see the past, and other workers that come in between."""

from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any, TypeAlias

from holdfast.events import Event, Record, StoreError, StoreUnavailable, Topology
from holdfast.stores import (
    Appended,
    EventStore,
    Expiry,
    ExpiryPage,
    Fence,
    Head,
    KeyPage,
    MemoryStore,
    Outcome,
    Transacted,
)

Proceed: TypeAlias = Callable[[], Awaitable[Any]]
#: Stands in for one call: it is given the real one, to make it or not, and the call's first argument.
Step: TypeAlias = Callable[[Proceed, Any], Awaitable[Any]]


class ScriptedStore:
    """Everything goes to a store in memory, except where the script says otherwise.

    ``script`` puts steps before the next calls of a method, one for each call. ``fall_behind`` lets unfenced reads
    see the log as it is now, whatever is appended later, as a deposed primary does that has not noticed yet.
    """

    def __init__(self, inner: MemoryStore) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()
        #: The records of every append that was asked for.
        self.asked: list[list[Record]] = []
        #: The guards of every transaction that was asked for.
        self.guarded: list[set[tuple[str, int]]] = []
        self._steps: defaultdict[str, deque[Step]] = defaultdict(deque)
        self._always: dict[str, Step] = {}
        self._past: MemoryStore | None = None

    @classmethod
    async def opened(cls) -> "ScriptedStore":
        """An empty one."""
        store = cls(MemoryStore())
        await store.open()
        return store

    def script(self, method: str, *steps: Step) -> None:
        """Put steps before the next calls of a method."""
        self._steps[method].extend(steps)

    def always(self, method: str, step: Step) -> None:
        """Let every call of a method that the script says nothing of go through a step."""
        self._always[method] = step

    @property
    def finished(self) -> bool:
        """Whether all of the script was played."""
        return not any(self._steps.values())

    async def fall_behind(self) -> None:
        """From now on, reads without a fence see the log as it is at this moment."""
        past = MemoryStore()
        await past.open()
        await past.append([record async for record in self.inner.scan()])
        self._past = past

    def catch_up(self) -> None:
        """Reads without a fence see the log as it is, again."""
        self._past = None

    async def log(self) -> list[Record]:
        """Everything that is in the log, in its order."""
        return [record async for record in self.inner.scan()]

    async def versions_of(self, key: str) -> list[int]:
        """The versions that the log has of a key."""
        return [record.version for record in await self.log() if isinstance(record, Event) and record.key == key]

    def _seen(self, after: Fence | None) -> MemoryStore:
        return self.inner if after is not None or self._past is None else self._past

    async def _call(self, method: str, argument: Any, proceed: Proceed) -> Any:
        self.calls[method] += 1
        steps = self._steps[method]
        step = steps.popleft() if steps else self._always.get(method, as_it_is)
        return await step(proceed, argument)

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def health(self) -> None:
        await self._call("health", None, self.inner.health)

    async def service_time(self) -> int:
        time: int = await self._call("service_time", None, self.inner.service_time)
        return time

    async def agree(self, proposal: Topology) -> Topology:
        return await self.inner.agree(proposal)

    async def strike(self, mark: str) -> int:
        return await self.inner.strike(mark)

    async def clear(self, mark: str) -> None:
        await self.inner.clear(mark)

    async def append(self, records: Sequence[Record]) -> Appended:
        self.asked.append(list(records))
        appended: Appended = await self._call("append", records, lambda: self.inner.append(records))
        return appended

    async def transact(
        self, records: Sequence[Record], guards: Collection[tuple[str, int]], *, firsts: Collection[str] = ()
    ) -> Transacted:
        self.guarded.append(set(guards))
        transacted: Transacted = await self._call(
            "transact", records, lambda: self.inner.transact(records, guards, firsts=firsts)
        )
        return transacted

    async def fence(self) -> Fence:
        fence: Fence = await self._call("fence", None, self.inner.fence)
        return fence

    async def heads(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, Head]:
        heads: dict[str, Head] = await self._call("heads", keys, lambda: self._seen(after).heads(keys, after=after))
        return heads

    async def versions(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, int]:
        versions: dict[str, int] = await self._call(
            "versions", keys, lambda: self._seen(after).versions(keys, after=after)
        )
        return versions

    async def events(
        self, places: Collection[tuple[str, int]], *, after: Fence | None = None
    ) -> dict[tuple[str, int], Event]:
        events: dict[tuple[str, int], Event] = await self._call(
            "events", places, lambda: self._seen(after).events(places, after=after)
        )
        return events

    async def find(
        self, ids: Collection[str], *, after: Fence | None = None, with_values: bool = True
    ) -> dict[str, Record]:
        found: dict[str, Record] = await self._call(
            "find", ids, lambda: self._seen(after).find(ids, after=after, with_values=with_values)
        )
        return found

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
        options: dict[str, Any] = {
            "after_version": after_version, "before_version": before_version, "backward": backward, "limit": limit
        }  # fmt: skip
        events: list[Event] = await self._call(
            "history", key, lambda: self._seen(after).history(key, **options, after=after)
        )
        return events

    async def version_at(self, key: str, time: int, *, after: Fence | None = None) -> int:
        version: int = await self._call("version_at", key, lambda: self._seen(after).version_at(key, time, after=after))
        return version

    async def keys(
        self, prefix: str = "", *, after: str | None = None, limit: int = 1000, fence: Fence | None = None
    ) -> KeyPage:
        return await self._seen(fence).keys(prefix, after=after, limit=limit, fence=fence)

    async def expired(self, *, until: int, after: Expiry | None = None, limit: int = 1000) -> ExpiryPage:
        page: ExpiryPage = await self._call(
            "expired", until, lambda: self._seen(None).expired(until=until, after=after, limit=limit)
        )
        return page

    async def swept(self) -> int:
        return await self.inner.swept()

    async def note_swept(self, until: int) -> None:
        await self.inner.note_swept(until)

    def scan(self) -> AsyncIterator[Record]:
        return self._seen(None).scan()


async def lost_before(proceed: Proceed, records: Sequence[Record]) -> Appended:
    """An append that never arrived; its caller cannot know."""
    return unknown(records)


async def lost_after(proceed: Proceed, records: Sequence[Record]) -> Appended:
    """An append that landed, but whose answer was lost."""
    await proceed()
    return unknown(records)


async def away(proceed: Proceed, argument: Any) -> Any:
    """A call that finds no database."""
    raise StoreUnavailable("scripted: the database is away")


async def as_it_is(proceed: Proceed, argument: Any) -> Any:
    """A call as if there were no script."""
    return await proceed()


def poisoned_by(*keys: str) -> Step:
    """An append that a store refuses for good where it holds one of these keys."""

    async def step(proceed: Proceed, records: Sequence[Record]) -> Any:
        for record in records:
            if record.key in keys:
                raise StoreError(f"scripted: nobody can keep {record.key!r}")
        return await proceed()

    return step


async def transaction_lost_before(proceed: Proceed, records: Sequence[Record]) -> Transacted:
    """A transaction that never arrived; its caller cannot know."""
    return Transacted(Outcome.UNKNOWN, None)


async def transaction_lost_after(proceed: Proceed, records: Sequence[Record]) -> Transacted:
    """A transaction that was committed, but whose answer was lost."""
    await proceed()
    return Transacted(Outcome.UNKNOWN, None)


async def transaction_blocked(proceed: Proceed, records: Sequence[Record]) -> Transacted:
    """A transaction that meets an open one."""
    return Transacted(Outcome.BLOCKED, None)


class Blocking:
    """Somebody's open transaction on some keys: an append gets as far as the first record of one of them."""

    def __init__(self, store: "ScriptedStore", *keys: str) -> None:
        self._store = store
        self.keys = set(keys)

    async def __call__(self, proceed: Proceed, records: Sequence[Record]) -> Appended:
        at = next((number for number, record in enumerate(records) if record.key in self.keys), None)
        if at is None:
            appended: Appended = await proceed()
            return appended
        landed = await self._store.inner.append(records[:at])
        if landed.fence is None:
            return Appended([*landed.outcomes, *[Outcome.NOT_TRIED] * (len(records) - at)], None)
        rest = [Outcome.NOT_TRIED] * (len(records) - at - 1)
        return Appended([*landed.outcomes, Outcome.BLOCKED, *rest], None)


class InFlight:
    """An append whose answer is lost, and which lands only when the test says so, if at all."""

    def __init__(self) -> None:
        self._proceed: Proceed | None = None

    async def __call__(self, proceed: Proceed, records: Sequence[Record]) -> Appended:
        self._proceed = proceed
        return unknown(records)

    async def land(self) -> Appended:
        """Now it arrives."""
        assert self._proceed is not None, "the append was never sent"
        appended: Appended = await self._proceed()
        return appended


def raising(error: Exception) -> Step:
    """A call that fails with that error."""

    async def step(proceed: Proceed, argument: Any) -> Any:
        raise error

    return step


def meanwhile(action: Callable[[], Awaitable[Any]]) -> Step:
    """A call before which something else happens."""

    async def step(proceed: Proceed, argument: Any) -> Any:
        await action()
        return await proceed()

    return step


def thereafter(action: Callable[[], Awaitable[Any]]) -> Step:
    """A call after which something else happens, before its caller goes on."""

    async def step(proceed: Proceed, argument: Any) -> Any:
        result = await proceed()
        await action()
        return result

    return step


def unknown(records: Sequence[Record]) -> Appended:
    """What a store says when it cannot tell what became of an append."""
    return Appended([Outcome.UNKNOWN] * len(records), None)


def _is_a_store(store: ScriptedStore) -> EventStore:
    return store
