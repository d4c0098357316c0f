"""A service on real servers for one test: a worker in a thread of this process, or one that runs elsewhere."""

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping

from ..client import Client
from ..client.keyspace import Strategy
from ..client.lifetime import Ttl
from ..client.link import Link
from ..events.topology import DEFAULT_STORE
from ..stores import EventStore, MongoStore
from ..worker import AccessConfig, Worker, WorkerOptions
from ..worker.access import OPEN
from .faults import Faults
from .faulty import faulty
from .service import NO_LIFETIMES, Options, Service, lifetimes_of, prefix_of

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

    def _client(self, options: Options, user: str | None) -> Client:
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
        self._thread: threading.Thread | None = None
        self._up = threading.Event()
        self._fault: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._worker: Worker | None = None

    def start(self) -> None:
        """Start the worker, and return when it is ready."""
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="holdfast-worker", daemon=True)
        self._thread.start()
        if not self._up.wait(PATIENCE):
            raise RuntimeError(f"the worker was not ready within {PATIENCE:g} s")
        if self._fault is not None:
            self.close()

    def close(self) -> None:
        """Let the worker drain and end. Repeating it is harmless.

        :raises BaseException: what the worker failed with, if it did.
        """
        thread, self._thread = self._thread, None
        if thread is not None:
            if self._loop is not None and self._worker is not None and thread.is_alive():
                self._loop.call_soon_threadsafe(self._worker.stop)
            thread.join(PATIENCE)
        discard, self._discard = self._discard, None
        if discard is not None:
            discard()
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as fault:  # noqa: BLE001 - it belongs to whoever starts or closes the service
            self._fault = fault
        finally:
            self._up.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        stores: dict[str, EventStore] = {name: MongoStore(self._mongo_url, name=name) for name in self._names}
        self._worker = Worker(self._options, stores)
        running = asyncio.ensure_future(self._worker.run())
        ready = asyncio.ensure_future(self._worker.ready.wait())
        await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        self._up.set()
        await running
