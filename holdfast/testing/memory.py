"""A whole service in this process: the engine as workers run it, on stores in memory, in a thread of its own."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from ..client import Client
from ..client.lifetime import Ttl
from ..client.options import ConnectOptions
from ..client.subscription import FeedMessage
from ..events import ClosedError, Reply, Topology
from ..events.topology import DEFAULT_STORE, FEED_HEADER
from ..stores import MemoryStore
from ..worker import AccessConfig, Engine, WorkerOptions
from ..worker.access import OPEN
from ..worker.feed import FeedsConfig
from ..worker.publication import Publication
from ..worker.session import Session
from .broker import DeadLetter, MemoryBroker
from .clock import Clock
from .faults import Faults
from .faulty import faulty
from .feed import MemoryFeed
from .link import MemoryLink
from .service import NO_LIFETIMES, Service, lifetimes_of, prefix_of
from .thread import ServiceThread

#: Seconds for the service to start or to end. Either takes milliseconds.
PATIENCE = 30.0
#: An address for what demands one.
NOWHERE = "amqp://memory/"


class MemoryService(Service):
    """A service without servers: the engine, its rules and its answers are those of a worker.

    It starts with the first client, within milliseconds, and keeps its state until it is closed, over any number of
    clients and event loops. What ends with it: durability, other processes, and what only servers do, such as losing
    a connection. ``faults`` brings some of that back.
    """

    def __init__(
        self,
        *,
        stores: Iterable[str] = (DEFAULT_STORE,),
        partitions: int = 4,
        access: AccessConfig = OPEN,
        faults: Faults | None = None,
        ttl: Mapping[str, Ttl] = NO_LIFETIMES,
    ) -> None:
        """Make a service that has not started yet.

        :param stores: names of its stores.
        :param ttl: of stores whose values live for a while: how long one does that is saved without saying it.
        :param access: who may do what.
        """
        super().__init__(faults)
        self.clock = Clock()
        self._stores = {name: MemoryStore(name=name, clock=self.clock.now) for name in stores}
        self._topology = Topology(partitions=partitions, stores=tuple(sorted(self._stores)))
        self._options = WorkerOptions(
            amqp_url=NOWHERE,
            name="memory",
            partitions=partitions,
            access=access,
            feed=FeedsConfig(stream=False),
            lifetimes=lifetimes_of(ttl, self._stores),
        )
        self._links: dict[str, MemoryLink] = {}
        self._feeds: set[MemoryFeed] = set()
        self._broker: MemoryBroker | None = None
        self._thread = ServiceThread(self._serve, name="holdfast-memory", patience=PATIENCE)

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """What could not be processed so far."""
        return list(self._broker.dead_letters) if self._broker is not None else []

    def advance(self, seconds: float) -> None:
        """Let so many seconds of service time pass at once: what expires by then has expired when this returns."""
        self.clock.advance(seconds)
        for link in list(self._links.values()):
            link.tell_time(self.clock.now())

    def start(self) -> None:
        """Start, if it has not started yet. The first client does it by itself."""
        if not self._thread.has_started:
            self._thread.start()
            if self._thread.has_failed:
                self.close()

    def close(self) -> None:
        """End it; its state is gone then. Repeating it is harmless.

        :raises BaseException: what the service failed with, if it did.
        """
        fault = self._thread.stop()
        self._links.clear()
        for feed in tuple(self._feeds):
            feed.end("the service in memory has ended")
        if fault is not None:
            raise fault

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        self.close()

    def _client(self, options: ConnectOptions, user: str | None) -> Client:
        self.start()

        def link(
            url: str,  # noqa: ARG001 - there is nothing to connect to
            *,
            name: str,  # noqa: ARG001
            on_up: Callable[[], None],
            on_replies: Callable[[list[Reply]], None],
            connect_timeout: float,  # noqa: ARG001
        ) -> MemoryLink:
            return MemoryLink(self, user=user, on_up=on_up, on_replies=on_replies)

        encryption = options.get("encryption")

        def rival() -> Client:
            return Client(NOWHERE, link=link, encryption=encryption)

        url = NOWHERE if user is None else NOWHERE.replace("//", f"//{quote(user, safe='')}@")
        maker = faulty(self.faults, link, rival=rival, encryption=encryption, prefix=prefix_of(options, url))
        return Client(url, link=maker, **options)

    # -- what links need

    def join(self, link: MemoryLink) -> None:
        """Let replies to its address go to a link."""
        self._links[link.address] = link

    def leave(self, link: MemoryLink) -> None:
        """Let them go nowhere."""
        self._links.pop(link.address, None)

    def publish(self, partition: int, body: bytes, *, reply_to: str, author: str | None) -> None:
        """Take one message of commands, from any thread."""
        broker = self._broker
        if broker is None or not self._thread.call_soon(
            lambda: broker.publish(partition, body, reply_to=reply_to, author=author)
        ):
            raise ClosedError("the service in memory has ended")

    def subscribe(self, bindings: Sequence[str]) -> MemoryFeed:
        """Follow the change feed, in the running event loop."""
        feed = MemoryFeed(bindings, on_close=self._feeds.discard)
        self._feeds.add(feed)
        return feed

    def _tell(self, publication: Publication) -> None:
        message = FeedMessage(str(publication.headers[FEED_HEADER]), publication.body)
        for feed in tuple(self._feeds):
            if feed.takes(publication.routing_key):
                feed.deliver(message)

    def _answer(self, address: str, body: bytes) -> None:
        link = self._links.get(address)
        if link is not None:
            link.deliver(body)

    # -- its thread

    async def _serve(self, on_ready: Callable[[], None], stopping: asyncio.Event) -> None:
        self._broker = MemoryBroker(self._answer, self._tell)
        for store in self._stores.values():
            await store.open()
        session = Session(self._broker, **self._parts())
        await session.run(stopping, on_ready=on_ready)

    def _parts(self) -> dict[str, Any]:
        engines = {
            name: Engine(
                store,
                service_time=self.clock.now,
                tells_values=True,
                lifetime=self._options.lifetimes.get(name),
            )
            for name, store in self._stores.items()
        }
        return {
            "engines": engines,
            "topology": self._topology,
            "options": self._options,
            "service_time": self.clock.now,
        }
