"""A RabbitMQ that hangs up, loses things, restarts and runs out of memory: the service recovers by itself."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from random import Random

import aio_pika
import orjson
import pytest
from support.cluster import PARTITIONS, Cluster
from support.load import Load, check_log, read_log
from support.stuck import stuck

import holdfast
from chaos.faults.broker import broker_faults
from holdfast.amqp import Line
from holdfast.client.link import Link
from holdfast.events import partition_of, partition_queue
from holdfast.events.urls import amqp_urls
from holdfast.local import RabbitCluster, RabbitServer
from holdfast.worker import WorkerOptions, broker
from holdfast.worker.broker import AmqpBroker, BrokerLostError


def link_of(client: holdfast.Client) -> Link:
    """What a client has to a broker."""
    assert isinstance(client._link, Link)
    return client._link


async def test_closed_connections_are_made_again(on_fragile_rabbit: Cluster) -> None:
    """All connections closed under load, three times: no caller notices, and every save is there once, in order."""
    cluster = on_fragile_rabbit
    (worker,) = await cluster.start()
    async with holdfast.connect(cluster.amqp_url) as client:
        load = Load(client, saves=12_000, keys=100)
        running = asyncio.create_task(load.run())
        for share in (0.2, 0.4, 0.6):
            await load.at(share)
            await asyncio.to_thread(cluster.rabbit.close_all_connections)
        await running

    assert load.failed == {}
    assert "session lost" in worker.log_path.read_text()
    check_log(await read_log(cluster.mongo_url), load)


async def test_a_killed_broker_is_waited_for(on_fragile_rabbit: Cluster) -> None:
    """The node killed under load and started again: calls in flight end well within their time, without losses."""
    cluster = on_fragile_rabbit
    await cluster.start()
    async with holdfast.connect(cluster.amqp_url) as client:
        load = Load(client, saves=6_000, keys=100)
        running = asyncio.create_task(load.run())
        await load.at(0.3)
        await asyncio.to_thread(cluster.rabbit.kill)
        await asyncio.to_thread(cluster.rabbit.start)
        await running

    assert load.failed == {}
    check_log(await read_log(cluster.mongo_url), load)


async def test_the_worker_notices_that_its_connection_for_replies_is_gone(on_fragile_rabbit: Cluster) -> None:
    """When only the publishing connection breaks, the worker begins anew at once, and calls are answered."""
    cluster = on_fragile_rabbit
    (worker,) = await cluster.start()
    async with holdfast.connect(cluster.amqp_url) as client:
        before = len(worker.log_path.read_text())

        closed = cluster.close_connections_named("(publish)")
        await cluster.until_told(worker, "session lost", before)
        entry = await client.save("k", 1)

        assert closed == 1
        assert entry.version == 1


async def test_a_deleted_queue_is_declared_again(on_fragile_rabbit: Cluster) -> None:
    """A partition's queue deleted: the broker cancels the consumers, the workers notice, and the partition goes on."""
    cluster = on_fragile_rabbit
    first, second = await cluster.start(2)
    async with holdfast.connect(cluster.amqp_url) as client:
        partition = partition_of("default", "k", PARTITIONS)
        assert (await client.save("k", 1)).version == 1
        before = [len(worker.log_path.read_text()) for worker in (first, second)]

        await asyncio.to_thread(cluster.rabbit.delete_queue, cluster.vhost, partition_queue(partition))
        for worker, length in zip((first, second), before, strict=True):
            await cluster.until_told(worker, "the broker cancelled consumer", length)
            await cluster.until_told(worker, "is ready", length)

        assert (await client.save("k", 2)).version == 2
        await asyncio.to_thread(first.kill)
        assert (await client.save("k", 3)).version == 3


async def test_a_client_whose_reply_queue_is_gone_gets_another(on_fragile_rabbit: Cluster) -> None:
    """Without its reply queue the client connects anew, and asks again for what it was waiting for."""
    cluster = on_fragile_rabbit
    (worker,) = await cluster.start()
    async with holdfast.connect(cluster.amqp_url) as client:
        await asyncio.to_thread(worker.pause)
        waiting = [asyncio.create_task(client.save("k", number)) for number in range(3)]
        await cluster.until(lambda: cluster.waiting() > 0, "a message in the queue")
        reply_queue = link_of(client)._reply_to

        await asyncio.to_thread(cluster.rabbit.delete_queue, cluster.vhost, reply_queue)
        await asyncio.to_thread(worker.resume)

        assert [entry.version for entry in await asyncio.gather(*waiting)] == [1, 2, 3]
        assert link_of(client)._reply_to != reply_queue


