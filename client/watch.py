"""Following changes: what is there, and then every change of every key, in order, without gap or repeat.

The change feed alone could lose something with a connection, and tells some things twice. Versions tell: they count
each key's events without gaps. What comes twice is passed over, what is missing is read. After each interruption the
versions of all keys are compared with those that were told.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Final, Protocol, Self

from ..events import (
    ClosedError,
    HistoryEntry,
    InvalidError,
    OutcomeUnknown,
    Reply,
    Unavailable,
)
from ..events.feed import FeedMode, binding_keys, decode_feed
from .calls import Wire
from .changes import CaughtUp, Item, make_change
from .entry import to_millis
from .selection import Selection
from .subscription import Feed, FeedMessage, SubscriptionLostError

log = logging.getLogger(__name__)

#: Keys of a page: with their events, and with their versions alone.
_PAGE: Final = 500
_VERSIONS_PAGE: Final = 1000
#: Keys whose changes are read at the same time.
_AT_A_TIME: Final = 32
#: Portions of changes that wait to be taken: pages, or messages of the feed.
_PORTIONS: Final = 8
#: Seconds between attempts at most.
_MAX_PAUSE: Final = 5.0
#: Seconds between two looks at whether the feed is as it was.
_MODE_INTERVAL: Final = 30.0


class Watched(Protocol):
    """What a watch needs of its client."""

    async def ask(self, command: Wire, store: str, key: str) -> Reply:
        """Send a command that changes nothing, and give back its reply."""

    async def feed_mode(self, store: str) -> FeedMode:
        """Which messages a store's events are in."""

    @property
    def space(self) -> str:
        """What all its keys begin with in the store, and not in what it tells."""

    def opened(self, entry: HistoryEntry, store: str) -> HistoryEntry:
        """An event with its key as the store calls it, and its value as it was before it was sealed."""


Subscribe = Callable[[list[str]], Awaitable[Feed]]


