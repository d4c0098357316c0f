"""Workers that die, leave, join and freeze, under load: nothing acknowledged is lost, and nothing happens twice."""

import asyncio
import signal

import pytest
from support.cluster import PARTITIONS, Cluster
from support.load import Load, check_log, read_log

import holdfast
from holdfast import OutcomeUnknown
from holdfast.events import partition_of
from holdfast.local import ServerStartError
from holdfast.worker.ownership import priority


async def test_a_worker_killed_under_load(cluster: Cluster) -> None:
    """Two workers under 20,000 saves, one killed by SIGKILL, a third started: every save is there once, in order."""
    victim, _ = await cluster.start(2, heartbeat=2)
    async with holdfast.connect(cluster.amqp_url) as client:
        load = Load(client, saves=20_000, keys=300)
        running = asyncio.create_task(load.run())
        await load.at(0.25)
        await asyncio.to_thread(victim.kill)
        starting = asyncio.create_task(cluster.start())
        await running
        await starting
        assert (await client.save("afterwards", 1)).version == 1

    assert load.failed == {}
    records = [record for record in await read_log(cluster.mongo_url) if record.key != "afterwards"]
    assert len(records) == 20_000
    check_log(records, load)


async def test_all_workers_killed_and_started_again(cluster: Cluster) -> None:
    """The only worker killed in mid-batch, several times: what was in its hands is recognised when it comes back."""
    (worker,) = await cluster.start(heartbeat=2)
    async with holdfast.connect(cluster.amqp_url) as client:
        load = Load(client, saves=6_000, keys=50)
        running = asyncio.create_task(load.run())
        for share in (0.2, 0.6):
            await load.at(share)
            await asyncio.to_thread(worker.kill)
            await asyncio.to_thread(worker.start)
        await running

    assert load.failed == {}
    records = await read_log(cluster.mongo_url)
    assert len(records) == 6_000
    check_log(records, load)


async def test_workers_join_and_leave_under_load(cluster: Cluster) -> None:
    """Workers come and drain away under load: each exits with 0, callers notice nothing, per-key order is kept."""
    first = cluster.worker("first")
    process = await cluster.run(first)
    try:
        await cluster.until_ready(first)
        async with holdfast.connect(cluster.amqp_url) as client:
            load = Load(client, saves=24_000, keys=200)
            running = asyncio.create_task(load.run())
            await load.at(0.1)
            second, third = await cluster.start(2)
            process.send_signal(signal.SIGTERM)
            _, said = await process.communicate()
            await asyncio.to_thread(second.stop)
            fourth, *_ = await cluster.start()
            await asyncio.to_thread(third.stop)
            await running
            assert (await client.read(load.keys[0])) is not None
    finally:
        await cluster.end(process)

    assert process.returncode == 0
    assert b"Traceback" not in said
    assert load.failed == {}
    records = await read_log(cluster.mongo_url)
    assert len(records) == 24_000
    check_log(records, load)
    for worker in (second, third, fourth):
        assert "Traceback" not in worker.log_path.read_text()
        assert "session lost" not in worker.log_path.read_text()


async def test_partitions_change_hands_in_order(cluster: Cluster) -> None:
    """A worker of higher priority joins and takes all, then drains away and leaves all: nothing overtakes anything."""
    names = [f"worker-{number}" for number in range(20)]
    # One that yields every partition, and one that takes them all.
    low = min(names, key=lambda name: max(priority(name, partition) for partition in range(PARTITIONS)))
    takers = [name for name in names if all(priority(name, p) > priority(low, p) for p in range(PARTITIONS))]
    # No heartbeat is to notice that the old one is frozen for a while, however slow the machine is.
    old, new = (cluster.worker(name, heartbeat=60) for name in (low, takers[0]))
    await asyncio.to_thread(old.start)
    async with holdfast.connect(cluster.amqp_url) as client:
        joining, away, leaving = (Load(client, saves=6_000, keys=100, name=name) for name in ("join", "away", "leave"))
        running = asyncio.create_task(joining.run())
        await joining.at(0.2)
        await asyncio.to_thread(new.start)
        await running
        # The old one has nothing any more, so freezing it is noticed by nobody.
        await asyncio.to_thread(old.pause)
        await away.run()
        await asyncio.to_thread(old.resume)
        running = asyncio.create_task(leaving.run())
        await leaving.at(0.2)
        await asyncio.to_thread(new.stop)
        await running

    assert joining.failed == away.failed == leaving.failed == {}
    check_log(await read_log(cluster.mongo_url), joining, away, leaving)
    for worker in (old, new):
        assert "session lost" not in worker.log_path.read_text()


async def test_a_frozen_worker_does_no_harm_when_it_wakes_up(cluster: Cluster) -> None:
    """A worker frozen with work in its hands is replaced after its heartbeats; awake again, it changes nothing."""
    (frozen,) = await cluster.start(heartbeat=2)
    async with holdfast.connect(cluster.amqp_url) as client:
        load = Load(client, saves=8_000, keys=100)
        running = asyncio.create_task(load.run())
        await load.at(0.3)
        await asyncio.to_thread(frozen.pause)
        (successor,) = await cluster.start(heartbeat=2)
        await load.at(0.7)
        # The successor may have had enough partitions to come so far before the broker gave the frozen one up.
        await cluster.until(lambda: cluster.consumers() == PARTITIONS + 1, "only the successor consumes")
        began = len(frozen.log_path.read_text())
        await asyncio.to_thread(frozen.resume)
        await running
        await cluster.until_told(frozen, "session lost", began)
        await cluster.until_ready(frozen)

        # The one that was frozen works again, alone.
        await asyncio.to_thread(successor.stop)
        more = Load(client, saves=1_000, keys=100, name="more")
        await more.run()

    assert load.failed == more.failed == {}
    records = await read_log(cluster.mongo_url)
    assert len(records) == 9_000
    check_log(records, load, more)


async def test_a_handle_finds_out_what_a_frozen_worker_did(cluster: Cluster) -> None:
    """A write whose worker freezes is OutcomeUnknown; the handle's next operation finds out, and counts it once."""
    (worker,) = await cluster.start()
    async with holdfast.connect(cluster.amqp_url) as client:
        counter = client.state("counter", int, default=int)
        await counter.write()
        await asyncio.to_thread(worker.pause)
        hasty = client.state("counter", int, default=int, timeout=1)
        with pytest.raises(holdfast.ExpiredError):
            await hasty.read()
        with pytest.raises(OutcomeUnknown) as unknown:
            await client.save("counter", 1, etag=counter.etag, timeout=1)
        await asyncio.to_thread(worker.resume)

        with pytest.raises(holdfast.ExpiredError, match="deadline"):
            await client.save("counter", 1, etag=counter.etag, id=unknown.value.id)
        assert await counter.update(lambda number: number + 1) == 1

    assert {event.id for event in await read_log(cluster.mongo_url)} >= {unknown.value.id}


async def test_workers_that_do_not_agree_do_not_start(cluster: Cluster) -> None:
    """A worker with another number of partitions than the service's ends at once and says what to set."""
    await cluster.start()
    other = cluster.worker("other", partitions=2 * PARTITIONS)

    with pytest.raises(ServerStartError) as refused:
        await asyncio.to_thread(other.start)

    assert f"partitions {2 * PARTITIONS}, but the service runs with {PARTITIONS}" in str(refused.value)
    assert "Traceback" not in str(refused.value)
    async with holdfast.connect(cluster.amqp_url) as client:
        assert (await client.describe()).partitions == PARTITIONS
        assert partition_of("default", "k", PARTITIONS) < PARTITIONS
