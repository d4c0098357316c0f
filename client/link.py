"""The link to the broker: one connection at a time, made again when it breaks, with a reply queue of its own.

Every connection gets a fresh reply queue: a name that outlives its connection is locked until the broker has
noticed the old one's end.
"""

import asyncio
import itertools
import logging
import random
from collections.abc import Callable
from typing import Any, Protocol

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage
from aio_pika.exceptions import AuthenticationError, DeliveryError, ProbableAuthenticationError

from ..amqp import LOOK_INTERVAL, Line, is_cancelled
from ..events import InvalidError, Reply, Unavailable, decode_replies
from ..events.topology import COMMANDS
from ..events.urls import amqp_urls, mask_url, user_of
from ..reasons import reason_of
from .subscription import Subscriber, Subscribing

log = logging.getLogger(__name__)

#: Seconds for connecting, all addresses together.
CONNECT_TIMEOUT = 10.0
#: Seconds between attempts at most.
MAX_PAUSE = 5.0
#: A connection that held for this many seconds starts the pauses from the beginning.
SETTLED = 10.0
#: Seconds between heartbeats, unless the URL says otherwise. After two of them without a sign of life the broker, or
#: the way to it, is taken for dead: early enough for a call to be sent again before its time is over.
HEARTBEAT = 4
#: Bytes of replies that the broker keeps for a client which does not read them.
REPLY_QUEUE_BYTES = 64 * 1024 * 1024
#: Seconds that what was cancelled may take to end; the driver passes over a cancellation now and then.
CLOSE_PATIENCE = 2.0
#: Seconds for a confirm: one that has not come by then may never come, because its queue's leader is on the other side
#: of a split of the broker, or moved at a bad moment. Twice as many after each time, so that a broker that is only
#: slow is not kept so by messages that come again.
CONFIRM_PATIENCE = 8.0
MAX_CONFIRM_PATIENCE = 60.0
#: Seconds without any reply after which it is looked whether the reply queue is still there. A split of the broker may
#: take it away without a word.
REPLY_PATIENCE = 4.0


class Carrier(Protocol):
    """What a client needs of its link."""

    @property
    def up(self) -> bool:
        """Whether messages can be published now."""

    @property
    def generation(self) -> int:
        """Counts connections: what was published on an earlier one may be answered to nobody."""

    def subscriber(self) -> Subscribing:
        """Makes subscriptions to the change feed of the same service."""

    async def open(self) -> None:
        """Connect, then stay connected."""

    async def close(self) -> None:
        """Disconnect."""

    async def publish(self, partition: int, body: bytes) -> None:
        """Publish one message of commands, and return when it is safe with the broker."""


class LinkMaker(Protocol):
    """Makes a link."""

    def __call__(
        self,
        url: str,
        *,
        name: str,
        on_up: Callable[[], None],
        on_replies: Callable[[list[Reply]], None],
        connect_timeout: float,
    ) -> Carrier:
        """As ``Link``."""


