"""One worker's connections to RabbitMQ, and everything that is said on them. All AMQP of the worker is in here.

Consuming and acknowledging have a connection of their own: an alarm blocks connections that publish, and must not
keep acknowledgements from draining the queues.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import aio_pika
import uuid_utils
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelPreconditionFailed, DeliveryError
from aiormq.abc import DeliveredMessage
from pamqp.commands import Basic
from yarl import URL

from ..amqp import Line, Valve
from ..events import HoldfastError, partition_queue
from ..events.feed import routing_word, stream_queue
from ..events.topology import (
    COMMANDS,
    CONSUMER_TIMEOUT_MS,
    DEAD,
    DEAD_ARGUMENTS,
    EVENTS,
    HOP_HEADER,
    INGRESS,
    SWEEP_HEADER,
)
from ..events.urls import mask_url
from ..reasons import reason_of
from .burial import burial_headers, replayed
from .delivery import Delivery
from .options import WorkerOptions
from .outlets import Outlets, answer_to
from .ownership import priority
from .properties import read_what_is_readable
from .publication import Publication, RefusedError, SilentError

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Seconds for connecting, and for an answer of the broker.
TIMEOUT = 15.0
#: Seconds for a confirm. One that did not come by then may never come: its queue's leader is on the other side of a
#: split, or moved at a bad moment. While the broker has an alarm there is none, and beginning anew does not help.
CONFIRM_TIMEOUT = 10.0


class BrokerLostError(HoldfastError):
    """The connection, a channel or a consumer is gone. What was in hand is delivered again."""


@contextmanager
def translated(doing: str, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what the driver raises when a connection or channel is gone, or goes while it is used, into ours.

    Its choice is wide: errors of its own, RuntimeError, a bare Exception, and CancelledError for what waits on a
    connection that it finds dead.
    """
    try:
        yield
    except BrokerLostError:
        raise
    except passing:
        raise
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise BrokerLostError(f"{doing}: the driver gave up") from None
    except Exception as fault:
        raise BrokerLostError(f"{doing}: {reason_of(fault) or repr(fault)}") from fault


class CannotKeepAuthorError(HoldfastError):
    """The account may not publish in another's name, so a message cannot be forwarded as its author's."""


