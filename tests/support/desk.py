"""A worker's session without a broker: messages are put into its hands, and what it replies is given back."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from holdfast.events import Topology
from holdfast.stores import MemoryStore
from holdfast.worker import AccessConfig, Engine, WorkerOptions
from holdfast.worker.access import OPEN
from holdfast.worker.delivery import Delivery
from holdfast.worker.session import Session

from .commands import NOW
from .deliveries import RememberingBroker, delivery


class Desk:
    """A session on a log in memory, and what it does with messages."""

    def __init__(self, access: AccessConfig, partitions: int) -> None:
        self.broker = RememberingBroker(tags=10_000)
        self.broker.lost = asyncio.get_running_loop().create_future()  # type: ignore[attr-defined]
        self.broker.consume = self._consume  # type: ignore[attr-defined]
        self.broker.forward = self._forward  # type: ignore[attr-defined]
        self.forwarded: list[Delivery] = []
        self.store = MemoryStore(clock=lambda: NOW)
        self.engine = Engine(self.store, service_time=lambda: NOW)
        self.tags = itertools.count(1)
        self.ready = asyncio.Event()
        self.session = Session(
            self.broker,  # type: ignore[arg-type]
            engines={"default": self.engine},
            topology=Topology(partitions=partitions),
            options=WorkerOptions(amqp_url="amqp://nowhere/", partitions=partitions, access=access),
            service_time=lambda: NOW,
        )

    async def _consume(self, take: Callable[[Delivery, int], None], ingress: Callable[[Delivery], None]) -> None:
        self.take, self.take_from_ingress = take, ingress

    async def _forward(self, passed: Delivery, _: int, body: bytes) -> None:
        self.forwarded.append(delivery(body, author=passed.author, hopped=True))

    async def idle(self) -> None:
        """Wait until all that was delivered is done."""
        while not self.session._arrived.empty():  # noqa: ASYNC110 - a queue does not tell it
            await asyncio.sleep(0)
        await self.session._outbox.idle()

    async def ask(self, command: Any, author: str | None, *, partition: int = 0, **fields: Any) -> Any:
        """Deliver a message and give back what is replied: an object, or all of the replies to an array."""
        before, acknowledged = len(self.broker.replies), len(self.broker.acknowledged)
        self.take(delivery(command, tag=next(self.tags), author=author, **fields), partition)
        # A large one is read in a thread.
        await self.broker.until_so_many_acknowledged(acknowledged + 1)
        await self.idle()
        bodies = [body for _, _, body in self.broker.replies[before:]]
        if isinstance(command, list):
            return [reply for body in bodies for reply in body]
        assert len(bodies) <= 1
        return bodies[0] if bodies else None


@asynccontextmanager
async def opened_desk(access: AccessConfig, *, partitions: int = 1) -> AsyncIterator[Desk]:
    made = Desk(access, partitions)
    await made.store.open()
    running = asyncio.ensure_future(made.session.run(asyncio.Event(), on_ready=made.ready.set))
    await made.ready.wait()
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def desk(access: AccessConfig = OPEN, *, partitions: int = 1) -> AbstractAsyncContextManager[Desk]:
    """As ``opened_desk``; open to everybody unless there are rules."""
    return opened_desk(access, partitions=partitions)
