"""More than a service takes: full queues, callers in a hurry, crowds, and a store that holds up nobody but itself."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aio_pika.exceptions import DeliveryError
from support.cluster import Cluster
from support.load import read_log
from support.raw import RawClient, raw_client

import holdfast
from chaos.cluster import patiently, until
from holdfast import ExpiredError, OutcomeUnknown, Unavailable
from holdfast.events import Event, partition_of, partition_queue
from holdfast.local import MongoReplicaSet

#: Far longer than anything here takes: whoever waits for it fails by the test's own time limit.
FOR_EVER = 3600.0


def memory_mib(pid: int | None, what: str = "VmRSS") -> float:
    """The resident memory of a process: ``VmRSS`` now, ``VmHWM`` at its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(what)


def key_of(partition: int, store: str = "default") -> str:
    """A key that belongs to a partition of four."""
    return next(key for key in (f"key-{n}" for n in range(1000)) if partition_of(store, key, 4) == partition)


@asynccontextmanager
async def hog(cluster: Cluster, partition: int) -> AsyncIterator[None]:
    """Somebody who has taken a partition from the workers, and works on nothing."""
    connection = await aio_pika.connect(cluster.amqp_url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=1)
        queue = await channel.get_queue(partition_queue(partition))

        async def keep(_: object) -> None:
            pass

        await queue.consume(keep, arguments={"x-priority": 2**31 - 1})
        yield


# Full queues.


async def fill(client: RawClient, partition: int) -> list[str]:
    """Publish to a partition that nobody works on until it takes no more. The ids of what it took."""
    taken: list[str] = []
    with suppress(DeliveryError):
        while len(taken) < 10_000:
            id_ = f"fill-{len(taken)}"
            command = {"op": "save", "id": id_, "key": key_of(partition), "value": len(taken)}
            await client.send(command, str(partition), reply=False)
            taken.append(id_)
    assert len(taken) < 10_000, "the queue takes everything"
    return taken


async def test_a_full_partition_is_told_at_once_by_every_way_and_holds_up_no_other(cluster: Cluster) -> None:
    """Whoever calls a partition that takes no more is told so, by the broker's own word or by the worker that could not
    forward the command, however long he would wait. What it took is applied, nothing else is, and others are served.
    """
    await cluster.start(queue_max_length=20)
    commands: list[dict[str, Any]] = [
        {"op": "save", "id": f"{partition}-{number}", "key": key_of(partition), "value": number}
        for partition in range(4)
        for number in range(3)
    ]
    async with (
        raw_client(cluster.amqp_url) as raw,
        holdfast.connect(cluster.amqp_url, timeout=FOR_EVER) as client,
        hog(cluster, 0),
    ):
        taken = await fill(raw, 0)
        state = client.state(key_of(0), int, default=int)
        calls: list[Awaitable[Any]] = [
            client.save(key_of(0), "refused"),
            client.delete(key_of(0)),
            client.read(key_of(0)),
            client.history(key_of(0)),
            state.write(),
            client.state(key_of(0), int, default=int).update(lambda number: number + 1),
        ]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * len(calls)
        assert (await client.save(key_of(1), "elsewhere")).version == 1

        await raw.send(commands, "any")
        answers = await raw.answers(*(command["id"] for command in commands))
        told = Counter((answer["id"][0], answer["status"]) for answer in answers)
        assert told == {("0", "unavailable"): 3, ("1", "ok"): 3, ("2", "ok"): 3, ("3", "ok"): 3}
        await raw.send(commands[0] | {"id": "nobody"}, "any", reply=False)
        (letter,) = await cluster.dead_letters(1)
        assert letter.headers["x-holdfast-reason"] == "queue_full"

    await until(lambda: cluster.waiting() == 0, "the queues are empty")
    log = await read_log(cluster.mongo_url)
    assert {record.id for record in log if record.key == key_of(0)} == set(taken)


# Deadlines.


async def test_what_waited_longer_than_its_deadline_is_not_done_and_says_so(cluster: Cluster) -> None:
    """A worker that was away finds commands whose time is over, alone and in arrays, by both routes: all expire, reads
    and histories too; those without a deadline are done.
    """
    (worker,) = await cluster.start()
    async with raw_client(cluster.amqp_url) as raw:
        await raw.send({"op": "describe", "id": "now"})
        (service,) = await raw.answers("now")
        await asyncio.to_thread(worker.stop)
        deadline = service["time"] + 1
        ids: list[str] = []

        async def send(route: str, key: str, *, array: bool) -> None:
            commands: list[dict[str, Any]] = []
            for op in ("save", "delete", "read", "history"):
                for late in (True, False):
                    ids.append(f"{op} {route} {'array' if array else 'alone'} {'late' if late else 'in time'}")
                    command: dict[str, Any] = {"op": op, "id": ids[-1], "key": key}
                    command |= {"value": 1} if op == "save" else {}
                    commands.append(command | ({"deadline": deadline} if late else {}))
            for message in [commands] if array else commands:
                await raw.send(message, "any" if route == "ingress" else "0")

        for route in ("ingress", "partition"):
            for array in (True, False):
                await send(route, key_of(0), array=array)
        await asyncio.to_thread(worker.start)
        answers = {answer["id"]: answer["status"] for answer in await raw.answers(*ids)}

    assert answers == {id_: "expired" if id_.endswith("late") else "ok" for id_ in ids}
    log = await read_log(cluster.mongo_url)
    assert not [record.id for record in log if record.id.endswith("late") and isinstance(record, Event)]


