"""Real servers for the tests: one RabbitMQ and one MongoDB for the whole run, a fresh corner of them per test.

A server that can't be started fails the tests that need it; nothing is skipped. Nothing is started for
tests that don't ask for it.
"""

import contextlib
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.cluster import Cluster

from holdfast.local import LocalStackError, MongoReplicaSet, RabbitServer, Server, find_mongod, find_rabbitmq

_VHOSTS_AT_ONCE = 32

# How fast this machine is at the moment is nothing that a test is about. And the same tests on the same code give the
# same result; to look for what they have not met yet, choose other examples: `--hypothesis-profile=search`.
settings.register_profile(
    "holdfast", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True, database=None
)
settings.register_profile("search", settings.get_profile("holdfast"), derandomize=False, max_examples=1000)
settings.load_profile("holdfast")


# Shells have what they start in the background ignore it, and so would all that tests start and then interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: What takes longest, and mostly waits: where several processes share the files, these are begun first.
_LONG = ("chaos/test_short_run.py", "faults/", "fuzz/", "integration/", "testing/", "contract/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Has the processes end at about the same time: what is left for the end are many short files."""
    if hasattr(config, "workerinput"):
        here = Path(__file__).parent

        def rank(item: pytest.Item) -> int:
            path = item.path.relative_to(here).as_posix() if item.path.is_relative_to(here) else ""
            return next((place for place, prefix in enumerate(_LONG) if path.startswith(prefix)), len(_LONG))

        items.sort(key=rank)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetches the servers that the chosen tests need, if they have to be, before any test's time is running."""
    if session.config.option.collectonly:
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}

    def progress(line: str) -> None:
        if reporter is not None:
            reporter.write_line(line)

    # What can't be had is not said here: each test that asks for it fails, with the reason.
    if wanted & {"rabbit", "own_rabbit", "local_servers"}:
        with contextlib.suppress(LocalStackError):
            find_rabbitmq(progress)
    if wanted & {"mongo", "own_mongo", "local_servers"}:
        with contextlib.suppress(LocalStackError):
            find_mongod(progress)


def _discard(*servers: Server) -> None:
    """Ends servers of which nothing is needed any more but their logs: a mongod's journal alone takes 300 MB."""
    for server in servers:
        server.kill()
        shutil.rmtree(server.directory / "data", ignore_errors=True)


@pytest.fixture(scope="session")
def local_servers() -> None:
    """For tests that start servers by other means than these fixtures: makes sure that they are fetched."""


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """The RabbitMQ that all tests share. Don't kill, pause or reconfigure it: `own_rabbit` is for that."""
    server = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    server.start()
    yield server
    _discard(server)


@pytest.fixture(scope="session")
def mongo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoReplicaSet]:
    """The MongoDB (a replica set of one) that all tests share. Don't kill it: `own_mongo` is for that."""
    server = MongoReplicaSet(tmp_path_factory.mktemp("mongodb"), cache_gb=0.5)
    server.start()
    yield server
    _discard(*server.members)


class _Vhosts:
    """Fresh virtual hosts, made many at a time because each trip to the server has its price."""

    def __init__(self, server: RabbitServer) -> None:
        self._server = server
        self._ready: list[str] = []
        self._made = 0

    def take(self) -> str:
        if not self._ready:
            self._ready = [f"test-{self._made + number}" for number in range(_VHOSTS_AT_ONCE)]
            self._made += _VHOSTS_AT_ONCE
            self._server.create_vhosts(self._ready)
        return self._ready.pop(0)

    def give_back(self, name: str) -> None:
        # Queues cost the server memory and time for as long as they exist, but no test has to wait for their end.
        self._server.delete_vhosts([name], wait=False)


@pytest.fixture(scope="session")
def _vhosts(rabbit: RabbitServer) -> _Vhosts:
    return _Vhosts(rabbit)


@pytest.fixture
def amqp_vhost(_vhosts: _Vhosts) -> Iterator[str]:
    """The name of a virtual host of the shared RabbitMQ that only this test uses."""
    name = _vhosts.take()
    yield name
    _vhosts.give_back(name)


@pytest.fixture
def amqp_url(rabbit: RabbitServer, amqp_vhost: str) -> str:
    """The address of an empty virtual host of the shared RabbitMQ, gone after the test."""
    return rabbit.url(amqp_vhost)


@pytest.fixture
def mongo_url(mongo: MongoReplicaSet) -> Iterator[str]:
    """The address of an empty database of the shared MongoDB, dropped after the test."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield mongo.url(name)
    with mongo.client() as client:
        client.drop_database(name)


@pytest.fixture
def own_rabbit(tmp_path: Path) -> Iterator[Callable[..., RabbitServer]]:
    """Makes RabbitMQ servers (arguments as for `RabbitServer`), started, that a test may kill and pause as it likes."""
    made: list[RabbitServer] = []

    def make(**options: object) -> RabbitServer:
        server = RabbitServer(tmp_path / f"rabbitmq-{len(made)}", **options)  # type: ignore[arg-type]
        made.append(server)
        server.start()
        return server

    yield make
    _discard(*made)


@pytest.fixture
def own_mongo(tmp_path: Path) -> Iterator[Callable[..., MongoReplicaSet]]:
    """Makes replica sets (arguments as for `MongoReplicaSet`), started, that a test may kill and pause as it likes."""
    made: list[MongoReplicaSet] = []

    def make(**options: object) -> MongoReplicaSet:
        options = {"cache_gb": 0.25} | options
        server = MongoReplicaSet(tmp_path / f"mongodb-{len(made)}", **options)  # type: ignore[arg-type]
        made.append(server)
        server.start()
        return server

    yield make
    _discard(*(member for server in made for member in server.members))


@pytest.fixture
def cluster(tmp_path: Path, rabbit: RabbitServer, amqp_vhost: str, mongo: MongoReplicaSet) -> Iterator[Cluster]:
    """A service on the shared servers, without a worker yet."""
    database = f"faults_{uuid.uuid4().hex[:12]}"
    cluster = Cluster(tmp_path, rabbit, amqp_vhost, mongo, database)
    yield cluster
    cluster.stop()
    with mongo.client() as client:
        client.drop_database(database)
