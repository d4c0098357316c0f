"""A subscription to the change feed: a queue of one's own, on a connection of its own, until either is lost.

Nothing in it is kept longer than the connection: whoever subscribes again looks what was missed meanwhile.
"""

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aiormq.exceptions import ChannelAccessRefused
from yarl import URL

from ..amqp import Line, is_cancelled
from ..events import DeniedError, HoldfastError
from ..events.topology import EVENTS, FEED_HEADER
from ..reasons import reason_of

#: Bytes of messages that may wait to be looked at. Whoever is slower than that catches up by reading, instead of
#: letting the broker keep more and more for him.
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
#: Messages that may wait in the broker, likewise.
MAX_QUEUED: Final = 10_000
#: Seconds between two looks at the queue.
LOOK_INTERVAL: Final = 5.0


class SubscriptionLostError(HoldfastError):
    """The subscription has ended, or never began: there may be changes that it did not bring."""


class FeedMessage(NamedTuple):
    """A message of the change feed."""

    #: As its header says: ``events`` or ``notice``.
    kind: str
    body: bytes


class Feed(Protocol):
    """A subscription."""

    async def next(self) -> FeedMessage:
        """The next message; SubscriptionLostError when there are no more."""

    async def close(self) -> None:
        """End it."""


class Subscribing(Protocol):
    """Makes subscriptions."""

    async def subscribe(self, bindings: Sequence[str]) -> Feed:
        """A subscription to what has these routing keys. From when it returns, nothing is missed."""


class Inbox:
    """Messages that have come in, in order, until there are no more."""

    def __init__(self) -> None:
        self._messages: deque[FeedMessage] = deque()
        self._waiting_bytes = 0
        self._news = asyncio.Event()
        self._lost: str | None = None

    def put(self, message: FeedMessage) -> None:
        """Take one in, unless too much waits: then it is lost, and so is all that would come."""
        if self._lost is not None:
            return
        if self._waiting_bytes > MAX_WAITING_BYTES:
            self.lose("changes come faster than they are taken")
            return
        self._messages.append(message)
        self._waiting_bytes += len(message.body)
        self._news.set()

    def lose(self, reason: str) -> None:
        """There are no more."""
        if self._lost is None:
            self._lost = reason
        self._news.set()

    async def next(self) -> FeedMessage:
        """The next message, when it comes.

        :raises SubscriptionLostError: when there are no more.
        """
        while not self._messages:
            if self._lost is not None:
                raise SubscriptionLostError(self._lost)
            self._news.clear()
            await self._news.wait()
        message = self._messages.popleft()
        self._waiting_bytes -= len(message.body)
        return message


class Subscriber:
    """Makes subscriptions at one broker."""

    def __init__(self, urls: Sequence[URL], *, name: str, timeout: float) -> None:
        """Make one.

        :param urls: the nodes of the broker; it takes one after another.
        :param timeout: seconds for connecting.
        """
        self._urls = itertools.cycle(random.sample(urls, len(urls)))
        self._name = name
        self._timeout = timeout

    async def subscribe(self, bindings: Sequence[str]) -> "Subscription":
        """A subscription to what has these routing keys. From when it returns, nothing is missed.

        :raises SubscriptionLostError: if the broker cannot be reached.
        :raises DeniedError: if the user may not read the change feed.
        """
        subscription = Subscription(next(self._urls), f"holdfast watch {self._name}")
        try:
            async with asyncio.timeout(self._timeout):
                await subscription.open(bindings)
        except DeniedError:
            await subscription.close()
            raise
        except Exception as fault:  # noqa: BLE001 - the driver's choice is wide
            await subscription.close()
            raise SubscriptionLostError(f"cannot subscribe: {reason_of(fault) or type(fault).__name__}") from None
        except asyncio.CancelledError:
            await subscription.close()
            if is_cancelled():
                raise
            # Let through it would end the watch in silence: nobody has cancelled that.
            raise SubscriptionLostError("cannot subscribe: the driver gave up") from None
        return subscription


class Subscription(Inbox):
    """A queue of one's own, and what comes out of it."""

    def __init__(self, url: URL, name: str) -> None:
        super().__init__()
        self._line = Line(url, name=name, on_lost=self.lose)
        self._channel: AbstractChannel | None = None
        self._queue = ""
        self._looking: asyncio.Task[None] | None = None

    async def open(self, bindings: Sequence[str]) -> None:
        """Connect, declare, bind and consume. If it fails half-way, ``close`` puts away what there is."""
        await self._line.connect()
        # The driver may never come back from a call on a connection that goes in that moment.
        opening = asyncio.ensure_future(self._open(self._line.connection, bindings))
        opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            while not opening.done() and self._lost is None:
                news = asyncio.ensure_future(self._news.wait())
                await asyncio.wait({opening, news}, return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
            if self._lost is not None:
                # It knows best what went wrong, if it comes back.
                await asyncio.wait({opening}, timeout=0.1)
            if not opening.done():
                raise SubscriptionLostError(self._lost or "")
            opening.result()
        finally:
            opening.cancel()
        self._looking = asyncio.create_task(self._look())

    async def _open(self, connection: AbstractConnection, bindings: Sequence[str]) -> None:
        channel = await connection.channel(publisher_confirms=False)
        channel.close_callbacks.add(lambda _, reason: self.lose(f"channel closed: {reason!r}"))
        underlay = await channel.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: self.lose("the queue is gone"))
        queue = await channel.declare_queue("", exclusive=True, auto_delete=True)
        # Kept: the connection holds its channels by weak references.
        self._channel, self._queue = channel, queue.name
        try:
            for binding in bindings:
                await queue.bind(EVENTS, binding)
        except ChannelAccessRefused as refused:
            raise DeniedError(f"this user may not read the change feed: {refused}") from None
        await queue.consume(self._on_message, no_ack=True)

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        headers: Any = message.headers
        self.put(FeedMessage(str(headers.get(FEED_HEADER)), message.body))

    async def _look(self) -> None:
        """See now and then whether the queue is there, and not too long: nobody tells of either."""
        while self._lost is None:
            await asyncio.sleep(LOOK_INTERVAL)
            try:
                assert self._channel is not None  # noqa: S101
                queue = await self._channel.declare_queue(self._queue, passive=True)
                if (queue.declaration_result.message_count or 0) > MAX_QUEUED:
                    self.lose("changes come faster than they are taken")
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                self.lose("the queue: the driver gave up")
            except Exception as fault:  # noqa: BLE001 - whatever the driver says, nothing comes of it any more
                self.lose(f"the queue: {fault!r}")

    async def close(self) -> None:
        """Disconnect, which removes the queue. Repeating it is harmless."""
        self.lose("closed")
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await self._line.hang_up()
