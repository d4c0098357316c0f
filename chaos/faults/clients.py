"""Clients that are killed, that ask too much at once, that do not take their answers, and messages that come again."""

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any
from uuid import uuid4

import aio_pika
import orjson
import pika  # type: ignore[import-untyped]

import holdfast
from holdfast.events import partition_of
from holdfast.events.topology import COMMANDS
from holdfast.events.urls import amqp_urls

from ..cluster import Cluster, patiently
from ..crowd import Crowd
from ..history import Recorder
from ..raw import connect
from . import Fault

#: Calls of one client at the same time, …
CALLS = 10_000
#: … and how many of them it has in flight.
IN_FLIGHT = 2_000
#: Seconds that each may take: as long as any other fault at the same time lasts.
CALL_TIMEOUT = 60.0

#: What is asked for and never taken: bytes of a value, values, and how often all of them are read.
LARGE_VALUE = 256 * 1024
LARGE_VALUES = 16
LARGE_READS = 16

#: Seconds for which it does not listen.
HOLDING = 5.0
#: Seconds for which messages are copied.
COPYING = 5.0


class ClientKilled(Fault):
    """SIGKILL to a client process in the middle of its calls. Another one goes on where it was."""

    name = "a client killed"

    def __init__(self, crowd: Crowd, random: Random) -> None:
        self._crowd = crowd
        self._random = random
        self._killed: list[Any] = []

    async def strike(self) -> None:
        """Kill."""
        client = self._random.choice(self._crowd.living)
        self._killed.append(client)
        await self._crowd.kill(client)

    async def heal(self) -> None:
        """Start others."""
        while self._killed:
            await self._crowd.replace(self._killed.pop())


class TenThousandCalls(Fault):
    """One client is called ten thousand times at once, which is more than it may have in flight: the others wait."""

    name = "ten thousand calls at once"

    def __init__(self, cluster: Cluster, recorder: Recorder) -> None:
        self._cluster = cluster
        self._recorder = recorder

    async def strike(self) -> None:
        """Call, and wait until every call has its outcome."""
        client = holdfast.connect(self._cluster.amqp_url, timeout=CALL_TIMEOUT, max_in_flight=IN_FLIGHT)
        name = f"ten-thousand-{uuid4()}"
        await patiently(client.open)
        try:
            await asyncio.gather(*(self._save(client, name, number) for number in range(CALLS)))
        finally:
            await client.close()

    async def _save(self, client: holdfast.Client, name: str, number: int) -> None:
        key, value = f"{name}-{number % 500}", f"{name}.{number}"
        call = self._recorder.invoke(client=name, id=value, key=key, op="save", value=value)
        try:
            entry = await client.save(key, value, id=value)
        except holdfast.HoldfastError as error:
            self._recorder.failed(call, error)
        else:
            self._recorder.ok(call, exists=True, version=entry.version, etag=entry.etag, value=entry.value)

    async def heal(self) -> None:
        """Nothing is left of it."""


class SlowConsumer(Fault):
    """Somebody reads large values again and again, and takes none of the answers: his connection is not read."""

    name = "a slow consumer of replies"

    def __init__(self, cluster: Cluster, recorder: Recorder) -> None:
        self._cluster = cluster
        self._recorder = recorder
        #: Connections that are not read.
        self._deaf: list[Any] = []

    async def strike(self) -> None:
        """Save large values, ask for them, and do not listen."""
        name = f"slow-{uuid4()}"
        async with asyncio.timeout(CALL_TIMEOUT), _client(self._cluster) as client:
            keys = [f"{name}-{number}" for number in range(LARGE_VALUES)]
            for key in keys:
                value = f"{key}." + "x" * LARGE_VALUE
                call = self._recorder.invoke(client=name, id=key, key=key, op="save", value=value)
                try:
                    entry = await client.save(key, value, id=key)
                except holdfast.HoldfastError as error:
                    self._recorder.failed(call, error)
                else:
                    self._recorder.ok(call, exists=True, version=entry.version, etag=entry.etag, value=value)
        await patiently(lambda: self._ask(keys))
        await asyncio.sleep(HOLDING)

    async def _ask(self, keys: list[str]) -> None:
        urls = [str(url.update_query(heartbeat="0")) for url in amqp_urls(self._cluster.amqp_url)]
        # It takes the first node that there is.
        parameters = [pika.URLParameters(url) for url in urls]
        self._deaf.append(await asyncio.to_thread(pika.BlockingConnection, parameters))
        channel = self._deaf[-1].channel()
        replies = channel.queue_declare("", exclusive=True).method.queue
        # It reads its socket only while one of its methods is called, and none is from here on.
        channel.basic_consume(replies, lambda *_: None, auto_ack=True)
        asking = await connect(self._cluster.amqp_url)
        async with asking:
            exchange = await (await asking.channel()).get_exchange(COMMANDS)
            for number in range(LARGE_READS):
                for key in keys:
                    body = orjson.dumps({"op": "read", "key": key, "id": f"{key}-{number}"})
                    partition = str(partition_of("default", key, self._cluster.partitions))
                    await exchange.publish(aio_pika.Message(body, reply_to=replies), partition)

    async def heal(self) -> None:
        """Hang up."""
        while self._deaf:
            connection = self._deaf.pop()
            with suppress(pika.exceptions.AMQPError):
                await asyncio.to_thread(connection.close)


class MessagesCopied(Fault):
    """For some seconds every message of commands is published a second time, as it is, a moment later."""

    name = "messages come twice"

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def strike(self) -> None:
        """Copy."""
        await patiently(self._copy)

    async def _copy(self) -> None:
        connection = await connect(self._cluster.amqp_url)
        async with connection:
            channel = await connection.channel()
            exchange = await channel.get_exchange(COMMANDS)
            copies = await channel.declare_queue("", exclusive=True)
            for partition in range(self._cluster.partitions):
                await copies.bind(exchange, str(partition))
            await asyncio.sleep(COPYING)
            for partition in range(self._cluster.partitions):
                await copies.unbind(exchange, str(partition))
            copied = 0
            while (message := await copies.get(no_ack=True, fail=False)) is not None:
                again = aio_pika.Message(
                    message.body,
                    delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
                    reply_to=message.reply_to,
                    correlation_id=message.correlation_id,
                    message_id=message.message_id,
                    user_id=message.user_id,
                    headers=message.headers,
                )
                await exchange.publish(again, message.routing_key or "")
                copied += 1
            if not copied:
                raise RuntimeError("there was no message to copy")

    async def heal(self) -> None:
        """Nothing is left of it."""


@asynccontextmanager
async def _client(cluster: Cluster) -> Any:
    client = holdfast.connect(cluster.amqp_url, timeout=CALL_TIMEOUT)
    await patiently(client.open)
    try:
        yield client
    finally:
        await client.close()


def client_faults(cluster: Cluster, crowd: Crowd, recorder: Recorder, random: Random) -> list[Callable[[], Fault]]:
    """All of them, to be made when they are needed."""
    return [
        lambda: ClientKilled(crowd, random),
        lambda: TenThousandCalls(cluster, recorder),
        lambda: SlowConsumer(cluster, recorder),
        lambda: MessagesCopied(cluster),
    ]
