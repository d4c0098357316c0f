"""The dead letter queue, read without taking anything out of it.

Letters are fetched a page at a time and kept unacknowledged, so that they stay in the queue whatever happens to the
reader. In the end they are given back page by page: given back otherwise they come back in another order.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import takewhile
from typing import NamedTuple

from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelPreconditionFailed
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelAccessRefused, ChannelLockedResource

from ..events import Unavailable
from ..events.topology import DEAD, DEAD_ARGUMENTS
from .connection import connected, translated
from .letter import DeadLetter
from .properties import all_properties
from .selection import Filter, Named

#: Its owner is the only one who reads: two readers would each be shown what the other has not in its hands.
LOCK = f"{DEAD}.lock"
#: Letters on a page: the first, and the most …
FIRST_PAGE = 10
LARGEST_PAGE = 100
#: … if they are no larger than this together, going by the largest one of the page before.
PAGE_BYTES = 16 * 1024 * 1024
#: Seconds for an answer of the broker.
TIMEOUT = 15.0
#: So many at a time. Of some thirty that a quorum queue has not settled yet the broker's channel keeps those beyond to
#: itself, and forgets them if it is closed.
ACKNOWLEDGEMENTS = 16
#: Seconds for giving letters back. The broker does that by itself if it takes longer.
RETURN_TIMEOUT = 30.0
#: Seconds without a letter after which the rest of a page is taken for gone.
PATIENCE = 5.0
#: Seconds between two looks.
PAUSE = 0.02

NEEDED = f"read the queue {DEAD}, and to configure {LOCK}"


class Held(NamedTuple):
    """A letter in hand."""

    tag: int
    letter: DeadLetter


@asynccontextmanager
async def open_dead_letters(url: str, *, timeout: float = TIMEOUT) -> AsyncIterator["DeadLetterQueue"]:
    """The dead letter queue of a service, for one reader at a time; what is in hand is given back afterwards.

    :param url: AMQP URL of the broker.
    :param timeout: seconds to wait for another reader to leave.
    :raises Unavailable: if the broker cannot be reached, another reader does not leave, or there is no such queue.
    :raises DeniedError: if the user may not read it.
    """
    async with _reading_all(url) as connection:
        queue = DeadLetterQueue(connection)
        with translated(NEEDED):
            await queue.open(timeout)
        try:
            yield queue
        finally:
            await queue.give_back()


@asynccontextmanager
async def _reading_all(url: str) -> AsyncIterator[AbstractConnection]:
    with all_properties():
        async with connected(url, "dead letters") as connection:
            yield connection


class DeadLetterQueue:
    """Reads the letters that were there when it was opened, in their order."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        #: Tags of each page in hand.
        self._pages: list[list[int]] = []
        #: Those that were removed from them.
        self._removed: set[int] = set()
        #: How many letters were there.
        self.count = 0
        #: Whether some of them could not be had, because something else took them.
        self.incomplete = False
        #: Whether the queue was declared by somebody else, and may drop letters that were looked at often.
        self.fragile = False

    async def open(self, timeout: float) -> None:
        """Wait for the lock, and count."""
        async with asyncio.timeout(TIMEOUT):
            self._channel = await self._connection.channel(publisher_confirms=False)
            self._underlay = await self._channel.get_underlay_channel()
            await self._ready()  # it exists
        self._owner = await self._lock(timeout)
        async with asyncio.timeout(TIMEOUT):
            self.fragile = await self._is_fragile()
            self.count = await self._ready()

    async def _lock(self, timeout: float) -> AbstractChannel:
        clock = asyncio.get_running_loop().time
        ends = clock() + timeout
        while True:
            async with asyncio.timeout(TIMEOUT):
                channel = await self._connection.channel()
                try:
                    # It goes with the connection, so that nobody has to clean up after a reader that was killed.
                    await channel.declare_queue(LOCK, exclusive=True)
                except ChannelLockedResource:
                    pass
                else:
                    return channel
            if clock() > ends:
                raise Unavailable("somebody else is reading the dead letters at the moment: try again later")
            await asyncio.sleep(PAUSE)

    async def _is_fragile(self) -> bool:
        channel = await self._connection.channel()
        try:
            await channel.declare_queue(DEAD, durable=True, arguments=DEAD_ARGUMENTS)
        except ChannelPreconditionFailed:
            return True
        except ChannelAccessRefused:
            return False  # not this user's business
        await channel.close()
        return False

    async def _ready(self) -> int:
        queue = await self._channel.declare_queue(DEAD, passive=True)
        return queue.declaration_result.message_count or 0

    async def pages(self) -> AsyncIterator[list[Held]]:
        """All letters that were there at the beginning, in pages of bounded size.

        What comes in meanwhile is not among them, so that a reader who puts letters back comes to an end.

        :raises Unavailable: if the connection is lost, or the broker hands out nothing.
        """
        left, size = self.count, FIRST_PAGE
        while left > 0:
            with translated(NEEDED):
                page = await self._page(min(left, size))
            if not page:
                return
            left -= len(page)
            largest = max(len(held.letter.body) for held in page)
            size = max(1, min(LARGEST_PAGE, PAGE_BYTES // max(1, largest)))
            yield page

    async def chosen(self, wanted: Filter | Named) -> AsyncIterator[list[Held]]:
        """The letters that are meant, a page at a time; named ones all at once, when it is sure that no others are.

        :raises NoSuchLetterError: if a name fits none.
        :raises InvalidError: if a name fits several.
        """
        if isinstance(wanted, Named):
            found = [held async for page in self.pages() for held in page if wanted.takes(held.letter)]
            wanted.check()
            yield found
            return
        async for page in self.pages():
            held = [each for each in page if wanted.takes(each.letter)]
            if held:
                yield held

    async def _page(self, size: int) -> list[Held]:
        page: list[Held] = []
        full: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def take(message: DeliveredMessage) -> None:
            try:
                page.append(Held(message.delivery_tag or 0, DeadLetter.of(message)))
            except Exception as fault:
                if not full.done():
                    full.set_exception(fault)
                raise
            if len(page) == size and not full.done():
                full.set_result(None)

        async with asyncio.timeout(TIMEOUT):
            await self._channel.set_qos(prefetch_count=size)
            consumer = await self._underlay.basic_consume(DEAD, take)
        await self._fill(page, full)
        async with asyncio.timeout(TIMEOUT):
            await self._underlay.basic_cancel(consumer.consumer_tag or "")
        self._pages.append([held.tag for held in page])
        return page

    async def _fill(self, page: list[Held], full: asyncio.Future[None]) -> None:
        """Wait until a page is full, or nothing comes any more."""
        while not full.done():
            seen = len(page)
            await asyncio.wait({full}, timeout=PATIENCE)
            if full.done() or len(page) > seen:
                continue
            async with asyncio.timeout(TIMEOUT):
                ready = await self._ready()
            if ready:
                raise Unavailable(f"the broker hands out none of {ready} dead letters")
            self.incomplete = True
            return
        full.result()

    async def remove(self, letters: Iterable[Held]) -> None:
        """Take letters out of the queue, for good.

        :raises Unavailable: if the connection is lost. They may then be there still.
        """
        with translated(NEEDED):
            async with asyncio.timeout(TIMEOUT):
                gone = {held.tag for held in letters}
                # Those at the head of what is in hand with one acknowledgement.
                head = list(takewhile(gone.__contains__, sorted(self._in_hand())))
                if head:
                    await self._underlay.basic_ack(head[-1], multiple=True)
                    self._removed.update(head)
                for number, tag in enumerate(sorted(gone.difference(head)), start=1):
                    await self._underlay.basic_ack(tag)
                    self._removed.add(tag)
                    if number % ACKNOWLEDGEMENTS == 0:
                        await self._ready()
                # Its answer comes behind them.
                await self._ready()

    def _in_hand(self) -> Iterator[int]:
        return (tag for page in self._pages for tag in page if tag not in self._removed)

    async def give_back(self) -> None:
        """Put back what is in hand, in its order. If the connection is lost, the broker does it."""
        if self._channel.is_closed:
            return
        try:
            with translated(NEEDED):
                async with asyncio.timeout(RETURN_TIMEOUT):
                    await self._give_back()
        except Unavailable:
            return

    async def _give_back(self) -> None:
        there = await self._ready()
        for page in self._pages:
            left = [tag for tag in page if tag not in self._removed]
            if not left:
                continue
            await self._underlay.basic_nack(left[-1], multiple=True, requeue=True)
            there += len(left)
            # Pages that are on their way together may overtake each other; and whoever reads next has to find them.
            while True:
                if await self._ready() >= there:
                    break
                await asyncio.sleep(PAUSE)
