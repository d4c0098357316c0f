"""For those who follow the change feed: what is there to begin with, and what they have missed.

All of it is read beside the commit loop and behind a fence, so that it shows whatever was published before it was
asked for.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

import orjson

from ..events import ChangesCommand, Event, Status, StoreUnavailable, WatchCommand
from ..events.feed import event_data
from ..events.limits import REPLY_MESSAGE_BYTES
from ..events.replies import error
from ..stores import EventStore, Fence
from .decide import expiry
from .delivery import Delivery
from .lapse import is_there
from .outbox import Outbox, Wire

log = logging.getLogger(__name__)

#: Pages of one store that are read at the same time.
READERS: Final = 2
#: Events that are read at a time.
_EVENTS_AT_A_TIME: Final = 64

Watched = WatchCommand | ChangesCommand


class Watching:
    """Answers ``watch`` and ``changes`` of one store, in the order in which they came."""

    def __init__(self, store: EventStore, *, outbox: Outbox, service_time: Callable[[], int]) -> None:
        """Make one. It has to be run."""
        self._store = store
        self._outbox = outbox
        self._service_time = service_time
        self._waiting: asyncio.Queue[tuple[Delivery, Watched]] = asyncio.Queue()

    def add(self, delivery: Delivery, command: Watched) -> None:
        """Put a command behind those that wait. They are bounded as what is in hand is."""
        self._waiting.put_nowait((delivery, command))

    async def run(self) -> None:
        """Answer until cancelled. So many of these at once are so many readers."""
        while True:
            delivery, command = await self._waiting.get()
            await self._outbox.unsent.room()
            answer, size = await self._answer(delivery, command)
            self._outbox.answer(delivery, {"id": command.id, **answer}, size=size)

    async def _answer(self, delivery: Delivery, command: Watched) -> tuple[Wire, int]:
        late = expiry(command, self._service_time())
        if late is not None:
            return late, 0
        try:
            if isinstance(command, WatchCommand):
                return await watch_page(self._store, command, self._service_time())
            return await changes_page(self._store, command)
        except StoreUnavailable:
            return error(Status.UNAVAILABLE, "store_away", "the store cannot be reached at the moment"), 0
        except Exception as fault:
            log.exception("%s %s cannot be read", command.op, command.id)
            body = command.model_dump_json(exclude_unset=True).encode()
            self._outbox.bury(delivery, body, reason="internal", detail=type(fault).__name__)
            return error(Status.INTERNAL, "internal", "the worker could not process this command"), 0


async def watch_page(store: EventStore, command: WatchCommand, now: int) -> tuple[Wire, int]:
    """The answer to ``watch``, and how many bytes its events are.

    What has expired is not there, whether or not the log says so yet. The event that says so will come by the feed.

    :param now: service time in milliseconds.
    """
    fence = await store.fence()
    keys, following = await store.keys(command.prefix, after=command.after, limit=command.limit, fence=fence)
    if not command.values:
        return _page([], following, await store.versions(keys, after=fence))
    heads = await store.heads(keys, after=fence)
    wanted = [
        (key, heads[key].version)
        for key in keys
        if key in heads and (is_there(heads[key], now) if command.since is None else heads[key].time >= command.since)
    ]
    events, read = await _read(store, wanted, fence)
    if read < len(wanted):
        # What does not fit is on the next page, which begins behind the last key of this one.
        keys = keys[: keys.index(wanted[read][0])]
        following = keys[-1]
    return _page(events, following, {key: heads[key].version for key in keys if key in heads})


async def changes_page(store: EventStore, command: ChangesCommand) -> tuple[Wire, int]:
    """The answer to ``changes``, and how many bytes its events are."""
    fence = await store.fence()
    key = command.key
    newest = (await store.versions([key], after=fence)).get(key, 0)
    after = command.after_version
    if command.since is not None:
        after = max(after, await _last_before(store, key, newest, command.since, fence))
    texts: list[bytes] = []
    size = looked = 0
    while after < newest and looked < command.limit:
        # By what is there, and not by versions: where keys were dropped, others begin far above 1.
        wanted = min(_EVENTS_AT_A_TIME, command.limit - looked)
        events = await store.history(key, after_version=after, limit=wanted, after=fence)
        if not events:
            return _page(texts, None)
        for event in events:
            text = b"" if event.stripped else orjson.dumps(event_data(event))
            if texts and size + len(text) > REPLY_MESSAGE_BYTES:
                return _page(texts, after)
            if text:
                texts.append(text)
                size += len(text)
            after, looked = event.version, looked + 1
    return _page(texts, after if after < newest else None)


async def _last_before(store: EventStore, key: str, newest: int, since: int, fence: Fence) -> int:
    """The last version of a key that is older than a time; 0 if none is. Times of one key never run backwards."""
    low, high = 0, newest
    while low < high:
        middle = (low + high + 1) // 2
        event = (await store.events([(key, middle)], after=fence)).get((key, middle))
        # What is not there any more is older than what is.
        if event is None or event.time < since:
            low = middle
        else:
            high = middle - 1
    return low


async def _read(store: EventStore, places: Sequence[tuple[str, int]], fence: Fence) -> tuple[list[bytes], int]:
    """The events at some places as JSON, as many as fit into one reply, one at least; and how many places that is.

    A place without an event, or with a stub, counts: whatever was there has been erased since it was looked for.
    """
    texts: list[bytes] = []
    size = 0
    for start in range(0, len(places), _EVENTS_AT_A_TIME):
        some = places[start : start + _EVENTS_AT_A_TIME]
        found: dict[tuple[str, int], Event] = {}
        while missing := [place for place in some if place not in found]:
            events = await store.events(missing, after=fence)
            found |= events
            if not events:
                break
        for number, place in enumerate(some):
            event = found.get(place)
            if event is None or event.stripped:
                continue
            text = orjson.dumps(event_data(event))
            if texts and size + len(text) > REPLY_MESSAGE_BYTES:
                return texts, start + number
            texts.append(text)
            size += len(text)
    return texts, len(places)


def _page(events: list[bytes], following: str | int | None, versions: dict[str, int] | None = None) -> tuple[Wire, int]:
    # As bytes, so that it is known how many they are, and nothing larger waits to be sent.
    text = b"[" + b",".join(events) + b"]"
    answer: Wire = {"status": "ok", "events": orjson.Fragment(text), "next": following}
    size = len(text)
    if versions is not None:
        told = orjson.dumps(versions)
        answer["versions"] = orjson.Fragment(told)
        size += len(told)
    return answer, size
