"""Messages that do harm, come too late, come by detours or find no room: each is told or buried, others go on."""

import asyncio
import contextlib
import os
import subprocess
import sys
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

import aio_pika
import orjson
import pika  # type: ignore[import-untyped]
import pytest
from aio_pika.exceptions import DeliveryError
from support.cluster import PARTITIONS, Cluster
from support.load import read_log
from support.raw import raw_client

import holdfast
from holdfast import Entry, ExpiredError, OutcomeUnknown, RemoteError, Unavailable
from holdfast.events import Event, Record, partition_of, partition_queue

POISONED_WORKER = str(Path(__file__).with_name("poisoned_worker.py"))


def save(number: int | str, key: str, value: Any = None, **fields: Any) -> dict[str, Any]:
    return {"op": "save", "id": f"id-{number}", "key": key, "value": value, **fields}


def partition(key: str) -> str:
    return str(partition_of("default", key, PARTITIONS))


async def poisoned(cluster: Cluster, how: str) -> Process:
    """Start the worker that cannot stand one key."""
    addresses = {"HOLDFAST_AMQP_URL": cluster.amqp_url, "HOLDFAST_MONGO_URL": cluster.mongo_url}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        POISONED_WORKER,
        how,
        env=os.environ | addresses | {"HOLDFAST_PARTITIONS": str(PARTITIONS)},
        stderr=subprocess.DEVNULL,
    )


# Poison.


async def test_a_command_that_cannot_be_processed_is_told_and_buried(cluster: Cluster) -> None:
    """A command on which the worker fails is an internal error for its sender and a dead letter; others are saved."""
    worker = await poisoned(cluster, "raise")
    try:
        async with holdfast.connect(cluster.amqp_url, timeout=30) as client:
            keys = [f"key-{number}" for number in range(40)] + ["poison"] + [f"more-{number}" for number in range(40)]
            outcomes = await client.save_many(dict.fromkeys(keys, 1))
            assert await client.read("poison") is None
        (letter,) = await cluster.dead_letters(1)
    finally:
        worker.terminate()
        await worker.wait()

    assert isinstance(outcomes.pop("poison"), RemoteError)
    assert all(isinstance(outcome, Entry) for outcome in outcomes.values())
    assert letter.headers["x-holdfast-reason"] == "internal"
    assert orjson.loads(letter.body)["key"] == "poison"


async def test_a_message_that_kills_workers_is_buried_and_its_neighbours_survive(cluster: Cluster) -> None:
    """After six deaths the deadly message is buried; all that was in hand with it, of any partition, is applied."""
    worker = await poisoned(cluster, "die")
    deaths = 0
    try:
        async with holdfast.connect(cluster.amqp_url, timeout=30):
            pass  # the queues are there
        async with raw_client(cluster.amqp_url) as raw:
            key = next(f"k{n}" for n in range(99) if partition(f"k{n}") == partition("poison"))
            keys = {partition(f"k{n}"): f"k{n}" for n in range(99)}
            del keys[partition("poison")]
            for number in range(8):
                commands = [save(f"{number}-{part}", key, number) for part in range(3)]
                if number == 3:
                    commands[1] = save("poison", "poison")
                await raw.send(commands, partition(key))
                for other, elsewhere in keys.items():
                    await raw.send([save(f"{number}-else-{other}", elsewhere, number)], other)
            innocents = [f"id-{number}-{part}" for number in range(8) if number != 3 for part in range(3)]
            innocents += [f"id-{number}-else-{other}" for number in range(8) for other in keys]
            outcome = asyncio.gather(raw.answers(*innocents), cluster.dead_letters(1))
            while not outcome.done():
                ended = asyncio.create_task(worker.wait())
                await asyncio.wait({ended, outcome}, return_when=asyncio.FIRST_COMPLETED)
                ended.cancel()
                if not outcome.done():
                    deaths += 1
                    worker = await poisoned(cluster, "die")
            answers, (letter,) = await outcome
    finally:
        if worker.returncode is None:
            worker.terminate()
            await worker.wait()

    assert deaths == 6
    assert {answer["status"] for answer in answers} == {"ok"}
    assert letter.headers["x-holdfast-reason"] == "poison"
    assert [command["id"] for command in orjson.loads(letter.body)] == ["id-3-0", "id-poison", "id-3-2"]
    # Of the deadly message, what precedes the poison was applied when its commands were taken one at a time.
    applied = [record.id for record in await read_log(cluster.mongo_url)]
    assert sorted(applied) == sorted([*innocents, "id-3-0"])