async def test_calls_wait_for_a_client_that_cannot_connect(on_fragile_rabbit: Cluster) -> None:
    """While the broker is away calls wait for it up to their timeouts, and are told what that means."""
    cluster = on_fragile_rabbit
    await cluster.start()
    async with holdfast.connect(cluster.amqp_url, timeout=60) as client:
        await client.save("k", 1)
        await asyncio.to_thread(cluster.rabbit.kill)
        with pytest.raises(holdfast.ExpiredError):
            await client.save("k", 2, timeout=1)
        patient = asyncio.create_task(client.save("k", 3))

        await asyncio.to_thread(cluster.rabbit.start)

        assert (await patient).version == 2
        found = await client.read("k")
        assert found is not None
        assert found.value == 3


async def test_a_worker_may_start_before_its_broker_and_be_stopped_without_it(
    on_fragile_rabbit: Cluster, fragile_rabbit: RabbitServer
) -> None:
    """A worker waits for a broker that is away, works when it comes, and leaves with 0 when it is away again."""
    cluster = on_fragile_rabbit
    worker = cluster.worker("waiting", drain_timeout=2)
    await asyncio.to_thread(cluster.rabbit.kill)
    process = await cluster.run(worker)
    assert process.stderr is not None
    try:
        async for line in process.stderr:
            if b"session lost" in line:
                break
        await asyncio.to_thread(cluster.rabbit.start)
        async with holdfast.connect(cluster.amqp_url, timeout=60) as client:
            assert (await client.save("k", 1)).version == 1

        # Frozen, it answers nothing, not even the goodbye.
        await asyncio.to_thread(fragile_rabbit.pause)
        process.terminate()
        _, said = await asyncio.wait_for(process.communicate(), 60)
    finally:
        await asyncio.to_thread(fragile_rabbit.resume)
        await cluster.end(process)

    assert process.returncode == 0, said.decode()
    assert b"Traceback" not in said


async def test_an_alarm_does_not_keep_the_queues_from_draining(on_fragile_rabbit: Cluster) -> None:
    """While the broker takes no replies for lack of memory, commands are applied and acknowledged all the same."""
    cluster = on_fragile_rabbit
    (worker,) = await cluster.start()
    async with holdfast.connect(cluster.amqp_url, timeout=60) as client:
        await client.save("k", "x" * 900_000)
        await asyncio.to_thread(worker.pause)
        connection = await aio_pika.connect(cluster.amqp_url)
        channel = await connection.channel()
        replies = await channel.declare_queue("", exclusive=True)
        exchange = await channel.get_exchange("holdfast.commands")
        for number in range(64):
            body = orjson.dumps(
                [
                    {"op": "save", "key": "k", "id": f"save-{number}", "value": "x" * 900_000},
                    {"op": "read", "key": "k", "id": f"read-{number}"},
                ]
            )
            message = aio_pika.Message(body, reply_to=replies.name, delivery_mode=2)
            await exchange.publish(message, str(partition_of("default", "k", PARTITIONS)))
        try:
            await asyncio.to_thread(cluster.rabbit.ctl, "set_vm_memory_high_watermark", "absolute", "1MB")
            await cluster.until(lambda: "memory" in cluster.rabbit.eval("rabbit_alarm:get_alarms()"), "an alarm")
            await asyncio.to_thread(worker.resume)

            await cluster.until(lambda: cluster.waiting() == 0, "all queues drained")

            assert "takes no replies" in worker.log_path.read_text()
            (late,) = await cluster.start()  # a worker can start in the meantime too
            await asyncio.to_thread(worker.stop)
        finally:
            await asyncio.to_thread(cluster.rabbit.ctl, "set_vm_memory_high_watermark", "absolute", "1GB")
        found = await client.read("k")
        await connection.close()

    assert found is not None
    assert found.version == 65
    assert "session lost" not in late.log_path.read_text()


