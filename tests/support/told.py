"""What queues and streams were told of the change feed, read by plain AMQP."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import orjson
from aio_pika.abc import AbstractIncomingMessage


class Told:
    """Takes messages of the feed, as docs/change-feed.md tells consumers to."""

    def __init__(self) -> None:
        #: Of each key the versions that were new when they came, in that order.
        self.versions: defaultdict[str, list[int]] = defaultdict(list)
        #: By exchange, how many messages came.
        self.by_exchange: defaultdict[str, int] = defaultdict(int)
        self._news = asyncio.Event()

    async def take(self, message: AbstractIncomingMessage) -> None:
        """Take one."""
        self.by_exchange[str(message.exchange)] += 1
        for event in orjson.loads(message.body):
            known = self.versions[event["data"]["key"]]
            if event["data"]["version"] > (known[-1] if known else 0):
                known.append(event["data"]["version"])
        await message.ack()
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it, as long as messages come."""
        async with asyncio.timeout(60):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def until_whole(self, newest: Mapping[str, int]) -> None:
        """Wait until these versions came, and see that none was left out before them."""
        await self.until(lambda: all(self.versions[key][-1:] >= [version] for key, version in newest.items()))
        assert {key: self.versions[key] for key in newest} == {
            key: list(range(1, version + 1)) for key, version in newest.items()
        }


@asynccontextmanager
async def reading(amqp_url: str, queue: str, **arguments: Any) -> AsyncIterator[Told]:
    """What comes out of a queue; out of a stream with ``x-stream-offset``, given with underlines."""
    told = Told()
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=100)
        source = await channel.get_queue(queue, ensure=False)
        given: Any = {name.replace("_", "-"): value for name, value in arguments.items()}
        await source.consume(told.take, arguments=given)
        yield told