async def test_messages_with_unreadable_properties_are_buried(cluster: Cluster) -> None:
    """Properties that no one can decode cost nobody a connection: the message is buried, with the reason."""
    (worker,) = await cluster.start()
    bad: list[dict[str, Any]] = [
        {"correlation_id": b"\xff\xfe"},
        {"reply_to": b"\xff"},
        {"message_id": b"\xff"},
    ]

    def publish() -> None:
        connection = pika.BlockingConnection(pika.URLParameters(cluster.amqp_url))
        channel = connection.channel()
        channel.confirm_delivery()
        for number, properties in enumerate(bad):
            for key in (partition("k"), "by way of the ingress"):
                body = orjson.dumps(save(f"bad-{number}-{key}", "k"))
                channel.basic_publish("holdfast.commands", key, body, pika.BasicProperties(**properties))
        # Nobody has to look at these, so nobody does; nor at the bytes of a routing key.
        channel.basic_publish(
            "holdfast.commands", partition("k"), orjson.dumps(save(1, "k")), pika.BasicProperties(delivery_mode=5)
        )
        channel.basic_publish(
            "holdfast.commands", b"\xff", orjson.dumps(save(2, "k")), pika.BasicProperties(priority=9)
        )
        channel.basic_publish(
            "holdfast.commands", "ingress", orjson.dumps(save(3, "k")), pika.BasicProperties(timestamp=2**63)
        )
        connection.close()

    await asyncio.to_thread(publish)
    letters = await cluster.dead_letters(2 * len(bad))
    async with holdfast.connect(cluster.amqp_url) as client:
        await cluster.until(lambda: cluster.depth("holdfast.ingress") == 0, "the ingress drained")
        await client.save("k", 1)

    assert {letter.headers["x-holdfast-reason"] for letter in letters} == {"bad_properties"}
    assert all(orjson.loads(letter.body)["id"].startswith("id-bad-") for letter in letters)
    records = await read_log(cluster.mongo_url)
    assert {"id-1", "id-2", "id-3"} < {record.id for record in records}
    assert len(records) == 4
    assert "session lost" not in worker.log_path.read_text()


# No room, no time.


async def test_a_full_queue_is_unavailable_at_once(cluster: Cluster) -> None:
    """When a partition takes no more, its callers are told that nothing happened; another partition is not touched."""
    (worker,) = await cluster.start(queue_max_length=20)
    other = next(f"k{n}" for n in range(99) if partition(f"k{n}") != partition("k"))
    async with holdfast.connect(cluster.amqp_url, timeout=60) as client, raw_client(cluster.amqp_url) as raw:
        await asyncio.to_thread(worker.stop)
        filled = 0
        with contextlib.suppress(DeliveryError):
            while filled < 1_000:
                await raw.send(save(filled, "k", filled), partition("k"))
                filled += 1
        assert 20 <= filled < 1_000
        waiting = asyncio.create_task(client.save(other, 1))

        with pytest.raises(Unavailable, match="queue is full") as refused:
            await client.save("k", "refused")

        assert not isinstance(refused.value, ExpiredError)
        await asyncio.to_thread(worker.start)
        assert (await waiting).version == 1
        await raw.answers(*(f"id-{number}" for number in range(filled)))
        entry = await client.save("k", "taken")

    assert entry.version == filled + 1


async def test_a_full_queue_is_told_by_way_of_the_ingress_too(cluster: Cluster) -> None:
    """Commands that a worker cannot forward are answered `unavailable`, or kept as dead letters; others go on."""
    await cluster.start(queue_max_length=20)
    other = next(f"k{n}" for n in range(99) if partition(f"k{n}") != partition("k"))
    connection = await aio_pika.connect(cluster.amqp_url)
    async with connection, raw_client(cluster.amqp_url) as raw:
        # It takes one message of the partition and sits on it, so that the worker gets none, and the queue fills.
        channel = await connection.channel()
        await channel.set_qos(1)
        queue = await channel.get_queue(partition_queue(int(partition("k"))))
        taken = asyncio.Event()

        async def hog(_: object) -> None:
            taken.set()

        await queue.consume(hog, arguments={"x-priority": 2**31 - 1})
        filled = 0
        with contextlib.suppress(DeliveryError):
            while filled < 1_000:
                await raw.send(save(filled, "k", filled), partition("k"))
                filled += 1
        await taken.wait()
        assert 20 <= filled < 1_000

        await raw.send(save("object", "k", "refused"), "ingress")
        (alone,) = await raw.answers("id-object")
        await raw.send([save("in-array", "k", "refused"), save("else", other, 1)], "ingress")
        in_array, elsewhere = await raw.answers("id-in-array", "id-else")
        await raw.send(save("silent", "k", "refused"), "ingress", reply=False)
        (letter,) = await cluster.dead_letters(1)
        await connection.close()
        await raw.answers(*(f"id-{number}" for number in range(filled)))

    for answer in (alone, in_array):
        assert (answer["status"], answer["error"]["code"]) == ("unavailable", "queue_full")
    assert (elsewhere["status"], elsewhere["version"]) == ("ok", 1)
    assert letter.headers["x-holdfast-reason"] == "queue_full"
    assert orjson.loads(letter.body)["id"] == "id-silent"
    assert_versions(await read_log(cluster.mongo_url), {"k": list(range(filled)), other: [1]})


