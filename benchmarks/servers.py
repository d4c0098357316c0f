"""The servers of a run: RabbitMQ, MongoDB, a worker and NATS, on loopback, below one folder, all started alike."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from holdfast.local import Addresses, LocalStack, MongoReplicaSet, RabbitServer, WorkerServer, find_rabbitmq

from .nats_side import NatsServer
from .process import SideProcess

_DATABASE = "holdfast"


class Servers:
    """Starts them, and stops every one of them at the end, whatever happened. All methods block.

    They are killed, too, as soon as this process is gone.
    """

    def __init__(self, folder: Path, *, mongo_cache: float, with_nats: bool, progress: Callable[[str], None]) -> None:
        self.folder = folder
        self._stack = LocalStack(
            folder / "stack", workers=1, cache_gb=mongo_cache, database=_DATABASE, progress=progress
        )
        self._nats = NatsServer(folder / "nats") if with_nats else None
        self._workers: list[WorkerServer] = []
        self._progress = progress
        self._addresses: Addresses | None = None

    def __enter__(self) -> Self:
        """Start RabbitMQ, MongoDB, one worker, and NATS if it is wanted."""
        try:
            if self._nats is not None:
                self._progress("starting NATS")
                self._nats.start()
            self._addresses = self._stack.start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop them all. Their data is not needed any more."""
        self._progress("stopping the servers")
        self._stop()

    @property
    def worker_pid(self) -> int:
        """The process id of the one worker."""
        pid = self._stack.status().processes["worker-1"]
        assert pid is not None
        return pid

    def side(self, title: str, module: str, *arguments: str, **options: Any) -> SideProcess:
        """A contender's client, told where the servers are."""
        assert self._addresses is not None
        addresses = {
            "amqp_url": self._addresses.amqp_url,
            "mongo_url": self._addresses.mongo_url,
            "database": "peers",
            "nats_url": self._nats.url if self._nats is not None else None,
        }
        log = self.folder / f"{'-'.join([module, *arguments])}.log"
        return SideProcess(title, module, *arguments, log=log, options=addresses | options)

    def addresses_of(self, name: str) -> dict[str, str]:
        """A virtual host and a database of its own, for a service that must not meet the others."""
        rabbit = RabbitServer(self.folder / "stack/rabbitmq")
        mongo = MongoReplicaSet(self.folder / "stack/mongodb")
        return {"amqp_url": rabbit.url(name), "mongo_url": mongo.url(name), "database": name}

    def another_worker(self, name: str, **environment: str) -> WorkerServer:
        """Start one more worker, of another service, with default settings but for these; it has to be stopped at the
        end only.
        """
        RabbitServer(self.folder / "stack/rabbitmq").create_vhosts([name])
        urls = self.addresses_of(name)
        worker = WorkerServer(
            self.folder / f"worker-{name}",
            addresses=Addresses(amqp_url=urls["amqp_url"], mongo_url=urls["mongo_url"]),
            environment=environment,
        )
        self._workers.append(worker)
        worker.start()
        return worker

    def versions(self) -> dict[str, str]:
        """Of the servers, as far as they tell."""
        mongo = MongoReplicaSet(self.folder / "stack/mongodb")
        with mongo.client() as client:
            return {"mongod": client.server_info()["version"], "rabbitmq": find_rabbitmq(self._progress).version}

    def _stop(self) -> None:
        try:
            for worker in self._workers:
                worker.stop()
        finally:
            try:
                self._stack.stop()
            finally:
                if self._nats is not None:
                    self._nats.stop()
