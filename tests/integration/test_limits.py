"""At the limits: the largest values, arrays and histories, and what a worker's memory does meanwhile."""

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.cluster import Cluster
from support.raw import raw_client
from support.service import Service, running_worker

import holdfast
from holdfast import ConflictError, TooLargeError
from holdfast.events import Event, partition_of
from holdfast.events.limits import (
    LARGEST_MAX_VALUE_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_MESSAGE_COMMANDS,
    REPLY_MESSAGE_BYTES,
)
from holdfast.local import MongoReplicaSet, RabbitServer
from holdfast.stores import MongoStore

MIB = 1024 * 1024

#: What a worker may need with caches of 8 MiB, whatever texts are sent to it. It starts with 65 MiB; see below what it
#: would need if it kept all that each test gives it.
MEMORY_MIB = 280


@pytest.fixture
def cluster(tmp_path: Path, rabbit: RabbitServer, amqp_vhost: str, mongo: MongoReplicaSet) -> Iterator[Cluster]:
    """A service whose worker is a process of its own, so that its memory can be seen."""
    database = f"limits_{uuid.uuid4().hex[:12]}"
    cluster = Cluster(tmp_path, rabbit, amqp_vhost, mongo, database)
    yield cluster
    cluster.stop()
    with mongo.client() as client:
        client.drop_database(database)


