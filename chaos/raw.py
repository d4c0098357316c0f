"""A client without any of our code: messages as they come, to any routing key, with any properties."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, TypeVar

import aio_pika
import orjson
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange, AbstractIncomingMessage
from aio_pika.exceptions import AMQPError

from holdfast.events.urls import amqp_urls


class RawClient:
    """Publishes with confirms, and collects replies by command id."""

    def __init__(self, channel: AbstractChannel, exchange: AbstractExchange, reply_to: str) -> None:
        self._channel = channel
        self._exchange = exchange
        self.reply_to = reply_to
        #: All replies to each id, in the order in which they came.
        self.replies: dict[str, list[dict[str, Any]]] = {}
        #: Set when the connection or a channel of it is gone.
        self.lost = asyncio.Event()
        self._news = asyncio.Condition()

    async def send(self, commands: Any, key: str = "any", *, reply: bool = True, **properties: Any) -> None:
        """Publish a command, an array of them, or bytes.

        :raises aio_pika.exceptions.DeliveryError: if the broker does not take it.
        """
        body = commands if isinstance(commands, bytes) else orjson.dumps(commands)
        address = self.reply_to if reply else None
        message = aio_pika.Message(body, reply_to=address, delivery_mode=2, **properties)
        await self._exchange.publish(message, key)

    async def on_message(self, message: AbstractIncomingMessage) -> None:
        """Take a message of replies."""
        data = orjson.loads(message.body)
        async with self._news:
            for reply in data if isinstance(data, list) else [data]:
                self.take(reply)
            self._news.notify_all()

    def take(self, reply: dict[str, Any]) -> None:
        """Take one reply."""
        self.replies.setdefault(reply["id"], []).append(reply)

    async def answers(self, *ids: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until each of these ids has so many replies, and give the last one of each."""
        async with self._news:
            await self._news.wait_for(lambda: all(len(self.replies.get(id_, ())) >= count for id_ in ids))
        return [self.replies[id_][-1] for id_ in ids]


Kind = TypeVar("Kind", bound=RawClient)


def raw_client(amqp_url: str) -> AbstractAsyncContextManager[RawClient]:
    """A raw client on a broker where a worker has been."""
    return connected(amqp_url, RawClient)


async def connect(amqp_url: str) -> AbstractConnection:
    """A connection to the first of the URLs that takes one.

    :raises Exception: what the last one failed with, if none does.
    """
    *others, last = amqp_urls(amqp_url)
    for url in others:
        with suppress(OSError, AMQPError):
            return await aio_pika.connect(url)
    return await aio_pika.connect(last)


@asynccontextmanager
async def connected(amqp_url: str, kind: type[Kind]) -> AsyncIterator[Kind]:
    """A raw client of one's own kind."""
    connection = await connect(amqp_url)
    async with connection:
        channel = await connection.channel(on_return_raises=True)
        exchange = await channel.get_exchange("holdfast.commands")
        queue = await channel.declare_queue("", exclusive=True)
        client = kind(channel, exchange, queue.name)
        for closable in (connection, channel):
            closable.close_callbacks.add(lambda *_: client.lost.set())
        await queue.consume(client.on_message, no_ack=True)
        yield client
