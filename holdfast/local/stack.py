"""RabbitMQ, MongoDB and workers together, below one folder."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .cache import Progress, log_progress
from .errors import ServerStateError
from .mongodb import MongoReplicaSet, MongoServer
from .process import load_state, save_state
from .rabbitmq import RabbitServer
from .server import Server
from .worker import Addresses, WorkerServer

DEFAULT_DIRECTORY = ".local"

_RABBITMQ = "rabbitmq"
_MONGODB = "mongodb"
_WORKER = "worker"


@dataclass(frozen=True, slots=True)
class Status:
    """What a stack is doing: `processes` has the process id of each of its parts, None for one that doesn't run."""

    addresses: Addresses | None
    processes: Mapping[str, int | None]

    @property
    def running(self) -> bool:
        """Whether every part runs."""
        return bool(self.processes) and None not in self.processes.values()


class LocalStack:
    """RabbitMQ, a MongoDB replica set and any number of workers, with all their data below `directory`.

    - With `amqp_url` or `mongo_url` that server is taken as given, and not started.
    - With `detach` everything outlives this process, until `stop` is called on a stack with the same directory,
      from any process. Without, everything is killed as soon as this process is gone, in whatever way.
    - A stack that is started again with the same directory finds its data again, and its addresses, unless
      somebody took its ports meanwhile.
    - `start` on a directory whose stack runs already joins it: nothing is started twice, and `stop` ends it all
      the same, whoever started it. `status().running` tells before.

    The state is kept in `stack.json`, which only its owner can read. All methods block.
    """

    def __init__(
        self,
        directory: Path | str = DEFAULT_DIRECTORY,
        *,
        amqp_url: str | None = None,
        mongo_url: str | None = None,
        workers: int = 0,
        worker_environment: Mapping[str, str] | None = None,
        members: int = 1,
        database: str = "holdfast",
        cache_gb: float = 1.0,
        detach: bool = False,
        progress: Progress = log_progress,
    ) -> None:
        self.directory = Path(directory).resolve()
        self._detach = detach
        self._given_amqp = amqp_url
        self._given_mongo = mongo_url
        self._workers = workers
        self._worker_environment = dict(worker_environment or {})
        self._members = members
        self._database = database
        self._cache_gb = cache_gb
        self._progress = progress

    def __enter__(self) -> Addresses:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 60.0) -> Addresses:
        """Starts what doesn't run yet and returns when all of it is ready.

        Servers first, at the same time, then the workers; each gets `timeout` seconds, and a server that has to
        be fetched the time for that as well. Raises ServerNotFoundError and ServerStartError; what this call
        started is stopped again then.
        """
        self._make_directory()
        before = self.status()
        running = [name for name, pid in before.processes.items() if pid is not None]
        rabbit = RabbitServer(self.directory / _RABBITMQ, detach=self._detach, progress=self._progress)
        mongo = MongoReplicaSet(
            self.directory / _MONGODB,
            members=self._members,
            cache_gb=self._cache_gb,
            detach=self._detach,
            progress=self._progress,
        )
        starts: dict[str, Callable[[], None]] = {}
        parts = list(running)
        if self._given_amqp is None:
            starts["RabbitMQ"] = lambda: rabbit.start(timeout)
            parts.append(_RABBITMQ)
        if self._given_mongo is None:
            starts["MongoDB"] = lambda: mongo.start(timeout)
            parts += [f"{_MONGODB}-{number}" for number in range(self._members)]
        parts += [f"{_WORKER}-{number + 1}" for number in range(self._workers)]
        # Written down before anything starts: whatever happens in between, `stop` knows what to look for.
        self._save(parts, None)
        try:
            if starts:
                self._progress(f"starting {' and '.join(starts)}")
            _together(starts.values())
            addresses = Addresses(
                amqp_url=self._given_amqp or rabbit.url(),
                mongo_url=self._given_mongo or mongo.url(self._database),
            )
            self._save(parts, addresses)
            self._start_workers(addresses, timeout)
        except BaseException:
            self._stop([name for name in parts if name not in running], timeout)
            self._save(running, before.addresses if running else None)
            raise
        return addresses

    def stop(self, timeout: float = 30.0) -> None:
        """Ends workers, then servers, in order; what takes longer than `timeout` seconds is killed.

        Ends only what a stack with this directory has started, and does nothing if nothing of it runs.
        """
        self._stop(list(self.status().processes), timeout)
        if self._state_path.exists():
            self._save([], None)

    def status(self) -> Status:
        """What runs now, and where."""
        state = load_state(self._state_path)
        addresses = state.get("addresses")
        return Status(
            addresses=Addresses(**addresses) if addresses else None,
            processes={name: self._part(name).pid for name in state.get("parts", [])},
        )

    def log_path(self, part: str) -> Path:
        """The log of a part, by its name in `status().processes`. ServerStateError if there is no such part."""
        parts = list(self.status().processes)
        if part not in parts:
            raise ServerStateError(f"no {part!r} in {self.directory}; there are: {', '.join(parts) or 'none'}")
        return self._part(part).log_path

    @property
    def _state_path(self) -> Path:
        return self.directory / "stack.json"

    def _save(self, parts: Iterable[str], addresses: Addresses | None) -> None:
        state: dict[str, Any] = {"parts": list(dict.fromkeys(parts))}
        if addresses is not None:
            state["addresses"] = asdict(addresses)
        save_state(self._state_path, state)

    def _make_directory(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        ignore = self.directory / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n")

    def _start_workers(self, addresses: Addresses, timeout: float) -> None:
        if self._workers == 0:
            return
        self._progress(f"starting {self._workers} worker{'s' if self._workers > 1 else ''}")
        workers = [
            WorkerServer(
                self.directory / f"{_WORKER}-{number + 1}",
                addresses=addresses,
                environment=self._worker_environment,
                detach=self._detach,
            )
            for number in range(self._workers)
        ]
        _together([partial(worker.start, timeout) for worker in workers])

    def _stop(self, names: Sequence[str], timeout: float) -> None:
        workers = [name for name in names if name.startswith(_WORKER)]
        servers = [name for name in names if name not in workers]
        for group in (workers, servers):
            _together([partial(self._part(name).stop, timeout) for name in group])

    def _part(self, name: str) -> Server:
        """A part by its name, good for looking at it and for ending it."""
        kind, _, number = name.partition("-")
        if kind == _WORKER:
            return WorkerServer(self.directory / name)
        if kind == _MONGODB:
            return MongoServer(self.directory / _MONGODB / f"member-{number}")
        return RabbitServer(self.directory / _RABBITMQ)


def _together(actions: Iterable[Callable[[], None]]) -> None:
    """Runs all at the same time, waits for all of them, and then raises what the first failed one raised."""
    actions = list(actions)
    if not actions:
        return
    with ThreadPoolExecutor(len(actions)) as pool:
        futures = [pool.submit(action) for action in actions]
    for future in futures:
        future.result()
