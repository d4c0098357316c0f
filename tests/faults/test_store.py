"""A MongoDB that dies, freezes and comes back, under load: nothing acknowledged is lost."""

import asyncio

from support.cluster import Cluster
from support.load import Load, check_log, read_log

import holdfast


async def test_a_killed_database_is_waited_for(on_own_mongo: Cluster) -> None:
    """A mongod killed under load and started again within the worker's patience: callers wait, nothing is lost."""
    cluster = on_own_mongo
    (worker,) = await cluster.start(store_patience=30)
    async with holdfast.connect(cluster.amqp_url) as client:
        load = Load(client, saves=8_000, keys=100)
        running = asyncio.create_task(load.run())
        for share in (0.2, 0.6):
            await load.at(share)
            await asyncio.to_thread(cluster.mongo.kill)
            await asyncio.to_thread(cluster.mongo.start)
        await running

    assert load.failed == {}
    assert "session lost" not in worker.log_path.read_text()
    records = await read_log(cluster.mongo_url)
    assert len(records) == 8_000
    check_log(records, load)


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


async def test_a_frozen_database_is_no_end(on_own_mongo: Cluster) -> None:
    """A mongod frozen in the middle of appends whose outcome nobody knows: awake again, each is there once."""
    cluster = on_own_mongo
    (worker,) = await cluster.start(store_patience=2)
    async with holdfast.connect(cluster.amqp_url) as client:
        load, more = Load(client, saves=4_000, keys=100), Load(client, saves=500, keys=50, name="more")
        running = asyncio.create_task(load.run())
        await load.at(0.4)
        await asyncio.to_thread(cluster.mongo.pause)
        more_running = asyncio.create_task(more.run())
        await cluster.until_told(worker, "session lost")
        await asyncio.to_thread(cluster.mongo.resume)
        await asyncio.gather(running, more_running)

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