def negotiated_heartbeat(patience: int) -> int:
    """The heartbeat interval, in seconds, with which the broker gives up a silent worker within twice the patience.

    It looks once an interval, and gives up at the third look that finds nothing new: after two to three intervals.
    """
    return max(1, patience * 2 // 3)


class AmqpBroker:
    """Connections, channels and consumers of one session."""

    def __init__(self, options: WorkerOptions, url: URL, *, connect_timeout: float = TIMEOUT) -> None:
        """Make a broker that is not connected yet.

        :param url: which one of the addresses that the options name.
        :param connect_timeout: seconds for making a connection.
        """
        self._options = options
        self._url = url.update_query(heartbeat=str(negotiated_heartbeat(options.heartbeat)))
        self._connect_timeout = connect_timeout
        #: The user whose connections these are.
        self.account = url.user or (None if url.query.get("auth") == "external" else "guest")
        self._lines: list[Line] = []
        self._closing = False
        self._counter = 0
        #: Set with the reason when anything of the session breaks.
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: Whether the account may publish in somebody's name, so that forwarding keeps the author, as far as it was
        #: tried. The broker looks at that when a connection is made, so it holds for as long as this one.
        self._may_publish_as: dict[str | None, bool] = {None: True}
        if url.user is not None:
            self._may_publish_as[url.user] = True
        self._trying = asyncio.Lock()
        #: Channels that are being closed, and not waited for.
        self._leaving: set[asyncio.Task[None]] = set()
        #: By the first word of routing keys: the streams that are bound by it.
        self._streams: dict[str, str] = {}
        #: Tells whether there is room for more messages. To be set before the first one is consumed.
        self.valve: Valve | None = None
        #: Whether others may be better owners of partitions. To be set before, too.
        self.reluctant = False

    async def open(self) -> None:
        """Connect, and make sure that exchanges and queues are there.

        :raises BrokerLostError: if the broker cannot be reached, refuses, or does not answer.
        """
        with translated(f"connecting to {mask_url(str(self._url))}"):
            await self._unless_lost(self._open())

    async def _unless_lost(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it, but do not wait for it once something is lost: the driver may then never come back from it."""
        doing = asyncio.ensure_future(work)
        doing.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await asyncio.wait({doing, self.lost}, return_when=asyncio.FIRST_COMPLETED)
            if self.lost.done():
                self.lost.result()
            doing.result()
        finally:
            doing.cancel()

    async def _open(self) -> None:
        read_what_is_readable()
        self._consuming_line = await self._connect("consume")
        self._consuming = self._consuming_line.connection
        self._publishing_line = await self._connect("publish")
        self._publishing = self._publishing_line.connection
        await self._declare()
        self._inbound = await self._channel(self._consuming, publisher_confirms=False)
        await self._inbound.set_qos(prefetch_count=self._options.prefetch, timeout=TIMEOUT)
        self._replies = await self._channel(self._publishing, publisher_confirms=False)
        self._confirmed = await self._channel(self._publishing, publisher_confirms=True, on_return_raises=True)
        self._outlets = Outlets(
            self._publishing, certain=self._unless_stuck, has_alarm=lambda: self.has_alarm, leaving=self._leaving
        )
        inbound = await self._inbound.get_underlay_channel()
        # The broker may cancel a consumer (its queue was deleted, its node left): nothing else would notice.
        inbound.on_consumer_cancel_callbacks.add(
            lambda frame: self._lose(f"the broker cancelled consumer {frame.consumer_tag}")
        )

    async def _connect(self, purpose: str) -> Line:
        line = Line(self._url, name=f"holdfast worker {self._options.name} ({purpose})", on_lost=self._lose)
        self._lines.append(line)
        await line.connect(self._connect_timeout)
        return line

    async def _channel(self, connection: AbstractConnection, **options: Any) -> AbstractChannel:
        async with asyncio.timeout(TIMEOUT):
            channel = await connection.channel(**options)
        channel.close_callbacks.add(lambda _, reason: self._lose(f"channel closed: {reason!r}"))
        return channel

    def _lose(self, reason: str) -> None:
        if not self._closing and not self.lost.done():
            self.lost.set_exception(BrokerLostError(reason))

    async def _declare(self) -> None:
        options = self._options
        await self._declare_queue(DEAD, DEAD_ARGUMENTS)
        guarded = {
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-max-length": options.queue_max_length,
            "x-overflow": "reject-publish",
            "x-delivery-limit": options.delivery_limit,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": DEAD,
            "x-dead-letter-strategy": "at-least-once",
            "x-consumer-timeout": CONSUMER_TIMEOUT_MS,
        }
        # In this order: as soon as clients find the exchange, whatever they send to it has a queue to go to.
        await self._declare_exchange(INGRESS, aio_pika.ExchangeType.FANOUT, {})
        await self._declare_queue(INGRESS, guarded, bind_to=INGRESS)
        await self._declare_exchange(COMMANDS, aio_pika.ExchangeType.DIRECT, {"alternate-exchange": INGRESS})
        for partition in range(options.partitions):
            await self._declare_queue(partition_queue(partition), guarded, bind_to=COMMANDS, routing_key=str(partition))
        await self._declare_exchange(EVENTS, aio_pika.ExchangeType.TOPIC, {})
        for store in options.stores:
            feed = options.feed.of(store)
            if feed.mode != "off" and feed.stream:
                stream = {
                    "x-queue-type": "stream",
                    "x-max-length-bytes": feed.stream_max_bytes,
                    "x-max-age": feed.stream_max_age,
                    # It is cut off in whole segments.
                    "x-stream-max-segment-size-bytes": max(1_000_000, min(100_000_000, feed.stream_max_bytes // 10)),
                }
                word = routing_word(store)
                await self._declare_queue(stream_queue(store), stream, bind_to=EVENTS, routing_key=f"{word}.*")
                self._streams[word] = stream_queue(store)

    async def _declare_exchange(self, name: str, kind: aio_pika.ExchangeType, arguments: dict[str, Any]) -> None:
        async with asyncio.timeout(TIMEOUT):
            channel = await self._consuming.channel()
            await channel.declare_exchange(name, kind, durable=True, arguments=arguments)
            await channel.close()

    async def _declare_queue(
        self, name: str, arguments: dict[str, Any], *, bind_to: str | None = None, routing_key: str = ""
    ) -> None:
        async with asyncio.timeout(TIMEOUT):
            channel = await self._consuming.channel()
            try:
                queue = await channel.declare_queue(name, durable=True, arguments=arguments)
            except ChannelPreconditionFailed as differs:
                # Arguments of a queue cannot be changed. What an operator declared stands; policies can tighten it.
                log.warning("queue %s exists with other arguments and is used as it is: %s", name, differs)
                channel = await self._consuming.channel()
                queue = await channel.declare_queue(name, durable=True, passive=True)
            if bind_to is not None:
                await queue.bind(bind_to, routing_key)
            await channel.close()

    async def consume(self, partitions: Callable[[Delivery, int], None], ingress: Callable[[Delivery], None]) -> None:
        """Begin to take messages, of every partition with this worker's priority for it.

        What the broker has against it, if anything, is told by ``lost``.

        :raises BrokerLostError: if something is lost on the way.
        """
        self._consuming_line.read_through(self.valve)
        with translated("consuming"):
            await self._unless_lost(self._consume_all(partitions, ingress))

    async def _consume_all(
        self, partitions: Callable[[Delivery, int], None], ingress: Callable[[Delivery], None]
    ) -> None:
        for partition in range(self._options.partitions):

            def take(delivery: Delivery, partition: int = partition) -> None:
                partitions(delivery, partition)

            await self._consume(partition_queue(partition), partition, take)
        await self._consume(INGRESS, INGRESS, ingress)

    async def _consume(self, queue: str, preferred: int | str, take: Callable[[Delivery], None]) -> None:
        # Not by way of aio-pika's own messages: they look at properties that are none of our business, and one that
        # they find wrong leaves its message unacknowledged for ever, without a word.
        async def on_message(message: DeliveredMessage) -> None:
            self._guard(lambda: take(Delivery.of(message, queue)))

        channel: Any = await self._inbound.get_underlay_channel()
        arguments: Any = {"x-priority": priority(self._options.name, preferred, reluctant=self.reluctant)}
        channel.consumers[queue] = on_message
        # The answer is not waited for: it would come behind whatever the queues before deliver, and that is not read
        # any faster than it is worked off. If there is anything wrong with it, the broker closes the channel.
        consume = Basic.Consume(queue=queue, consumer_tag=queue, arguments=arguments, nowait=True)
        await channel.rpc(consume, timeout=TIMEOUT)

    def _guard(self, take: Callable[[], None]) -> None:
        """A fault in taking a message ends the session loudly: the message would never be acknowledged."""
        try:
            take()
        except Exception as fault:
            log.exception("a message could not be taken")
            self._lose(f"a message could not be taken: {fault!r}")

    async def reply(self, body: bytes, *, to: str, correlation_id: str | None) -> None:
        """Publish a reply. A reply address that is gone loses it in silence, as AMQP has it."""
        message = aio_pika.Message(
            body,
            content_type="application/json",
            correlation_id=correlation_id,
            message_id=self._message_id(),
        )
        with translated("publishing a reply"):
            await self._replies.default_exchange.publish(message, to, mandatory=False)

    @property
    def has_alarm(self) -> bool:
        """Whether the broker has said that it takes no messages until further notice."""
        return self._publishing_line.has_alarm

    async def tell(self, publication: Publication, patience: float) -> None:
        """Publish to an exchange that others read, and wait for the confirm.

        :raises RefusedError: if the broker does not take it.
        :raises SilentError: if it neither takes nor refuses it for so many seconds.
        """
        with translated("publishing", passing=(RefusedError,)):
            await self._outlets.tell((publication, self._told(publication)), patience)

    async def ask(self, publication: Publication, patience: float) -> None:
        """As ``tell``, but hold up nothing else with it."""
        with translated("publishing", passing=(RefusedError,)):
            await self._outlets.ask((publication, self._told(publication)), patience)

    async def keep(self, publications: Sequence[Publication]) -> None:
        """Put messages of the change feed into the streams to which they would come by the exchange, in order, and
        wait for the confirms. Where there is no stream, nothing is done.
        """
        kept = [(each, stream) for each in publications if (stream := self._stream_of(each)) is not None]
        keeping = [self._publish_confirmed(self._confirmed, self._told(each), stream) for each, stream in kept]
        with translated("publishing into a stream"):
            for (_, stream), result in zip(kept, await asyncio.gather(*keeping, return_exceptions=True), strict=True):
                if isinstance(result, DeliveryError):
                    log.warning("the stream %s does not take an event, or is not there: %r", stream, result)
                elif isinstance(result, BaseException):
                    raise result

    def _stream_of(self, publication: Publication) -> str | None:
        store, dot, _ = publication.routing_key.partition(".")
        return self._streams.get(store) if dot else None

    def _told(self, publication: Publication) -> aio_pika.Message:
        return aio_pika.Message(
            publication.body,
            content_type=publication.content_type,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=publication.message_id or self._message_id(),
            headers=dict(publication.headers),
        )

    async def bury(self, delivery: Delivery, body: bytes, *, reason: str, detail: str, again: bool = False) -> None:
        """Put a body into the dead letter queue, with the reason and what it takes to send it again in the headers.

        What was replayed from there stands there still, and is not put there a second time, unless it is to be.
        """
        if replayed(delivery) and not again:
            log.warning("a dead letter that was replayed failed again, and stays where it is: %s", reason)
            return
        message = aio_pika.Message(
            body,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=delivery.message_id or self._message_id(),
            correlation_id=delivery.correlation_id,
            headers=burial_headers(delivery, reason=reason, detail=detail, now=time.time_ns() // 1_000_000),
        )
        with translated("publishing a dead letter"):
            await self._publish_confirmed(self._confirmed, message, DEAD)

    async def forward(self, delivery: Delivery, partition: int, body: bytes) -> None:
        """Send commands to the queue they belong to, with everything that tells who sent them and who waits.

        :raises aio_pika.exceptions.DeliveryError: if the queue does not take them.
        :raises CannotKeepAuthorError: if they are another's than the account's, which has no right to pass such on.
        """
        message = aio_pika.Message(
            body,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            # It becomes the id of a command that has none, so it must be unique for ever. The parts of an array need
            # different ones: by it the driver tells which message was returned.
            message_id=(not delivery.is_array and delivery.message_id) or str(uuid_utils.uuid7()),
            correlation_id=delivery.correlation_id,
            reply_to=delivery.reply_to,
            user_id=delivery.author,
            headers={HOP_HEADER: 1, **replayed(delivery)},
        )
        queue, author = partition_queue(partition), delivery.author
        with translated("forwarding", passing=(DeliveryError, CannotKeepAuthorError)):
            if author not in self._may_publish_as:
                async with self._trying:
                    if author not in self._may_publish_as:
                        await self._forward_on_trial(message, queue)
                        return
            if not self._may_publish_as[author]:
                raise CannotKeepAuthorError(f"this account may not publish as {author!r}")
            await self._publish_confirmed(self._confirmed, message, queue)

    async def _forward_on_trial(self, message: aio_pika.Message, queue: str) -> None:
        """Forward on a channel of its own, since the broker closes the channel if the account may not."""
        author = message.user_id
        opening = self._publishing.channel(publisher_confirms=True, on_return_raises=True)
        channel = await self._unless_stuck(opening)
        try:
            await self._publish_confirmed(channel, message, queue)
        except ChannelPreconditionFailed as refused:
            log.warning("commands of %r cannot be forwarded: the tag impersonator is missing (%s)", author, refused)
            self._may_publish_as[author] = False
            raise CannotKeepAuthorError(f"this account may not publish as {author!r}") from None
        except DeliveryError:
            self._may_publish_as[author] = True
            raise
        self._may_publish_as[author] = True
        await channel.close()

    async def _publish_confirmed(self, channel: AbstractChannel, message: aio_pika.Message, queue: str) -> None:
        await self._unless_stuck(channel.default_exchange.publish(message, queue, mandatory=True))

    async def _unless_stuck(self, work: Awaitable[T]) -> T:
        """Wait for an answer to something that is published, for as long as an alarm lasts.

        :raises TimeoutError: if there is none, and no alarm that explains it. The session is over then.
        """
        try:
            return await answer_to(asyncio.ensure_future(work), CONFIRM_TIMEOUT, lambda: self.has_alarm)
        except SilentError as silence:
            # Nor would there be one to a goodbye.
            for line in self._lines:
                line.cut()
            raise TimeoutError(str(silence)) from None

    async def check(self) -> None:
        """Return if a message can be put into a queue: the broker is there, and so are enough of its nodes.

        :raises BrokerLostError: if not.
        """
        # A message without commands: whoever gets it has nothing to do.
        message = aio_pika.Message(b"[]", content_type="application/json", message_id=self._message_id())
        with translated("checking the broker", passing=(DeliveryError,)), suppress(DeliveryError):
            # A full queue is one that answers.
            await self._publish_confirmed(self._confirmed, message, partition_queue(0))

    async def sweep(self, store: str, partition: int, body: bytes) -> None:
        """Send keys whose time has come to their partition, in this account's own name: nobody else's are looked at.

        :raises aio_pika.exceptions.DeliveryError: if the queue does not take them.
        """
        message = aio_pika.Message(
            body,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=self._message_id(),
            user_id=self.account,
            headers={SWEEP_HEADER: store},
        )
        with translated("sweeping", passing=(DeliveryError,)):
            await self._publish_confirmed(self._confirmed, message, partition_queue(partition))

    async def acknowledge(self, tag: int, *, multiple: bool) -> None:
        """Acknowledge one delivery, or all up to it."""
        with translated("acknowledging"):
            channel = await self._inbound.get_underlay_channel()
            await channel.basic_ack(tag, multiple=multiple, wait=False)

    def _message_id(self) -> str:
        # The driver would make a UUID for a message without one.
        self._counter += 1
        return f"{self._options.name}-{self._counter}"

    async def close(self) -> None:
        """Close the connections. The broker hands what was not acknowledged to the next owner."""
        self._closing = True
        if not self.lost.done():
            self.lost.cancel()
        elif not self.lost.cancelled():
            self.lost.exception()
        await asyncio.gather(*(line.hang_up() for line in self._lines))
        for closing in list(self._leaving):
            closing.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
