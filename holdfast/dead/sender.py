"""Sending commands again, in the name of whoever sent them first, and waiting for what becomes of them."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aio_pika
import orjson
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage
from aio_pika.exceptions import ChannelPreconditionFailed, DeliveryError

from ..events import DeniedError, InvalidError, OutcomeUnknown, Reply, Unavailable, decode_replies, partition_of
from ..events.topology import COMMANDS, REPLAY_HEADER
from ..events.urls import amqp_urls
from .connection import LostError, connected, translated

#: Seconds for an answer of the broker.
TIMEOUT: Final = 15.0

NEEDED: Final = f"write to {COMMANDS}, and to have a queue of its own for replies"


class NotInTheirNameError(DeniedError):
    """The broker does not let this user send in the name of another."""


@dataclass(slots=True)
class _Voice:
    """A channel for the messages of one author: one that may not be named ends its channel, and nobody else's."""

    channel: AbstractChannel
    exchange: AbstractExchange
    #: Until the broker has taken the first message, nothing else is sent on it.
    proving: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: Whether the broker lets the author be named; None as long as nobody has tried.
    allowed: bool | None = None


@asynccontextmanager
async def open_sender(url: str, *, timeout: float) -> AsyncIterator["Sender"]:
    """A sender to a service that runs.

    :param url: AMQP URL of the broker.
    :param timeout: seconds to wait for each answer of a worker.
    :raises Unavailable: if the broker cannot be reached, or no worker answers.
    :raises DeniedError: if the user may not send commands.
    """
    async with connected(url, "replay") as connection:
        sender = Sender(connection, user=amqp_urls(url)[0].user or "guest", timeout=timeout)
        await sender.open()
        yield sender


class Sender:
    """Sends commands one by one, many at a time, and matches what comes back."""

    def __init__(self, connection: AbstractConnection, *, user: str, timeout: float) -> None:
        self._connection = connection
        #: Seconds to wait for each answer of a worker.
        self.timeout = timeout
        #: Whom the connection belongs to.
        self.user = user
        self._partitions = 1
        #: Service time less the local clock, in milliseconds.
        self._clock_offset = 0.0
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._voices: dict[str | None, _Voice] = {}
        self._opening = asyncio.Lock()
        connection.close_callbacks.add(lambda *_: self._lose())

    async def open(self) -> None:
        """Get a queue for replies, and ask where commands go."""
        with translated(NEEDED):
            async with asyncio.timeout(TIMEOUT):
                self._inbound = await self._connection.channel(publisher_confirms=False)
                queue = await self._inbound.declare_queue("", exclusive=True, auto_delete=True)
                await queue.consume(self._on_message, no_ack=True)
                self._reply_to = queue.name
        try:
            described = await self.ask({"op": "describe", "v": 1, "id": "describe"}, author=self.user)
        except OutcomeUnknown:
            raise Unavailable("no worker answers. Start one with `holdfast worker`") from None
        if described.status != "ok" or not described.partitions or described.time is None:
            raise Unavailable(f"no worker describes the service: {described.error or described.status}")
        self._partitions = described.partitions
        self._clock_offset = described.time - time.monotonic() * 1000

    def now(self) -> int:
        """Service time, in milliseconds."""
        return int(time.monotonic() * 1000 + self._clock_offset)

    async def ask(self, command: dict[str, Any], *, author: str | None, letter: str | None = None) -> Reply:
        """Send a command, and wait for its answer.

        :param author: in whose name; None for nobody's.
        :param letter: the dead letter that it comes from, and that stays where it is until the answer is there.
        :raises NotInTheirNameError: if the broker does not let this user name the author. Nothing was sent.
        :raises Unavailable: if the broker did not take it: certainly not applied.
        :raises OutcomeUnknown: if no answer came in time.
        """
        number = str(next(self._numbers))
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        # Told also to those who have given up waiting.
        reply.add_done_callback(lambda told: told.cancelled() or told.exception())
        self._waiting[number] = reply
        message = aio_pika.Message(
            orjson.dumps(command),
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            correlation_id=number,
            reply_to=self._reply_to,
            user_id=author,
            headers={REPLAY_HEADER: letter} if letter else None,
        )
        key, store = command.get("key"), command.get("store", "default")
        partition = 0 if key is None else partition_of(store, key, self._partitions)
        try:
            async with asyncio.timeout(self.timeout):
                await self._publish(message, str(partition), author)
                return await reply
        except TimeoutError:
            raise OutcomeUnknown(f"no answer within {self.timeout:g} s", id=command["id"]) from None
        except LostError:
            raise OutcomeUnknown("the connection to the broker was lost", id=command["id"]) from None
        finally:
            del self._waiting[number]

    async def _publish(self, message: aio_pika.Message, routing_key: str, author: str | None) -> None:
        with translated(NEEDED):
            async with self._opening:
                voice = self._voices.get(author)
                if voice is None:
                    channel = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
                    exchange = await channel.get_exchange(COMMANDS, ensure=False)
                    voice = self._voices[author] = _Voice(channel, exchange)
            async with voice.proving:
                if voice.allowed is None:
                    voice.allowed = await self._say(voice, message, routing_key)
                    if voice.allowed:
                        return
            if not voice.allowed:
                raise NotInTheirNameError(f"the broker does not let {self.user!r} send in the name of {author!r}")
            await self._say(voice, message, routing_key)

    async def _say(self, voice: _Voice, message: aio_pika.Message, routing_key: str) -> bool:
        """Publish. Gives back whether the author may be named; if not, nothing was published."""
        try:
            await voice.exchange.publish(message, routing_key, mandatory=True)
        except DeliveryError:
            raise Unavailable("the broker does not take it: its queue is full, or gone") from None
        except ChannelPreconditionFailed:
            if voice.allowed:
                raise
            return False
        return True

    def _lose(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(LostError("the connection to the broker was lost"))

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        try:
            (reply,) = decode_replies(message.body)
        except (InvalidError, ValueError):
            return
        waiting = self._waiting.get(message.correlation_id or "")
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)
