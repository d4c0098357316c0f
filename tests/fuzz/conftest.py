"""A service that all tests of a file send their bad input to."""

import uuid
from collections.abc import Iterator

import pytest
from support.cluster import Cluster
from support.fuzzed import FuzzedService

from holdfast.local import MongoReplicaSet, RabbitServer


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, rabbit: RabbitServer, mongo: MongoReplicaSet
) -> Iterator[FuzzedService]:
    """One worker, on the shared servers."""
    name = f"fuzz_{uuid.uuid4().hex[:12]}"
    rabbit.create_vhosts([name])
    cluster = Cluster(tmp_path_factory.mktemp("fuzz"), rabbit, name, mongo, name)
    try:
        made = FuzzedService(cluster)
        yield made
        made.campaign.close()
    finally:
        cluster.stop()
        rabbit.delete_vhosts([name], wait=False)
        with mongo.client() as client:
            client.drop_database(name)
