"""A RabbitMQ cluster of three that loses a node, in whatever way: workers and clients go on with the other two."""

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import PARTITIONS, Cluster
from support.load import Load, check_log, read_log

import holdfast
from chaos.faults.broker import CLIENTS, WORKERS
from holdfast.events import partition_queue
from holdfast.events.topology import DEAD, INGRESS
from holdfast.local import MongoReplicaSet, RabbitCluster, RabbitNode

pytestmark = pytest.mark.timeout(300)

QUEUES = [DEAD, INGRESS, *map(partition_queue, range(PARTITIONS))]


@pytest.fixture(scope="module")
def rabbit_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitCluster]:
    """Three nodes, which tests may torment, if they mend them again."""
    made = RabbitCluster(tmp_path_factory.mktemp("rabbitmq-cluster"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def on_cluster(tmp_path: Path, rabbit_cluster: RabbitCluster, mongo: MongoReplicaSet) -> Iterator[Cluster]:
    """A service on the three nodes, all of them up when the test begins."""
    rabbit_cluster.start()
    name = f"faults_{uuid.uuid4().hex[:12]}"
    rabbit_cluster.create_vhosts([name])
    cluster = Cluster(tmp_path, rabbit_cluster, name, mongo, name)
    yield cluster
    cluster.stop()
    with mongo.client() as client:
        client.drop_database(name)


def node_of(rabbit: RabbitCluster, cluster: Cluster, whose: str) -> RabbitNode:
    """The node to which a worker, or a client, is connected."""
    (node,) = [
        member
        for member in rabbit.members
        if int(
            member.eval(
                "pg_local:sync(), length([P || P <- rabbit_networking:local_connections(), "
                "[{vhost, V}, {client_properties, Ps}] <- "
                f'[rabbit_networking:connection_info(P, [vhost, client_properties])], V == <<"{cluster.vhost}">>, '
                f'{{<<"connection_name">>, _, N}} <- Ps, binary:match(N, <<"{whose}">>) =/= nomatch])'
            )
        )
    ]
    return node


def victim_of(rabbit: RabbitCluster, cluster: Cluster, role: str) -> RabbitNode:
    if role == "leader":
        return rabbit.leader(cluster.vhost, partition_queue(0))
    return node_of(rabbit, cluster, {"worker": WORKERS, "client": CLIENTS}[role])


async def test_every_queue_has_a_member_on_every_node(rabbit_cluster: RabbitCluster, on_cluster: Cluster) -> None:
    """What a worker declares while all nodes are up outlives any one of them."""
    await on_cluster.start()

    replicas = {queue: rabbit_cluster.replicas(on_cluster.vhost, queue) for queue in QUEUES}

    assert replicas == dict.fromkeys(QUEUES, rabbit_cluster.members)


@pytest.mark.parametrize("role", ["leader", "worker", "client"])
async def test_a_killed_node_is_done_without(rabbit_cluster: RabbitCluster, on_cluster: Cluster, role: str) -> None:
    """A node killed under load, with the queues' leaders, the worker's or the client's connections on it: no caller
    notices, and every save is there once, in order; also when the node is back.
    """
    cluster = on_cluster
    await cluster.start()
    async with holdfast.connect(cluster.amqp_url) as client:
        load = Load(client, saves=8_000, keys=100)
        running = asyncio.create_task(load.run())
        await load.at(0.2)
        victim = await asyncio.to_thread(victim_of, rabbit_cluster, cluster, role)
        await asyncio.to_thread(victim.kill)
        await running
        without = Load(client, saves=1_000, keys=100, name="without")
        await without.run()
        assert not victim.running
        running = asyncio.create_task(Load(client, saves=4_000, keys=100, name="while it comes back").run())
        await asyncio.to_thread(rabbit_cluster.start)
        await running
        after = Load(client, saves=1_000, keys=100, name="after")
        await after.run()

    assert load.failed == without.failed == after.failed == {}
    records = await read_log(cluster.mongo_url)
    assert len(records) == 14_000
    check_log([record for record in records if not record.key.startswith("while")], load, without, after)


async def test_all_nodes_killed_at_once(rabbit_cluster: RabbitCluster, on_cluster: Cluster) -> None:
    """A power cut for the whole broker: what it had confirmed is there when it is back, and calls wait for that."""
    cluster = on_cluster
    await cluster.start(2)
    async with holdfast.connect(cluster.amqp_url, timeout=90) as client:
        load = Load(client, saves=6_000, keys=100, timeout=90)
        running = asyncio.create_task(load.run())
        await load.at(0.3)
        await asyncio.to_thread(rabbit_cluster.kill)
        await asyncio.to_thread(rabbit_cluster.start)
        await running

    assert load.failed == {}
    check_log(await read_log(cluster.mongo_url), load)


@pytest.mark.parametrize("role", ["worker", "client"])
async def test_a_frozen_node_is_left(rabbit_cluster: RabbitCluster, on_cluster: Cluster, role: str) -> None:
    """A node that keeps its connections and says nothing is left for another by those who are connected to it."""
    cluster = on_cluster
    await cluster.start(heartbeat=3)
    async with holdfast.connect(cluster.amqp_url, timeout=90) as client:
        load = Load(client, saves=6_000, keys=100, timeout=90)
        running = asyncio.create_task(load.run())
        await load.at(0.2)
        victim = await asyncio.to_thread(victim_of, rabbit_cluster, cluster, role)
        await asyncio.to_thread(victim.pause)
        try:
            await running
            assert (await client.save("meanwhile", 1)).version == 1
            assert victim.paused
        finally:
            await asyncio.to_thread(victim.resume)
        await asyncio.to_thread(rabbit_cluster.wait_until_whole)
        assert (await client.save("meanwhile", 2)).version == 2

    assert load.failed == {}
    records = await read_log(cluster.mongo_url)
    check_log([record for record in records if record.key != "meanwhile"], load)


@pytest.mark.parametrize("role", ["worker", "client"])
async def test_a_node_that_is_cut_off_is_left(rabbit_cluster: RabbitCluster, on_cluster: Cluster, role: str) -> None:
    """A node without the others takes connections and messages, and does nothing with them. Whoever is connected to it
    finds out and goes to the others, and stays there when the node is back.
    """
    cluster = on_cluster
    await cluster.start()
    async with holdfast.connect(cluster.amqp_url, timeout=90) as client:
        load = Load(client, saves=6_000, keys=100, timeout=90)
        running = asyncio.create_task(load.run())
        await load.at(0.2)
        victim = await asyncio.to_thread(victim_of, rabbit_cluster, cluster, role)
        await asyncio.to_thread(rabbit_cluster.isolate, victim)
        try:
            await running
            assert (await client.save("meanwhile", 1)).version == 1
            assert victim.eval("nodes()") == "[]"
        finally:
            await asyncio.to_thread(rabbit_cluster.rejoin, victim)
        await asyncio.to_thread(rabbit_cluster.wait_until_whole)
        assert (await client.save("meanwhile", 2)).version == 2

    assert load.failed == {}
    records = await read_log(cluster.mongo_url)
    check_log([record for record in records if record.key != "meanwhile"], load)
