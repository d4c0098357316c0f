"""A MongoDB that dies, freezes, resigns, is cut off, and comes back: nothing acknowledged is lost, nothing is stale."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from support.cluster import Cluster
from support.load import Load, check_log, read_log
from support.proxied import ProxiedService
from support.traffic import traffic

import holdfast
from chaos.faults.store import (
    AllAway,
    Away,
    PrimaryAway,
    PrimaryCutOff,
    PrimaryStepsDown,
    PrimaryStutters,
    SecondaryAway,
    SlowAnswers,
    StoreFault,
)
from chaos.replicas import ProxiedReplicaSet

#: Seconds for which faults are held.
HOLD = 1.0

Make = Callable[[ProxiedReplicaSet, Random], StoreFault]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda replicas, random: PrimaryAway(replicas, random, Away.KILLED, hold=HOLD), id="primary killed"
        ),
        pytest.param(
            lambda replicas, random: PrimaryAway(replicas, random, Away.FROZEN, hold=HOLD), id="primary frozen"
        ),
        pytest.param(
            lambda replicas, random: PrimaryAway(replicas, random, Away.LOST, hold=HOLD), id="primary out of reach"
        ),
        pytest.param(lambda replicas, random: PrimaryStepsDown(replicas, random, hold=HOLD), id="primary stepped down"),
        pytest.param(
            lambda replicas, random: PrimaryCutOff(replicas, random, silently=False, hold=HOLD), id="primary cut off"
        ),
        pytest.param(lambda replicas, random: PrimaryStutters(replicas, random, hold=HOLD), id="primary stutters"),
        pytest.param(
            lambda replicas, random: SecondaryAway(replicas, random, Away.KILLED, hold=HOLD), id="secondary killed"
        ),
        pytest.param(lambda replicas, random: SlowAnswers(replicas, random, hold=HOLD), id="slow answers"),
        pytest.param(lambda replicas, random: AllAway(replicas, random, Away.KILLED), id="all away for 20 s"),
    ],
)
async def test_what_happens_to_the_database(proxied: ProxiedService, tmp_path: Path, make: Make) -> None:
    """Under traffic: what was told is true, what was acknowledged is there, and writes go on by themselves."""
    fault = make(proxied.replicas, Random(1))  # noqa: S311
    async with traffic(proxied.cluster, proxied.amqp_url, tmp_path):
        try:
            await fault.strike()
        finally:
            await fault.heal()


async def test_a_worker_without_its_database_lets_go_and_comes_back(on_own_mongo: Cluster) -> None:
    """When its patience is over the worker gives its partitions back and says that it is not ready, until it is."""
    cluster = on_own_mongo
    (worker,) = await cluster.start(store_patience=1)
    async with holdfast.connect(cluster.amqp_url) as client:
        load, more = Load(client, saves=4_000, keys=100), Load(client, saves=500, keys=50, name="more")
        running = asyncio.create_task(load.run())
        await load.at(0.3)
        await asyncio.to_thread(cluster.mongo.kill)
        more_running = asyncio.create_task(more.run())
        await cluster.until_told(worker, "the store was away for more than 1 s")
        await cluster.until_ready(worker, ready=False)
        assert await asyncio.to_thread(cluster.consumers) == 0

        await asyncio.to_thread(cluster.mongo.start)
        await asyncio.gather(running, more_running)
        await cluster.until_ready(worker)

    assert load.failed == more.failed == {}
    records = await read_log(cluster.mongo_url)
    assert len(records) == 4_500
    check_log(records, load, more)


async def test_a_worker_can_be_stopped_while_its_database_is_away(on_own_mongo: Cluster) -> None:
    """Asked to leave with work in its hands that it cannot finish, a worker leaves with 0, and the work waits."""
    cluster = on_own_mongo
    worker = cluster.worker("stopped", store_patience=30, drain_timeout=1)
    process = await cluster.run(worker)
    try:
        await cluster.until_ready(worker)
        async with holdfast.connect(cluster.amqp_url, timeout=60) as client:
            await client.save("k", 1)
            await asyncio.to_thread(cluster.mongo.kill)
            saving = asyncio.create_task(client.save("k", 2))
            await cluster.until(lambda: cluster.waiting() == 1, "the command in the queue")
            process.terminate()
            _, said = await process.communicate()

            await asyncio.to_thread(cluster.mongo.start)
            await cluster.start()
            assert (await saving).version == 2
    finally:
        await cluster.end(process)

    assert process.returncode == 0
    assert b"Traceback" not in said
