"""Services of real processes that the tests of this folder may kill, freeze and starve."""

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.cluster import Cluster
from support.proxied import ProxiedService

from chaos.proxy import Proxy
from chaos.replicas import ProxiedReplicaSet
from chaos.stage import through
from holdfast.local import MongoReplicaSet, RabbitServer
from holdfast.local.ports import LOOPBACK


@pytest.fixture(scope="module")
def fragile_rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """A RabbitMQ for the tests of one file, which they may stop, freeze and disconnect, if they mend it again."""
    server = RabbitServer(tmp_path_factory.mktemp("fragile-rabbitmq"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def on_fragile_rabbit(tmp_path: Path, fragile_rabbit: RabbitServer, mongo: MongoReplicaSet) -> Iterator[Cluster]:
    """A service on a RabbitMQ that may be tormented."""
    name = f"faults_{uuid.uuid4().hex[:12]}"
    fragile_rabbit.create_vhosts([name])
    cluster = Cluster(tmp_path, fragile_rabbit, name, mongo, name)
    yield cluster
    cluster.stop()
    with mongo.client() as client:
        client.drop_database(name)


@pytest.fixture
def on_own_mongo(
    tmp_path: Path, rabbit: RabbitServer, amqp_vhost: str, own_mongo: Callable[..., MongoReplicaSet]
) -> Iterator[Cluster]:
    """A service on a MongoDB that may be tormented."""
    cluster = Cluster(tmp_path, rabbit, amqp_vhost, own_mongo(), "faults")
    yield cluster
    cluster.stop()


@pytest.fixture(scope="package")
def proxied(tmp_path_factory: pytest.TempPathFactory, rabbit: RabbitServer) -> Iterator[ProxiedService]:
    """Two workers on a replica set of three, with proxies everywhere. Tests leave it as they found it."""
    name = f"faults_{uuid.uuid4().hex[:12]}"
    rabbit.create_vhosts([name])
    with ExitStack() as stack:
        replicas = ProxiedReplicaSet(tmp_path_factory.mktemp("mongodb"), cache_gb=0.25)
        stack.callback(_discard, replicas)
        replicas.start()
        at_workers, at_clients = (
            stack.enter_context(Proxy(lambda: (LOOPBACK, rabbit.amqp_port))) for _ in ("workers", "clients")
        )
        cluster = Cluster(tmp_path_factory.mktemp("workers"), rabbit, name, replicas, name, heartbeat=2)
        stack.callback(cluster.stop)
        cluster.worker_amqp_url = through(at_workers, cluster.amqp_url)
        for _ in range(2):
            cluster.worker().start()
        yield ProxiedService(cluster, replicas, at_workers, at_clients, through(at_clients, cluster.amqp_url))


def _discard(replicas: ProxiedReplicaSet) -> None:
    replicas.kill()
    replicas.stop_proxies()
    for member in replicas.members:
        shutil.rmtree(member.directory / "data")
