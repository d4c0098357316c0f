"""What makes processing itself fail ends among the dead letters, whoever gives it up, and is replayed from there."""

import asyncio
import os
import subprocess
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import orjson
import pytest
from support.cluster import PARTITIONS, Cluster
from support.load import read_log
from support.raw import raw_client

import holdfast
from holdfast.dead import DeadLetter, Filter, Outcome, Replayer, open_dead_letters, open_sender, replay_letters
from holdfast.events import Event, partition_of

POISONED_WORKER = str(Path(__file__).with_name("poisoned_worker.py"))
LETTER = "00000000000000a1"


def save(number: int | str, key: str, value: Any = None) -> dict[str, Any]:
    return {"op": "save", "id": f"id-{number}", "key": key, "value": value}


def partition(key: str) -> str:
    return str(partition_of("default", key, PARTITIONS))


@asynccontextmanager
async def poisoned(cluster: Cluster, how: str) -> AsyncIterator[list[int]]:
    """A worker that cannot stand one key, started again whenever it has died. Gives the list of its exit codes."""
    settings = {
        "HOLDFAST_AMQP_URL": cluster.amqp_url,
        "HOLDFAST_MONGO_URL": cluster.mongo_url,
        "HOLDFAST_PARTITIONS": str(PARTITIONS),
    }
    worker: Process | None = None
    deaths: list[int] = []

    async def keep() -> None:
        nonlocal worker
        while True:
            worker = await asyncio.create_subprocess_exec(
                sys.executable, POISONED_WORKER, how, env=os.environ | settings, stderr=subprocess.DEVNULL
            )
            deaths.append(await worker.wait())

    keeping = asyncio.create_task(keep())
    try:
        yield deaths
    finally:
        keeping.cancel()
        if worker is not None and worker.returncode is None:
            worker.kill()
            await worker.wait()


async def letters(cluster: Cluster) -> list[DeadLetter]:
    """What is in the dead letter queue. It stays there."""
    async with open_dead_letters(cluster.amqp_url) as queue:
        return [held.letter async for page in queue.pages() for held in page]


async def replay(cluster: Cluster, *, timeout: float = 60) -> dict[str | None, str]:
    """Replay all letters, and give what became of each command."""
    outcomes: list[Outcome] = []
    async with open_dead_letters(cluster.amqp_url) as queue, open_sender(cluster.amqp_url, timeout=60) as sender:
        sender.timeout = timeout
        await replay_letters(queue, Replayer(sender), Filter(), told=outcomes.append)
    return {outcome.id: outcome.status for outcome in outcomes}


async def bury(cluster: Cluster, command: dict[str, Any]) -> None:
    """Put a command where a worker would have put it."""
    connection = await aio_pika.connect(cluster.amqp_url)
    async with connection:
        channel = await connection.channel(on_return_raises=True)
        now = int(time.time() * 1000)
        headers: dict[str, Any] = {
            "x-holdfast-letter": LETTER,
            "x-holdfast-reason": "poison",
            "x-holdfast-time": now,
        }
        message = aio_pika.Message(orjson.dumps(command), headers=headers, delivery_mode=2)
        await channel.default_exchange.publish(message, "holdfast.dead")


async def applied(cluster: Cluster) -> list[str]:
    """The ids of the commands in the log."""
    return sorted(record.id for record in await read_log(cluster.mongo_url) if isinstance(record, Event))


