"""The pytest plugin: a service for each test, in memory or on real servers. It is there where Holdfast is installed."""

import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from ..client import Client, by_name
from ..local import MongoReplicaSet, RabbitServer
from .memory import MemoryService
from .servers import RunningService, ServerService
from .service import Service

async_fixture: Any
try:
    from pytest_asyncio import fixture as async_fixture
except ImportError:  # then fixtures that are coroutines are the business of another plugin, or of none
    async_fixture = pytest.fixture

#: Makes a service, given what a marker says.
ServiceMaker = Callable[..., Service]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switch."""
    parser.getgroup("holdfast").addoption(
        "--holdfast",
        metavar="WHERE",
        help="where tests find Holdfast: `memory`, `servers` (RabbitMQ and MongoDB are started on this machine), or "
        "the AMQP URL of a service that runs",
    )
    parser.addini("holdfast", "where tests find Holdfast, unless --holdfast says otherwise", default="memory")
    parser.addini("holdfast_stores", "names of the stores of the services that tests get", "args", ["default"])


def pytest_configure(config: pytest.Config) -> None:
    """Explain the marker."""
    config.addinivalue_line(
        "markers", "holdfast(stores=..., access=..., ttl=...): what the test's service is like; see docs/testing.md"
    )


@pytest.fixture(scope="session")
def holdfast_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RabbitServer, MongoReplicaSet]]:
    """RabbitMQ and MongoDB for the whole run. Only with ``--holdfast servers`` anybody asks for them."""
    rabbit = RabbitServer(tmp_path_factory.mktemp("rabbitmq"))
    mongo = MongoReplicaSet(tmp_path_factory.mktemp("mongodb"), cache_gb=0.25)
    try:
        rabbit.start()
        mongo.start()
        yield rabbit, mongo
    finally:
        for server in (rabbit, *mongo.members):
            server.kill()
            shutil.rmtree(server.directory / "data", ignore_errors=True)


@pytest.fixture
def holdfast_service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A Holdfast service that no other test has."""
    marker = request.node.get_closest_marker("holdfast")
    options: dict[str, Any] = {"stores": request.config.getini("holdfast_stores")}
    if marker is not None:
        options |= marker.kwargs
    where = request.config.getoption("--holdfast") or request.config.getini("holdfast")
    service = _service(request, str(where), options)
    yield service
    service.close()


@async_fixture  # type: ignore[untyped-decorator]
async def holdfast_client(holdfast_service: Service) -> AsyncIterator[Client]:
    """A client of ``holdfast_service``, connected. It takes pytest-asyncio, or another plugin that knows coroutines."""
    async with holdfast_service.connect() as client:
        yield client


def _service(request: pytest.FixtureRequest, where: str, options: dict[str, Any]) -> Service:
    if where == "memory":
        return MemoryService(**options)
    if where == "servers":
        rabbit, mongo = request.getfixturevalue("holdfast_servers")
        return _on_servers(rabbit, mongo, options)
    if where.startswith(("amqp://", "amqps://")):
        # Nobody tidies up there: keys that no other test and no other run has.
        return RunningService(where, keys=by_name(f"test-{uuid.uuid4().hex}"))
    raise pytest.UsageError(f"--holdfast: {where!r} is neither `memory` nor `servers` nor an AMQP URL")


def _on_servers(rabbit: RabbitServer, mongo: MongoReplicaSet, options: dict[str, Any]) -> Service:
    name = f"test-{uuid.uuid4().hex[:12]}"
    rabbit.create_vhosts([name])

    def discard() -> None:
        rabbit.delete_vhosts([name], wait=False)
        with mongo.client() as client:
            client.drop_database(name)

    return ServerService(rabbit.url(name), mongo.url(name), **options, discard=discard)