NAMES = [
    "the broker restarted",
    "the broker killed",
    "the broker frozen for 2 s",
    "the broker frozen for 15 s",
    "all connections closed",
    "connections of workers closed",
    "connections of clients closed",
    "a queue deleted",
    "consumers cancelled",
    "memory alarm",
    "disk alarm",
]


@pytest.mark.parametrize("name", NAMES)
async def test_each_fault_of_the_chaos_runs_alone(on_fragile_rabbit: Cluster, name: str) -> None:
    """Whatever befalls the broker under load: no call fails, every save is there once, and the next one is quick."""
    cluster = on_fragile_rabbit
    random = Random(name)  # noqa: S311 - chooses, and hides nothing
    faults = {fault.name: fault for fault in (make() for make in broker_faults(cluster, random))}
    assert list(faults) == NAMES
    fault = faults[name]
    await cluster.start(2, heartbeat=3)
    async with holdfast.connect(cluster.amqp_url, timeout=90) as client:
        load = Load(client, saves=6_000, keys=100, timeout=90)
        running = asyncio.create_task(load.run())
        await load.at(0.2)
        try:
            await fault.strike()
        finally:
            await fault.heal()
        await running
        assert (await client.save("afterwards", 1)).version == 1

    assert load.failed == {}
    records = [record for record in await read_log(cluster.mongo_url) if record.key != "afterwards"]
    assert len(records) == 6_000
    # What was in a deleted queue is asked for again, and comes behind what its caller has sent since.
    check_log(records, load, in_order=name != "a queue deleted")


# -- a broker that is there, and does not do what it is asked for


@contextlib.contextmanager
def alarmed(rabbit: RabbitServer | RabbitCluster) -> Iterator[None]:
    """A memory alarm."""
    limit = "vm_memory_monitor:set_vm_memory_high_watermark"
    try:
        rabbit.eval(f"ok = {limit}({{absolute, 1000000}})")
        assert "memory" in rabbit.eval("rabbit_alarm:get_alarms()")
        yield
    finally:
        rabbit.eval(f"ok = {limit}({{absolute, 1 bsl 30}})")


