"""An echo over RabbitMQ without any storage: one message per request and one per reply, through a quorum queue."""

import asyncio
import uuid
from typing import Any

import aio_pika
import orjson
from aio_pika.abc import AbstractIncomingMessage

from .load import Operation
from .side import Options, Side, run_side

_QUEUE = "benchmark.echo"
_PREFETCH = 1024


class EchoService(Side):
    """The process that answers: takes a message, sends its body back, acknowledges it."""

    async def open(self, options: Options) -> None:
        """Declare the queue, and answer from now on."""
        self._connection = await aio_pika.connect(options["amqp_url"])
        inbound = await self._connection.channel(publisher_confirms=False)
        outbound = await self._connection.channel(publisher_confirms=False)
        self._channels = (inbound, outbound)
        await inbound.set_qos(prefetch_count=_PREFETCH)
        queue = await inbound.declare_queue(_QUEUE, durable=True, arguments={"x-queue-type": "quorum"})

        async def answer(message: AbstractIncomingMessage) -> None:
            reply = aio_pika.Message(message.body, correlation_id=message.correlation_id)
            await outbound.default_exchange.publish(reply, message.reply_to or "")
            await message.ack()

        await queue.consume(answer)

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close()


class EchoSide(Side):
    """The process that asks: persistent messages, publisher confirms, an exclusive queue for replies."""

    async def open(self, options: Options) -> None:
        """Connect."""
        self._waiting: dict[str, asyncio.Future[bytes]] = {}
        self._publishing: set[asyncio.Task[Any]] = set()
        self._connection = await aio_pika.connect(options["amqp_url"])
        self._outbound = await self._connection.channel(publisher_confirms=True, on_return_raises=True)
        self._inbound = await self._connection.channel(publisher_confirms=False)
        replies = await self._inbound.declare_queue("", exclusive=True, auto_delete=True)
        self._reply_to = replies.name

        async def take(message: AbstractIncomingMessage) -> None:
            asked = self._waiting.pop(message.correlation_id or "", None)
            if asked is not None and not asked.done():
                asked.set_result(message.body)

        await replies.consume(take, no_ack=True)

    async def close(self) -> None:
        """Disconnect."""
        await self._connection.close()

    def operation(self, name: str, options: Options) -> Operation:
        """``echo``: publish a value and wait for its reply. The confirm is awaited too, but beside that."""
        if name != "echo":
            return super().operation(name, options)
        loop = asyncio.get_running_loop()
        bodies = self.values

        async def echo() -> None:
            asked: asyncio.Future[bytes] = loop.create_future()
            correlation = str(uuid.uuid4())
            self._waiting[correlation] = asked
            message = aio_pika.Message(
                orjson.dumps(next(bodies)),
                content_type="application/json",
                delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                reply_to=self._reply_to,
                correlation_id=correlation,
            )
            publishing = loop.create_task(self._outbound.default_exchange.publish(message, _QUEUE, mandatory=True))
            self._publishing.add(publishing)
            publishing.add_done_callback(self._published)
            async with asyncio.timeout(30):
                await asked

        return echo

    def _published(self, publishing: "asyncio.Task[Any]") -> None:
        self._publishing.discard(publishing)
        if not publishing.cancelled() and (fault := publishing.exception()) is not None:
            for asked in self._waiting.values():
                if not asked.done():
                    asked.set_exception(fault)


if __name__ == "__main__":
    import sys

    run_side(EchoService if sys.argv[1:] == ["service"] else EchoSide)
