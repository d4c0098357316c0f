"""The link to the broker: one connection at a time, made again when it breaks, with a reply queue of its own.

Every connection gets a fresh reply queue: a name that outlives its connection is locked until the broker has
noticed the old one's end.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError, AuthenticationError, ProbableAuthenticationError
from yarl import URL

from ..events import InvalidError, Reply, Unavailable, decode_replies
from ..events.topology import COMMANDS
from ..events.urls import mask_url

log = logging.getLogger(__name__)

#: Seconds for one attempt to connect.
CONNECT_TIMEOUT = 10.0
#: Seconds between attempts at most.
MAX_PAUSE = 5.0
HEARTBEAT = 10


class Link:
    """Keeps a connection up until it is closed."""

    def __init__(
        self,
        url: str,
        *,
        name: str,
        on_up: Callable[[], None],
        on_replies: Callable[[list[Reply]], None],
    ) -> None:
        parsed = URL(url)
        self._user = parsed.user or "guest"
        self._url = parsed.update_query({"heartbeat": str(HEARTBEAT), **parsed.query})
        self._masked = mask_url(url)
        self._name = name
        self._on_up = on_up
        self._on_replies = on_replies
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None
        self._exchange: AbstractExchange | None = None
        self._reply_to = ""
        self._keeper: asyncio.Task[None] | None = None
        self._lost: asyncio.Future[str] | None = None
        self._messages = 0
        #: Counts connections, so that what belongs to an earlier one can be told.
        self.generation = 0
        self.up = False

    async def open(self) -> None:
        """Connect once, then stay connected in the background.

        :raises Unavailable: if the broker cannot be reached or refuses the login.
        """
        try:
            await self._connect()
        except (AuthenticationError, ProbableAuthenticationError) as refused:
            raise Unavailable(f"{self._masked} refused the login: {type(refused).__name__}") from None
        except (AMQPError, OSError, TimeoutError) as fault:
            raise Unavailable(f"cannot connect to {self._masked}: {type(fault).__name__}") from None
        self._keeper = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Disconnect. What is in flight is not waited for."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._disconnect()

    async def publish(self, partition: int, body: bytes) -> None:
        """Publish one message of commands, and wait for the broker's confirm.

        :raises aio_pika.exceptions.DeliveryError: if the broker refuses it, or has no queue for it.
        :raises AMQPError, OSError, RuntimeError: if the connection is lost; whether it arrived is unknown.
        """
        assert self._exchange is not None  # noqa: S101 - callers check ``up`` in the same turn of the loop
        self._messages += 1
        message = aio_pika.Message(
            body,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            reply_to=self._reply_to,
            user_id=self._user,
            message_id=f"{self._name}-{self._messages}",
        )
        await self._exchange.publish(message, str(partition), mandatory=True)

    async def _connect(self) -> None:
        lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def lose(reason: str) -> None:
            self.up = False
            if not lost.done():
                lost.set_result(reason)

        properties: Any = {"connection_name": f"holdfast client {self._name}"}
        connection = await aio_pika.connect(self._url, timeout=CONNECT_TIMEOUT, client_properties=properties)
        self._connection = connection
        connection.close_callbacks.add(lambda _, reason: lose(f"connection closed: {reason}"))
        async with asyncio.timeout(CONNECT_TIMEOUT):
            channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            channel.close_callbacks.add(lambda _, reason: lose(f"channel closed: {reason}"))
            inbound = await connection.channel(publisher_confirms=False)
            inbound.close_callbacks.add(lambda _, reason: lose(f"reply channel closed: {reason}"))
            queue = await inbound.declare_queue("", exclusive=True, auto_delete=True)
            await queue.consume(self._on_message, no_ack=True)
            underlay = await inbound.get_underlay_channel()
            underlay.on_consumer_cancel_callbacks.add(lambda _: lose("the reply queue is gone"))
        # Kept: the connection holds its channels by weak references.
        self._channels = (channel, inbound)
        self._exchange = await channel.get_exchange(COMMANDS, ensure=False)
        self._reply_to = queue.name
        self._lost = lost
        self.generation += 1
        self.up = not lost.done()

    async def _on_message(self, message: AbstractIncomingMessage) -> None:
        try:
            replies = decode_replies(message.body)
        except InvalidError as fault:
            log.warning("a message on the reply queue is no reply: %s", fault)
            return
        self._on_replies(replies)

    async def _keep(self) -> None:
        while True:
            assert self._lost is not None  # noqa: S101
            reason = await self._lost
            log.warning("link to %s lost: %s", self._masked, reason)
            await self._disconnect()
            await self._reconnect()
            log.info("link to %s is up again", self._masked)
            self._on_up()

    async def _reconnect(self) -> None:
        attempts = 0
        while True:
            # Jittered, so that clients that lost one broker do not come back as one.
            await asyncio.sleep(random.uniform(0.5, 1.0) * min(MAX_PAUSE, 0.05 * 2**attempts))  # noqa: S311
            attempts += 1
            try:
                await self._connect()
            except (AMQPError, OSError, TimeoutError, RuntimeError) as fault:
                log.info("no link to %s yet: %s", self._masked, type(fault).__name__)
                await self._disconnect()
            else:
                return

    async def _disconnect(self) -> None:
        self.up = False
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                async with asyncio.timeout(5):
                    await connection.close()
            except (AMQPError, OSError, TimeoutError, RuntimeError) as fault:
                log.debug("closing the connection: %r", fault)