async def test_a_client_does_not_wait_for_ever_for_a_confirm(
    on_fragile_rabbit: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When a queue confirms nothing, the client begins anew, with growing patience, and asks again."""
    monkeypatch.setattr("holdfast.client.link.CONFIRM_PATIENCE", 1.0)
    cluster = on_fragile_rabbit
    await cluster.start()
    async with holdfast.connect(cluster.amqp_url, timeout=60) as client:
        assert (await client.save("k", 1)).version == 1
        with stuck(cluster, partition_queue(partition_of("default", "k", PARTITIONS))):
            saving = asyncio.create_task(client.save("k", 2))
            await cluster.until(lambda: caplog.text.count("no confirm for") == 2, "two connections given up")
            assert not saving.done()

        assert (await saving).version == 2

    assert "no confirm for 1 s" in caplog.text
    assert "no confirm for 2 s" in caplog.text


async def test_a_client_waits_for_the_end_of_an_alarm(
    on_fragile_rabbit: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the broker has an alarm nothing is confirmed, and no connection is given up for it."""
    monkeypatch.setattr("holdfast.client.link.CONFIRM_PATIENCE", 1.0)
    cluster = on_fragile_rabbit
    await cluster.start()
    async with holdfast.connect(cluster.amqp_url, timeout=60) as client:
        await client.save("k", 1)
        generation = client._link.generation
        looks = Looks(monkeypatch)
        with alarmed(cluster.rabbit):
            saving = asyncio.create_task(client.save("k", 2))
            await looks.until_alarmed(6)
            assert not saving.done()

        assert (await saving).version == 2
        assert client._link.generation == generation
    assert "no confirm" not in caplog.text


class Looks:
    """What lines to the broker find out about alarms when they look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._alarms = 0
        self._news = asyncio.Event()
        look: Callable[[Line], bool] = Line.__dict__["has_alarm"].fget

        def counted(line: Line) -> bool:
            found = look(line)
            self._alarms += found
            self._news.set()
            return found

        monkeypatch.setattr(Line, "has_alarm", property(counted))

    async def until_alarmed(self, times: int) -> None:
        """Wait until an alarm was seen so often."""
        async with asyncio.timeout(60):
            while self._alarms < times:
                self._news.clear()
                await self._news.wait()


async def test_a_client_whose_reply_queue_went_without_a_word_gets_another(
    on_fragile_rabbit: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """A split of a cluster can take a queue away and leave its consumer in the dark: the client finds out."""
    cluster = on_fragile_rabbit
    await cluster.start()
    async with holdfast.connect(cluster.amqp_url, timeout=60) as client:
        await client.save("k", 1)
        queue = f'rabbit_misc:r(<<"{cluster.vhost}">>, queue, <<"{link_of(client)._reply_to}">>)'
        cluster.rabbit.eval(f"rabbit_db_queue:delete({queue}, normal), ok")

        assert (await client.save("k", 2)).version == 2

    assert "the reply queue" in caplog.text


async def test_a_client_without_an_answer_keeps_its_reply_queue(on_fragile_rabbit: Cluster) -> None:
    """With no worker there are no answers, which is no reason to begin anew: the reply queue is there."""
    cluster = on_fragile_rabbit
    (worker,) = await cluster.start()
    async with holdfast.connect(cluster.amqp_url, timeout=60) as client:
        await client.save("k", 1)
        await asyncio.to_thread(worker.pause)
        link = link_of(client)
        looked = asyncio.Event()
        look = link._look_for_reply_queue

        async def counted(lost: asyncio.Future[str]) -> None:
            await look(lost)
            looked.set()

        link._look_for_reply_queue = counted  # type: ignore[method-assign]
        generation = link.generation
        saving = asyncio.create_task(client.save("k", 2))
        await asyncio.wait_for(looked.wait(), 60)
        await asyncio.to_thread(worker.resume)

        assert (await saving).version == 2
        assert link.generation == generation


@contextlib.asynccontextmanager
async def open_broker(cluster: Cluster) -> AsyncIterator[AmqpBroker]:
    """A worker's connections, without the worker."""
    options = WorkerOptions(amqp_url=cluster.amqp_url, partitions=PARTITIONS, queue_max_length=10)
    opened = AmqpBroker(options, amqp_urls(cluster.amqp_url)[0])
    await opened.open()
    try:
        yield opened
    finally:
        await asyncio.wait_for(opened.close(), 60)


async def test_a_worker_finds_out_that_the_broker_takes_nothing(
    on_fragile_rabbit: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a queue confirms nothing a check fails, and the connections end at once. An alarm is waited for."""
    monkeypatch.setattr(broker, "CONFIRM_TIMEOUT", 0.5)
    looks = Looks(monkeypatch)
    cluster = on_fragile_rabbit
    async with open_broker(cluster) as opened:
        await opened.check()
        with alarmed(cluster.rabbit):
            checking = asyncio.create_task(opened.check())
            await looks.until_alarmed(3)
            assert not checking.done()
        await checking
        assert not opened.lost.done()

        with stuck(cluster, partition_queue(0)):
            with pytest.raises(BrokerLostError, match="checking the broker"):
                await opened.check()
            with pytest.raises(BrokerLostError, match="closed"):
                await asyncio.wait_for(opened.lost, 60)


async def test_a_full_queue_is_one_that_answers(on_fragile_rabbit: Cluster) -> None:
    """A worker does not take a queue that refuses its message for one that is out of reach."""
    cluster = on_fragile_rabbit
    async with open_broker(cluster) as opened:
        connection = await aio_pika.connect(cluster.amqp_url)
        async with connection:
            channel = await connection.channel()
            with contextlib.suppress(aio_pika.exceptions.DeliveryError):
                for _ in range(1000):
                    await channel.default_exchange.publish(aio_pika.Message(b"[]"), partition_queue(0))
            with pytest.raises(aio_pika.exceptions.DeliveryError):
                await channel.default_exchange.publish(aio_pika.Message(b"[]"), partition_queue(0))
        await opened.check()
        assert not opened.lost.done()