async def test_a_call_that_ran_out_of_time_can_find_out_that_it_was_not_applied(cluster: Cluster) -> None:
    """A worker that was frozen for longer than a call's time does not apply it when it wakes: the handle knows at once,
    and whoever asks under the same id is told.
    """
    (worker,) = await cluster.start()
    async with holdfast.connect(cluster.amqp_url, timeout=60) as client:
        state = client.state("k", int, default=int, timeout=1)
        await state.update(lambda number: number + 1)
        await asyncio.to_thread(worker.pause)
        with pytest.raises(OutcomeUnknown):
            await state.update(lambda number: number + 10)
        with pytest.raises(OutcomeUnknown) as unknown:
            await client.save("j", 1, timeout=1)
        await asyncio.to_thread(worker.resume)

        with pytest.raises(ExpiredError):
            await client.save("j", 1, id=unknown.value.id)
        assert await client.read("j") is None
        state = client.state("k", int, default=int)
        assert await state.update(lambda number: number + 100) == 101


# Crowds.


async def test_callers_in_a_crowd_are_served_in_order_and_bounded_in_memory(cluster: Cluster) -> None:
    """Ten thousand saves of one key started at once: all applied, in order, while the worker's memory hardly grows."""
    (worker,) = await cluster.start()
    async with holdfast.connect(cluster.amqp_url, timeout=FOR_EVER, max_in_flight=1000) as client:
        await client.save("warm", 1)
        before = memory_mib(worker.pid)
        tasks = [asyncio.create_task(client.save("k", number)) for number in range(10_000)]
        waiting = asyncio.create_task(client.save("k", "too late", timeout=0.001))
        with pytest.raises(Unavailable, match="too many calls in flight"):
            await waiting
        entries = await asyncio.gather(*tasks)

    assert [entry.version for entry in entries] == list(range(1, 10_001))
    assert memory_mib(worker.pid, "VmHWM") < before + 100


# A store that hangs.


@pytest.fixture
def two_stores(
    cluster: Cluster, own_mongo: Callable[..., MongoReplicaSet], tmp_path: Path
) -> tuple[Cluster, MongoReplicaSet, Path]:
    """A service of two stores on databases of their own, of which the one named ``frail`` may be frozen."""
    frail = own_mongo()
    config = tmp_path / "stores.toml"
    config.write_text(
        f'[stores.default]\nurl = "{cluster.mongo_url}"\n[stores.frail]\nurl = "{frail.url("frail")}"\n'
        "timeout_seconds = 1\n"
    )
    return cluster, frail, config


async def test_a_store_that_hangs_holds_up_no_other(two_stores: tuple[Cluster, MongoReplicaSet, Path]) -> None:
    """While one store hangs, its callers are told so, and those of another are served; what nobody waits for is kept as
    a dead letter. When it is back, so is its service. Nothing acknowledged is lost, nothing is there twice.
    """
    cluster, frail, config = two_stores
    (worker,) = await cluster.start(config_file=config, store_patience=1)
    async with holdfast.connect(cluster.amqp_url, timeout=60) as client, raw_client(cluster.amqp_url) as raw:
        await client.save("k", 0)
        await client.save("k", 0, store="frail")
        await asyncio.to_thread(frail.pause)
        in_hand = asyncio.create_task(client.save("k", "in hand", store="frail", id="in-hand"))
        await cluster.until_told(worker, "the store frail is away")

        # Delivered before, so that nobody knows yet what became of it.
        with pytest.raises(OutcomeUnknown):
            await in_hand
        for number in range(1, 21):
            assert (await client.save("k", number)).version == number + 1
            with pytest.raises(Unavailable):
                await client.save("k", number, store="frail")
        for call in (client.read("k", store="frail"), client.history("k", store="frail")):
            with pytest.raises(Unavailable):
                await call
        await raw.send({"op": "save", "id": "nobody", "store": "frail", "key": "k", "value": 1}, reply=False)
        (letter,) = await cluster.dead_letters(1)
        assert letter.headers["x-holdfast-reason"] == "store_away"

        await asyncio.to_thread(frail.resume)
        await cluster.until_told(worker, "the store frail is back")
        await patiently(lambda: client.save("k", "in hand", store="frail", id="in-hand"))
        last = await patiently(lambda: client.save("k", "last", store="frail"))
        assert (await client.save("k", "last")).version == 22

    ids = [record.id for record in await read_log(cluster.mongo_url)]
    assert len(ids) == len(set(ids)) == 22
    there = await read_log(frail.url("frail"), "frail")
    assert sorted(record.version for record in there if isinstance(record, Event)) == list(range(1, last.version + 1))
    assert [record.id for record in there].count("in-hand") == 1
    assert last.version == 3
