"""Services of real processes that the tests of this folder may kill, freeze and starve."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster

from holdfast.local import MongoReplicaSet, RabbitServer


@pytest.fixture
def cluster(tmp_path: Path, rabbit: RabbitServer, amqp_vhost: str, mongo: MongoReplicaSet) -> Iterator[Cluster]:
    """A service on the shared servers, without a worker yet."""
    database = f"faults_{uuid.uuid4().hex[:12]}"
    cluster = Cluster(tmp_path, rabbit, amqp_vhost, mongo, database)
    yield cluster
    cluster.stop()
    with mongo.client() as client:
        client.drop_database(database)


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