class Link:
    """Keeps a connection up until it is closed."""

    def __init__(
        self,
        url: str,
        *,
        name: str,
        on_up: Callable[[], None],
        on_replies: Callable[[list[Reply]], None],
        connect_timeout: float = CONNECT_TIMEOUT,
    ) -> None:
        """Make a link.

        :param on_up: called each time the connection is up again; not the first time.
        :param on_replies: called with the replies of each message on the reply queue.
        :raises InvalidError: if the URL cannot be used, or one of several.
        """
        self._masked = mask_url(url)
        try:
            urls = amqp_urls(url)
        except ValueError as fault:
            raise InvalidError(f"{fault}: {self._masked}", field="url") from None
        # Who logs in by a certificate may have no name in the URL. Then nobody here knows what the broker calls him.
        self._user = user_of(url)
        # In any order, so that not all clients go to the first node; then one after another.
        shuffled = random.sample(urls, len(urls))
        self._addresses = len(urls)
        self._nodes = [url.update_query({"heartbeat": str(HEARTBEAT), **url.query}) for url in shuffled]
        self._urls = itertools.cycle(self._nodes)
        self._name = name
        self._on_up = on_up
        self._on_replies = on_replies
        self._connect_timeout = connect_timeout
        self._line: Line | None = None
        self._channels: tuple[AbstractChannel, ...] = ()
        self._exchange: AbstractExchange | None = None
        self._reply_to = ""
        self._keeper: asyncio.Task[None] | None = None
        #: Of the present connection: gets the reason when anything of it breaks.
        self._lost: asyncio.Future[str] | None = None
        self._messages = 0
        self._closing = False
        #: Numbers of messages on the present connection that have no confirm, the oldest first.
        self._unconfirmed: dict[int, None] = {}
        self._confirm_patience = CONFIRM_PATIENCE
        #: Something was published, and no reply has come since.
        self._unanswered = False
        #: Counts connections, so that what belongs to an earlier one can be told.
        self.generation = 0
        self.up = False

    def subscriber(self) -> Subscriber:
        """Makes subscriptions to the change feed at the same broker."""
        return Subscriber(self._nodes, name=self._name, timeout=self._connect_timeout)

    async def open(self) -> None:
        """Connect, to the first address that can be had, then stay connected in the background.

        :raises Unavailable: if the broker cannot be reached or refuses the login.
        """
        for attempt in range(1, self._addresses + 1):
            try:
                await self._connect()
            except (AuthenticationError, ProbableAuthenticationError) as refused:
                await self._disconnect()
                raise Unavailable(f"cannot connect to {self._masked}: {reason_of(refused)}") from None
            except Exception as fault:  # noqa: BLE001 - whatever the driver says, it is not connected
                await self._disconnect()
                log.debug("connecting to %s: %r", self._masked, fault)
                if attempt == self._addresses:
                    reason = reason_of(fault) or type(fault).__name__
                    raise Unavailable(f"cannot connect to {self._masked}: {reason}") from None
            except BaseException:
                await self._disconnect()
                raise
            else:
                break
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Disconnect. What is in flight is not waited for."""
        self._closing = True
        keeper = self._keeper
        if keeper is not None and not keeper.done():
            keeper.cancel()
            await asyncio.wait({keeper}, timeout=CLOSE_PATIENCE)
        await self._disconnect()
        if keeper is not None and not keeper.done():
            keeper.cancel()
            await asyncio.wait({keeper}, timeout=CLOSE_PATIENCE)

    async def publish(self, partition: int, body: bytes) -> None:
        """Publish one message of commands, and wait for the broker's confirm.

        :raises aio_pika.exceptions.DeliveryError: if the broker refuses it, or has no queue for it.
        :raises BaseException: anything else if the connection is lost, which begins a new one; whether the message
            arrived is unknown. The driver's choice is wide: errors of its own, ``RuntimeError``, a bare ``Exception``
            and ``CancelledError``.
        """
        exchange, lost, unconfirmed = self._exchange, self._lost, self._unconfirmed
        assert exchange is not None  # noqa: S101 - callers check ``up`` in the same turn of the loop
        assert lost is not None  # noqa: S101
        self._messages += 1
        number = self._messages
        message = aio_pika.Message(
            body,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            reply_to=self._reply_to,
            user_id=self._user,
            message_id=f"{self._name}-{number}",
        )
        unconfirmed[number] = None
        self._unanswered = True
        try:
            await exchange.publish(message, str(partition), mandatory=True)
            self._confirm_patience = CONFIRM_PATIENCE
        except DeliveryError:
            raise
        except BaseException as fault:
            if not (isinstance(fault, asyncio.CancelledError) and is_cancelled()):
                self._lose(lost, f"publishing: {fault!r}")
            raise
        finally:
            del unconfirmed[number]

    def _lose(self, lost: asyncio.Future[str], reason: str) -> None:
        """Note that a connection is of no use any more; whichever it was, the present one is not touched."""
        if not lost.done():
            lost.set_result(reason)
        if lost is self._lost:
            self.up = False

    async def _connect(self) -> None:
        """Make a connection. If it fails half-way, ``_disconnect`` puts away what there is."""
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        line = Line(
            next(self._urls),
            name=f"holdfast client {self._name}",
            on_lost=lambda reason: self._lose(lost, reason),
        )
        self._line = line
        async with asyncio.timeout(self._connect_timeout / self._addresses):
            await line.connect()
            # The driver may never come back from a call on a connection that goes in that moment.
            opening = asyncio.ensure_future(self._open_channels(line.connection, lost))
            opening.add_done_callback(lambda task: task.cancelled() or task.exception())
            try:
                waiting: set[asyncio.Future[Any]] = {opening, lost}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if lost.done():
                    # It knows best what went wrong, if it comes back.
                    await asyncio.wait({opening}, timeout=0.1)
                if not opening.done():
                    raise ConnectionError(lost.result())
                opening.result()
            finally:
                opening.cancel()
        self._lost = lost
        self._unconfirmed = {}
        self._unanswered = False
        self.generation += 1
        if any(channel.is_closed for channel in self._channels):
            # In the moment before its callback was there.
            self._lose(lost, "a channel was closed at once")
        self.up = not lost.done()

    async def _open_channels(self, connection: AbstractConnection, lost: asyncio.Future[str]) -> None:
        channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
        channel.close_callbacks.add(lambda _, reason: self._lose(lost, f"channel closed: {reason!r}"))
        inbound = await connection.channel(publisher_confirms=False)
        inbound.close_callbacks.add(lambda _, reason: self._lose(lost, f"reply channel closed: {reason!r}"))
        underlay = await inbound.get_underlay_channel()
        underlay.on_consumer_cancel_callbacks.add(lambda _: self._lose(lost, "the reply queue is gone"))
        # Of replies that are not read in time the broker drops the oldest; their calls are repeated.
        limits: Any = {"x-max-length-bytes": REPLY_QUEUE_BYTES}
        queue = await inbound.declare_queue("", exclusive=True, auto_delete=True, arguments=limits)
        await queue.consume(self._on_message, no_ack=True)
        # Kept: the connection holds its channels by weak references.
        self._channels = (channel, inbound)
        self._exchange = await channel.get_exchange(COMMANDS, ensure=False)
        self._reply_to = queue.name

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        self._unanswered = False
        try:
            replies = decode_replies(message.body)
        except InvalidError as fault:
            log.warning("a message on the reply queue is no reply: %s", fault)
            return
        self._on_replies(replies)

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop().time
        attempts = 0
        while True:
            assert self._lost is not None  # noqa: S101
            assert self._line is not None  # noqa: S101
            since = clock()
            reason = await self._until_lost(self._lost, self._line)
            log.warning("link to %s lost: %s", self._masked, reason)
            if clock() - since > SETTLED:
                attempts = 0
            await self._disconnect()
            attempts = await self._reconnect(attempts)
            if self._closing:
                return
            log.info("link to %s is up again", self._masked)
            self._on_up()

    async def _until_lost(self, lost: asyncio.Future[str], line: Line) -> str:
        """Wait for the end of a connection, or make an end of it that nobody else will tell. Gives back the reason."""
        oldest: int | None = None
        stuck = unanswered = 0.0
        looking: asyncio.Task[None] | None = None
        try:
            while not lost.done():
                await asyncio.wait({lost}, timeout=LOOK_INTERVAL)
                first = next(iter(self._unconfirmed), None)
                # While the broker has an alarm there are none, and another connection would get none either.
                stuck = stuck + LOOK_INTERVAL if first is not None and first == oldest and not line.has_alarm else 0.0
                oldest = first
                if stuck > self._confirm_patience:
                    self._lose(lost, f"no confirm for {self._confirm_patience:g} s")
                    self._confirm_patience = min(2 * self._confirm_patience, MAX_CONFIRM_PATIENCE)
                    # It would not answer to a goodbye either.
                    line.cut()
                unanswered = unanswered + LOOK_INTERVAL if self._unanswered else 0.0
                if unanswered > REPLY_PATIENCE and (looking is None or looking.done()):
                    unanswered = 0.0
                    looking = asyncio.create_task(self._look_for_reply_queue(lost))
            return lost.result()
        finally:
            if looking is not None:
                looking.cancel()

    async def _look_for_reply_queue(self, lost: asyncio.Future[str]) -> None:
        try:
            await self._channels[1].declare_queue(self._reply_to, passive=True)
        except Exception as fault:  # noqa: BLE001 - whatever the driver says, replies have nowhere to go
            self._lose(lost, f"the reply queue: {fault!r}")

    async def _reconnect(self, attempts: int) -> int:
        """Try until it works. Give back the attempts, so that a connection that breaks at once does not come back
        at once, again and again: a missing exchange does that.
        """
        while not self._closing:
            # Jittered, so that clients that lost one broker do not come back as one.
            pause = min(MAX_PAUSE, 0.05 * 2 ** min(attempts, 10))
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause)  # noqa: S311
            attempts += 1
            try:
                await self._connect()
            except asyncio.CancelledError:
                if is_cancelled():
                    raise
                log.info("no link to %s yet: the driver gave up", self._masked)
            except Exception as fault:  # noqa: BLE001 - the driver's choice is wide, and nobody else would try again
                log.info("no link to %s yet: %s", self._masked, reason_of(fault) or type(fault).__name__)
            else:
                return attempts
            await self._disconnect()
        return attempts

    async def _disconnect(self) -> None:
        self.up = False
        self._channels = ()
        if self._line is not None:
            await self._line.hang_up()