def peak_mib(pid: int | None) -> float:
    """The most memory that a process had so far."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def text_of(size: int, letter: str) -> str:
    """A text of which the JSON has exactly so many bytes."""
    encoded = len(orjson.dumps(letter)) - 2
    body = letter * ((size - 2) // encoded)
    return body + "x" * (size - 2 - encoded * ((size - 2) // encoded))


@pytest.mark.parametrize("letter", ["x", "é", "€", "𝄞", "\x01", '"'])
async def test_a_value_of_exactly_the_limit_is_kept_and_one_byte_more_is_not(service: Service, letter: str) -> None:
    """The limit counts bytes of JSON in UTF-8, escapes included, whatever the letters are."""
    async with holdfast.connect(service.amqp_url, timeout=60) as client:
        fits, over = text_of(MIB, letter), text_of(MIB + 1, letter)
        assert (len(orjson.dumps(fits)), len(orjson.dumps(over))) == (MIB, MIB + 1)
        saved = await client.save("k", fits)
        with pytest.raises(TooLargeError) as refused:
            await client.save("k", over)
        assert refused.value.field == "value"
        assert await client.read("k") == saved


async def test_the_largest_value_that_can_be_configured_goes_all_ways(amqp_url: str, mongo_url: str) -> None:
    """Two MiB of one-digit numbers, sevenfold in the database: saved, read, met in a conflict, and in the history."""
    value = [1] * ((LARGEST_MAX_VALUE_BYTES - 2) // 2)
    service = running_worker(amqp_url, mongo_url, max_value_bytes=LARGEST_MAX_VALUE_BYTES)
    await asyncio.to_thread(service.__enter__)
    try:
        async with holdfast.connect(amqp_url, timeout=60) as client:
            await client.save("k", value)
            found = await client.read("k")
            assert found is not None
            assert found.value == value
            with pytest.raises(ConflictError) as conflict:
                await client.save("k", 1, first_write=True, return_current=True)
            assert conflict.value.current == value
            assert [event.value async for event in client.iter_history("k")] == [value]
    finally:
        await asyncio.to_thread(service.__exit__, None, None, None)


async def test_ten_thousand_commands_in_one_message(service: Service) -> None:
    """An array of as many commands as a message may have is answered whole, each once, in the order of its key."""
    route = str(partition_of("default", "k", service.partitions))
    commands: list[dict[str, Any]] = [
        {"op": "save", "id": f"c{n}", "key": "k", "value": n} for n in range(MAX_MESSAGE_COMMANDS)
    ]
    async with raw_client(service.amqp_url) as client:
        await client.send(commands, route)
        answers = await client.answers(*(command["id"] for command in commands))
        assert [answer["version"] for answer in answers] == list(range(1, MAX_MESSAGE_COMMANDS + 1))
        assert Counter(map(len, client.replies.values())) == {1: MAX_MESSAGE_COMMANDS}

        await client.send([*commands, {"op": "read", "id": "one more", "key": "k"}], route, correlation_id="c")
        (refused,) = await client.answers(None)  # type: ignore[arg-type]
        assert refused["status"] == "too_large"


async def test_a_message_over_its_limit_is_answered_or_buried(cluster: Cluster) -> None:
    """What is larger than a message may be is refused unread: told to who waits, else kept for the operator."""
    await cluster.start()
    body = orjson.dumps({"op": "save", "id": "x", "key": "k", "value": "x" * MAX_MESSAGE_BYTES})
    async with raw_client(cluster.amqp_url) as client:
        for route in ("0", "any"):
            await client.send(body, route)
        await client.answers(None, count=2)  # type: ignore[arg-type]
        assert {answer["status"] for answer in client.replies[None]} == {"too_large"}  # type: ignore[index]
        await client.send(body, "0", reply=False)
        (letter,) = await cluster.dead_letters(1)
    assert letter.headers["x-holdfast-reason"] == "too_large"
    assert letter.body == body


async def test_a_worker_reads_many_large_values_in_bounded_memory(cluster: Cluster) -> None:
    """250 values of 1 MiB, read and met in conflicts at once: all answered, each in a message of its own."""
    (worker,) = await cluster.start()
    value = "x" * (MIB - 100)
    async with holdfast.connect(cluster.amqp_url, timeout=100) as client:
        for first in range(0, 250, 25):
            await client.save_many({f"k{number}": value for number in range(first, first + 25)})
    commands: list[dict[str, Any]] = []
    for number in range(250):
        key = f"k{number}"
        commands.append({"op": "read", "id": f"r{number}", "key": key})
        conflict = {"op": "save", "value": 1, "concurrency": "first-write", "return_current": True}
        commands.append(conflict | {"id": f"s{number}", "key": key})
    statuses, largest = await asked(cluster, commands)
    assert statuses == {"ok": 250, "conflict": 250}
    # One value alone, and what is around it.
    assert largest <= REPLY_MESSAGE_BYTES + 4096
    assert peak_mib(worker.pid) < MEMORY_MIB


async def asked(cluster: Cluster, commands: list[dict[str, Any]]) -> tuple[Counter[str], int]:
    """Send commands as one message, keep nothing of the replies: how many of each status, and the largest message."""
    statuses: Counter[str] = Counter()
    largest = 0
    done = asyncio.Event()
    async with raw_client(cluster.amqp_url) as client:

        async def take(message: Any) -> None:
            nonlocal largest
            largest = max(largest, len(message.body))
            statuses.update(reply["status"] for reply in orjson.loads(message.body))
            if statuses.total() == len(commands):
                done.set()

        queue = await client._channel.declare_queue("", exclusive=True)
        await queue.consume(take, no_ack=True)
        client.reply_to = queue.name
        await client.send(commands, "any")
        await done.wait()
    return statuses, largest


async def test_large_messages_wait_in_the_broker_while_a_worker_cannot_work(
    tmp_path: Path, rabbit: RabbitServer, amqp_vhost: str, own_mongo: Callable[..., MongoReplicaSet]
) -> None:
    """While the database hangs, no more messages come into a worker than it has room for; then all of them are done."""
    mongo = own_mongo()
    cluster = Cluster(tmp_path, rabbit, amqp_vhost, mongo, "limits")
    try:
        (worker,) = await cluster.start(store_patience=60)
        value = "x" * (MIB - 100)
        await asyncio.to_thread(mongo.pause)
        async with raw_client(cluster.amqp_url) as client:
            for number in range(90):
                key = f"k{number}"
                commands = [{"op": "save", "id": f"{number}-{part}", "key": key, "value": value} for part in range(3)]
                await client.send(commands, str(partition_of("default", key, 4)), reply=False)
        await asyncio.to_thread(mongo.resume)
        await cluster.until(lambda: cluster.waiting() == 0, "the queues are empty", timeout=100)
        assert peak_mib(worker.pid) < MEMORY_MIB
    finally:
        cluster.stop()


async def test_a_long_history_is_paged_in_bounded_memory_and_holds_up_no_writer(cluster: Cluster) -> None:
    """20,000 versions come once each and in order, while others write and many read the same history."""
    (worker,) = await cluster.start()
    store = MongoStore(cluster.mongo_url)
    await store.open()
    for first in range(1, 20_001, 1000):
        await store.append(
            [
                Event(id=f"v{n}", key="long", time=n, digest=b"", type="saved", version=n, value="x" * 100)
                for n in range(first, first + 1000)
            ]
        )
    await store.close()
    async with holdfast.connect(cluster.amqp_url, timeout=100) as client:
        readers = [asyncio.create_task(client.history("long", after_version=n, limit=1000)) for n in range(20)]
        written = await asyncio.gather(*(client.save(f"beside/{number}", number) for number in range(200)))
        versions = [event.version async for event in client.iter_history("long")]
        pages = await asyncio.gather(*readers)
    assert versions == list(range(1, 20_001))
    assert all(len(page) == 1000 for page in pages)
    assert len(written) == 200
    assert peak_mib(worker.pid) < MEMORY_MIB