class Watch:
    """Use it in ``async with``, and go through it by ``async for``: it gives :class:`Change` and :class:`CaughtUp`.

    Lost connections are made again, and waited for as long as it takes. What was missed is told then. It ends only by
    an error that stays: :class:`DeniedError`, :class:`UnknownStoreError`, :class:`InvalidError` where the store has no
    change feed, or :class:`ClosedError` when its client is closed.

    It remembers a version of every key that it follows, deleted ones too: about 150 bytes each.
    """

    def __init__(
        self,
        client: Watched,
        subscribe: Subscribe,
        selection: Selection,
        *,
        store: str,
        since: datetime | None,
        on_close: Callable[["Watch"], None],
    ) -> None:
        """See :meth:`Client.watch`."""
        self._client = client
        self._subscribe = subscribe
        self._selection = selection
        self._store = store
        self._since = None if since is None else max(0, to_millis(since))
        self._on_close = on_close
        #: The version that was told last, of every key.
        self._told: dict[str, int] = {}
        self._caught_up = False
        self._portions: deque[list[Item]] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        #: Of the portion that is being taken, the last item first.
        self._at_hand: list[Item] = []
        self._pump: asyncio.Task[None] | None = None
        self._end: BaseException | None = ClosedError("this watch is not open: use it in `async with`")

    async def __aenter__(self) -> Self:
        """Begin. Waits for nothing."""
        if self._pump is not None:
            raise ClosedError("a watch is used once")
        self._end = None
        self._pump = asyncio.create_task(self._run())
        self._pump.add_done_callback(self._ended)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        await self.close()

    async def close(self) -> None:
        """End it. Repeating it is harmless."""
        self._on_close(self)
        self._end = ClosedError("this watch was closed")
        self._portions.clear()
        self._at_hand.clear()
        self._news.set()
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    def _ended(self, pump: "asyncio.Task[None]") -> None:
        if self._end is None:
            # Whoever waits for the next change is told, whatever ended it.
            self._end = ClosedError("this watch was cancelled") if pump.cancelled() else pump.exception()
        self._news.set()

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        """The next one, when it comes. Cancelling the wait loses nothing.

        :raises HoldfastError: if the watch cannot go on.
        """
        while not self._at_hand:
            if self._portions:
                self._at_hand = self._portions.popleft()[::-1]
                self._room.set()
            elif self._end is not None:
                raise self._end
            else:
                self._news.clear()
                await self._news.wait()
        return self._at_hand.pop()

    async def _run(self) -> None:
        attempts = 0
        while True:
            try:
                mode = await self._client.feed_mode(self._store)
                prefix = self._client.space + self._selection.prefix
                feed = await self._subscribe(binding_keys(self._store, mode, prefix))
                try:
                    # What changes from now on comes by the feed, and what changed before is there to be read.
                    await self._look()
                    attempts = 0
                    await self._follow(feed, mode)
                finally:
                    await feed.close()
            except (SubscriptionLostError, Unavailable, OutcomeUnknown) as interruption:
                attempts += 1
                pause = random.uniform(0.5, 1.0) * min(_MAX_PAUSE, 0.05 * 2 ** min(attempts, 10))  # noqa: S311
                prefix = self._selection.prefix
                log.warning("watching %r is interrupted, again in %.1f s: %s", prefix, pause, interruption)
                await asyncio.sleep(pause)

    async def _follow(self, feed: Feed, mode: FeedMode) -> None:
        loop = asyncio.get_running_loop()
        coming: asyncio.Future[FeedMessage] | None = None
        looked = loop.time()
        try:
            while True:
                if coming is None:
                    coming = asyncio.ensure_future(feed.next())
                    coming.add_done_callback(lambda task: task.cancelled() or task.exception())
                await asyncio.wait({coming}, timeout=_MODE_INTERVAL)
                if loop.time() - looked > _MODE_INTERVAL:
                    looked = loop.time()
                    if await self._client.feed_mode(self._store) != mode:
                        raise SubscriptionLostError("the feed is set otherwise now")
                if coming.done():
                    message, coming = coming.result(), None
                    if message.kind == "notice":
                        await self._look()
                    else:
                        await self._take(message.body)
        finally:
            if coming is not None:
                coming.cancel()

    async def _take(self, body: bytes) -> None:
        """What the feed tells."""
        try:
            entries = decode_feed(body)
        except InvalidError as fault:
            log.warning("a message in the change feed is passed over: %s", fault)
            return
        portion: list[Item] = []
        space = self._client.space
        for event in entries:
            name = event.key or ""
            key = name.removeprefix(space)
            told = self._told.get(key, 0)
            if not name.startswith(space) or key not in self._selection or event.version <= told:
                continue
            entry = self._client.opened(event, self._store)
            if key != entry.key:
                # A copy takes as long as all the rest together.
                entry = entry.model_copy(update={"key": key})
            if entry.version > told + 1 and not entry.first:
                await self._give(portion)
                portion = []
                await self._catch_up(key, await self._changes(key, told))
            self._tell(entry, portion)
        await self._give(portion)

    def _tell(self, entry: HistoryEntry, portion: list[Item]) -> None:
        key = entry.key or ""
        if entry.version <= self._told.get(key, 0):
            return
        self._told[key] = entry.version
        portion.append(
            make_change(
                key=key,
                version=entry.version,
                type=entry.type,
                value=entry.value,
                etag=entry.etag,
                id=entry.id,
                time_ms=entry.time,
                author=entry.author,
                metadata=entry.metadata,
                correlation_id=entry.correlation_id,
                causation_id=entry.causation_id,
                restored=entry.restored,
                store=self._store,
                initial=not self._caught_up,
                expires_at_ms=entry.expires,
            )
        )

    async def _give(self, portion: list[Item]) -> None:
        if not portion:
            return
        while len(self._portions) >= _PORTIONS:
            self._room.clear()
            await self._room.wait()
        self._portions.append(portion)
        self._news.set()

    async def _look(self) -> None:
        """What is there to begin with; or, later, whether something was missed."""
        after: str | None = None
        while True:
            command: Wire = {"op": "watch", "store": self._store, "prefix": self._selection.prefix}
            if after is not None:
                command["after"] = after
            if self._caught_up:
                command |= {"values": False, "limit": _VERSIONS_PAGE}
            else:
                command["limit"] = _PAGE
                if self._since is not None:
                    command["since"] = self._since
            page = await self._client.ask(command, self._store, self._selection.prefix)
            await self._look_at(page)
            if page.next is None:
                break
            after = str(page.next)
        if not self._caught_up:
            self._caught_up = True
            await self._give([CaughtUp()])

    async def _look_at(self, page: Reply) -> None:
        told = self._told
        versions = {key: version for key, version in (page.versions or {}).items() if key in self._selection}
        newest = {entry.key: entry for entry in page.events or () if entry.key in versions}
        for some in _portioned(self._with_gaps(versions, newest), _AT_A_TIME):
            pages = await asyncio.gather(*(self._changes(key, told.get(key, 0)) for key in some))
            for key, changes in zip(some, pages, strict=True):
                await self._catch_up(key, changes)
        portion: list[Item] = []
        for entry in newest.values():
            self._tell(entry, portion)
        for key, version in versions.items():
            if version > told.get(key, 0):
                told[key] = version
        await self._give(portion)

    def _with_gaps(self, versions: Mapping[str, int], newest: Mapping[str, HistoryEntry]) -> list[str]:
        """Keys of which more is to be told than the newest event, if that is on the page."""
        keys = [key for key, version in versions.items() if version > self._told.get(key, 0)]
        if self._caught_up:
            return keys
        # In the beginning what is there is enough, but for keys of which something was told before an interruption.
        every = self._since is not None
        return [key for key in keys if key in self._told or (every and key in newest and versions[key] > 1)]

    async def _catch_up(self, key: str, page: Reply) -> None:
        """Tell what is on a page of the key's changes, and on all that follow it."""
        while True:
            portion: list[Item] = []
            for entry in page.events or ():
                self._tell(entry, portion)
            await self._give(portion)
            if page.next is None:
                return
            page = await self._changes(key, int(page.next))

    async def _changes(self, key: str, after: int) -> Reply:
        """The first page of the key's changes after a version."""
        command: Wire = {"op": "changes", "store": self._store, "key": key, "after_version": after}
        if not self._caught_up and self._since is not None:
            command["since"] = self._since
        return await self._client.ask(command, self._store, key)


def _portioned(keys: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