async def test_what_is_late_is_not_applied_however_often_it_is_delivered(cluster: Cluster) -> None:
    """A command that waited in its queue beyond its deadline is refused for good, also when it is delivered again."""
    (worker,) = await cluster.start()
    async with holdfast.connect(cluster.amqp_url) as client, raw_client(cluster.amqp_url) as raw:
        await asyncio.to_thread(worker.stop)
        now = client._clock.offset + asyncio.get_running_loop().time() * 1000
        late = save("late", "k", 1, deadline=int(now))
        await raw.send(late, partition("k"))
        with pytest.raises(OutcomeUnknown) as unknown:
            await client.save("k", 2, timeout=0.5)

        await asyncio.to_thread(worker.start)
        first = await raw.answers("id-late")
        await raw.send(late, partition("k"))
        again = await raw.answers("id-late", count=2)
        await raw.send({**late, "deadline": None}, partition("k"))
        without = await raw.answers("id-late", count=3)
        with pytest.raises(ExpiredError, match="deadline"):
            await client.save("k", 2, id=unknown.value.id)
        assert await client.read("k") is None

    assert [answer["status"] for (answer,) in (first, again, without)] == ["expired"] * 3
    assert not [record for record in await read_log(cluster.mongo_url) if isinstance(record, Event)]


# Detours.


async def test_messages_for_elsewhere_find_their_way(cluster: Cluster) -> None:
    """Commands on a wrong partition, by the ingress, or in an array of many partitions are applied, once each."""
    await cluster.start(2)
    keys = [f"key-{number}" for number in range(40)]
    async with raw_client(cluster.amqp_url) as raw:
        for number, key in enumerate(keys):
            wrong = str((int(partition(key)) + 1) % PARTITIONS)
            await raw.send(save(f"wrong-{number}", key, 1), wrong)
        await raw.answers(*(f"id-wrong-{number}" for number in range(40)))
        await raw.send([save(f"array-{number}", key, 2) for number, key in enumerate(keys)], "anything")
        await raw.answers(*(f"id-array-{number}" for number in range(40)))
        # To a partition that is the right one for some of them only.
        await raw.send([save(f"mixed-{number}", key, 3) for number, key in enumerate(keys)], "0")
        answers = await raw.answers(*(f"id-mixed-{number}" for number in range(40)))
        without_id = {"op": "save", "key": "key-0", "value": 4}
        await raw.send(without_id, "ingress", message_id="message-1", correlation_id="c-1")
        (last,) = await raw.answers("message-1")

    assert {answer["version"] for answer in answers} == {3}
    assert last["version"] == 4
    assert_versions(await read_log(cluster.mongo_url), {key: [1, 2, 3] for key in keys} | {"key-0": [1, 2, 3, 4]})


def assert_versions(records: list[Record], expected: dict[str, list[Any]]) -> None:
    """Each key has these values, in this order, as its versions."""
    events = sorted((record for record in records if isinstance(record, Event)), key=lambda event: event.version)
    found: dict[str, list[Any]] = {}
    for event in events:
        found.setdefault(event.key, []).append(event.value)
        assert event.version == len(found[event.key])
    assert found == expected


async def test_the_ingress_under_the_death_of_a_worker(cluster: Cluster) -> None:
    """Whatever was being forwarded when its worker died is forwarded once or twice, applied once, and in order."""
    victim, _ = await cluster.start(2, heartbeat=2)
    count, keys = 1_500, 20
    async with raw_client(cluster.amqp_url) as raw:

        async def publish() -> None:
            for number in range(count):
                await raw.send(save(number, f"key-{number % keys}", number), "ingress")

        publishing = asyncio.create_task(publish())
        await raw.answers(*(f"id-{number}" for number in range(count // 4)))
        await asyncio.to_thread(victim.kill)
        await publishing
        await cluster.start()
        # Replies to what the victim had in its hands may be lost: who misses one asks again.
        await cluster.until(
            lambda: cluster.depth("holdfast.ingress") + cluster.waiting() == 0, "ingress and partitions drained"
        )
        unanswered = [number for number in range(count) if f"id-{number}" not in raw.replies]
        for number in unanswered:
            await raw.send(save(number, f"key-{number % keys}", number), "ingress")
        answers = await raw.answers(*(f"id-{number}" for number in range(count)))

    assert {answer["status"] for answer in answers} == {"ok"}
    assert_versions(
        await read_log(cluster.mongo_url), {f"key-{key}": list(range(key, count, keys)) for key in range(keys)}
    )
