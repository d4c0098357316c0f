"""A service on real servers for one test: a worker in a thread of this process, or one that runs elsewhere."""

import asyncio
from collections.abc import Callable, Iterable, Mapping

from ..client import Client
from ..client.keyspace import Strategy
from ..client.lifetime import Ttl
from ..client.link import Link
from ..client.options import ConnectOptions
from ..events.topology import DEFAULT_STORE
from ..stores import EventStore, MongoStore
from ..worker import AccessConfig, Worker, WorkerOptions
from ..worker.access import OPEN
from .faults import Faults
from .faulty import faulty
from .service import NO_LIFETIMES, Service, lifetimes_of, prefix_of
from .thread import ServiceThread

#: Seconds for a worker to be ready, and to be gone.
PATIENCE = 60.0


class RunningService(Service):
    """A service that runs somewhere and goes on running. What a test leaves in it stays there."""

    def __init__(self, amqp_url: str, *, keys: Strategy | None = None, faults: Faults | None = None) -> None:
        """Use the service behind a broker.

        :param keys: which keys clients see that are not told otherwise.
        """
        super().__init__(faults)
        self._keys = keys
        self.amqp_url = amqp_url

    def _client(self, options: ConnectOptions, user: str | None) -> Client:
        if user is not None:
            raise RuntimeError("on real servers a user is whose name is in the address of the broker")
        self.start()

        encryption = options.get("encryption")

        def rival() -> Client:
            return Client(self.amqp_url, encryption=encryption)

        if self._keys is not None and "keys" not in options:
            options["keys"] = self._keys
        prefix = prefix_of(options, self.amqp_url)
        maker = faulty(self.faults, Link, rival=rival, encryption=encryption, prefix=prefix)
        return Client(self.amqp_url, link=maker, **options)

    def start(self) -> None:
        """Start, if it has not started yet: it has."""

    def advance(self, seconds: float) -> None:
        """Nobody turns the clock of a database."""
        raise RuntimeError(f"{seconds:g} s cannot pass at once on real servers: leave out this test there, or wait")

    def close(self) -> None:
        """Leave it alone."""


class ServerService(RunningService):
    """A worker of its own on real servers, which starts with the first client."""

    def __init__(
        self,
        amqp_url: str,
        mongo_url: str,
        *,
        stores: Iterable[str] = (DEFAULT_STORE,),
        partitions: int = 4,
        access: AccessConfig = OPEN,
        faults: Faults | None = None,
        ttl: Mapping[str, Ttl] = NO_LIFETIMES,
        discard: Callable[[], None] | None = None,
    ) -> None:
        """Make a service that has not started yet.

        :param amqp_url: a virtual host for this service alone.
        :param mongo_url: a database likewise.
        :param stores: names of its stores, all in that database.
        :param ttl: of stores whose values live for a while: how long one does that is saved without saying it.
        :param discard: called when it has ended.
        """
        super().__init__(amqp_url, faults=faults)
        self._names = tuple(stores)
        self._mongo_url = mongo_url
        self._options = WorkerOptions(
            amqp_url=amqp_url,
            partitions=partitions,
            access=access,
            lifetimes=lifetimes_of(ttl, self._names),
            head_cache_bytes=2**20,
            value_cache_bytes=2**20,
        )
        self._discard = discard
        self._thread = ServiceThread(self._serve, name="holdfast-worker", patience=PATIENCE)

    def start(self) -> None:
        """Start the worker, and return when it is ready."""
        if not self._thread.has_started:
            self._thread.start()
            if self._thread.has_failed:
                self.close()

    def close(self) -> None:
        """Let the worker drain and end. Repeating it is harmless.

        :raises BaseException: what the worker failed with, if it did.
        """
        fault = self._thread.stop()
        discard, self._discard = self._discard, None
        if discard is not None:
            discard()
        if fault is not None:
            raise fault

    async def _serve(self, on_ready: Callable[[], None], stopping: asyncio.Event) -> None:
        stores: dict[str, EventStore] = {name: MongoStore(self._mongo_url, name=name) for name in self._names}
        worker = Worker(self._options, stores)

        async def follow() -> None:
            await stopping.wait()
            worker.stop()

        running = asyncio.ensure_future(worker.run())
        following = asyncio.ensure_future(follow())
        ready = asyncio.ensure_future(worker.ready.wait())
        await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not running.done():
            on_ready()
        await running
        following.cancel()