@pytest.mark.timeout(300)  # workers start and die, one after the other
async def test_what_the_broker_gives_up_is_a_dead_letter_and_nothing_is_lost_with_it(cluster: Cluster) -> None:
    """A policy gives a message two chances more. The deadly one ends among the dead letters, for that reason.

    What was in hand with it may end there, too, since it came back as often, even if it was applied: a worker that dies
    has not acknowledged what waited for the feed. What came behind it is served. Replayed to a worker that can stand
    it, all of it is applied, once.
    """
    arguments = ("-p", cluster.vhost, "limit", r"^holdfast\.commands\.", '{"delivery-limit": 2}')
    await asyncio.to_thread(cluster.rabbit.ctl, "set_policy", *arguments, "--apply-to", "quorum_queues")
    keys = [key for key in (f"k{n}" for n in range(999)) if partition(key) == partition("poison")][:30]
    async with poisoned(cluster, "die"):
        async with holdfast.connect(cluster.amqp_url, timeout=60):
            pass  # the queues are there
        async with raw_client(cluster.amqp_url) as raw:
            for key in keys[:10]:
                await raw.send(save(key, key), partition(key), reply=False)
            await raw.send(save("poison", "poison"), partition("poison"))
            for key in keys[10:20]:
                await raw.send(save(key, key), partition(key), reply=False)
            await cluster.until(lambda: cluster.depth("holdfast.dead") > 0, "the broker has given something up", 60)
            for key in keys[20:]:
                await raw.send(save(key, key), partition(key))
            # More of what was in hand may follow it, until that was there as often.
            answers = await raw.answers(*(f"id-{key}" for key in keys[20:]))
            await cluster.until(lambda: cluster.waiting() == 0, "the partitions are empty")
            assert {answer["status"] for answer in answers} == {"ok"}

    dead = await letters(cluster)
    assert {letter.reason for letter in dead} == {"delivery_limit"}
    assert {letter.queue for letter in dead} == {f"holdfast.commands.{partition('poison')}"}
    buried = [entry.id or "" for letter in dead for entry in letter.entries]
    assert "id-poison" in buried
    everything = sorted(["id-poison", *(f"id-{key}" for key in keys)])
    assert len(buried) == len(set(buried))
    assert sorted({*await applied(cluster), *buried}) == everything

    await cluster.start()
    assert await replay(cluster) == dict.fromkeys(buried, "ok")
    assert await letters(cluster) == []
    assert await applied(cluster) == everything


@pytest.mark.timeout(300)  # six of them
async def test_a_letter_that_kills_workers_again_is_there_once(cluster: Cluster) -> None:
    """A deadly letter is replayed to workers that still die of it: no answer. It is not buried a second time.

    Replayed to a worker that can stand it, its command is applied, once, and it is gone.
    """
    async with poisoned(cluster, "die") as deaths, holdfast.connect(cluster.amqp_url, timeout=60) as client:
        await bury(cluster, save("poison", "poison"))
        assert await replay(cluster, timeout=10) == {"id-poison": "unknown"}
        await cluster.until(lambda: cluster.waiting() == 0, "the deadly message is given up", 100)
        await client.save(next(f"k{n}" for n in range(99) if partition(f"k{n}") == partition("poison")), 1)
        assert len(deaths) == 6
    assert [letter.id for letter in await letters(cluster)] == [LETTER]
    assert "id-poison" not in await applied(cluster)

    await cluster.start()
    assert await replay(cluster) == {"id-poison": "ok"}
    assert await letters(cluster) == []
    assert (await applied(cluster)).count("id-poison") == 1


async def test_a_letter_that_fails_again_is_there_once(cluster: Cluster) -> None:
    """A letter is replayed to a worker that still fails on it: that is said each time, and it stays the one letter."""
    async with poisoned(cluster, "raise"):
        async with holdfast.connect(cluster.amqp_url, timeout=60):
            pass  # the queues are there
        async with raw_client(cluster.amqp_url) as raw:
            await raw.send(save("poison", "poison"), partition("poison"))
            await raw.answers("id-poison")
        await cluster.until(lambda: cluster.depth("holdfast.dead") == 1, "the command is buried")
        (letter,) = await letters(cluster)
        assert letter.reason == "internal"
        for _ in range(2):
            assert await replay(cluster) == {"id-poison": "internal"}
            # Whatever it does after its answer, it has done when the next one is there.
            async with holdfast.connect(cluster.amqp_url, timeout=60) as client:
                await client.read("poison")
    assert [other.id for other in await letters(cluster)] == [letter.id]

    await cluster.start()
    assert await replay(cluster) == {"id-poison": "ok"}
    assert await letters(cluster) == []
    assert await applied(cluster) == ["id-poison"]
