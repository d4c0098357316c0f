"""Queues of applications that neither take nor refuse what the service tells them: they hold up nobody else."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
from support.cluster import Cluster
from support.shell import holdfast as command_line
from support.stuck import stuck
from support.told import reading

import holdfast
from holdfast import OutboxMessage
from holdfast.events.topology import EVENTS
from holdfast.health import check_health
from holdfast.local import WorkerServer

STREAM = f"{EVENTS}.default"
#: Keys, and how often each is saved: more than a worker takes in hand when it takes one message for each partition.
KEYS = [f"k/{number}" for number in range(6)]
SAVES = 5
#: Of writes that carry messages for a queue that says nothing.
IDS = [f"order-{number}" for number in range(3)]


@asynccontextmanager
async def a_channel(cluster: Cluster) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    async with await aio_pika.connect(cluster.amqp_url) as connection:
        yield await connection.channel()


async def bound(channel: aio_pika.abc.AbstractChannel, name: str, exchange: str, key: str, kind: str) -> None:
    queue = await channel.declare_queue(name, durable=True, arguments={"x-queue-type": kind})
    await queue.bind(exchange, key)


def configured(cluster: Cluster, folder: Path, settings: str) -> Path:
    path = folder / "holdfast.toml"
    path.write_text(f"[stores.default]\nurl = {json.dumps(cluster.mongo_url)}\n{settings}")
    return path


async def save_all(client: holdfast.Client, first: int, **options: Any) -> None:
    """One after another, so that each is a message and a batch of its own."""
    for version in range(first, first + SAVES):
        for key in KEYS:
            assert (await client.save(key, version, **options)).version == version


async def all_acknowledged(cluster: Cluster, worker: WorkerServer) -> None:
    await cluster.until(lambda: cluster.waiting() == 0, "all acknowledged")
    assert "session lost" not in worker.log_path.read_text()


async def test_a_queue_that_says_nothing_holds_up_only_what_it_gets(cluster: Cluster, tmp_path: Path) -> None:
    """Bound to the change feed: commands are acknowledged, the stream is told everything, watches find it in the log,
    and what it does not get goes on to all. When it is back, all are told everything; one that is not is unbound.
    """
    (worker,) = await cluster.start(config_file=configured(cluster, tmp_path, "[feed]\npatience = 1\n"), prefetch=1)
    async with (
        a_channel(cluster) as channel,
        holdfast.connect(cluster.amqp_url, timeout=60) as client,
        reading(cluster.amqp_url, STREAM, x_stream_offset="first") as stream,
    ):
        await bound(channel, "mine", EVENTS, "default.k", "quorum")
        await bound(channel, "lost", EVENTS, "default.lost", "quorum")
        await bound(channel, "others", EVENTS, "#", "classic")
        async with reading(cluster.amqp_url, "others") as others, client.watch() as watch:
            with stuck(cluster, "lost"), stuck(cluster, "mine"):
                await save_all(client, 1)
                await client.save("lost/1", 1)
                await all_acknowledged(cluster, worker)
                await cluster.until(
                    lambda: "gets default.k, default.lost holds up" in check_health(worker.health_path), "health"
                )
                assert "neither taken nor refused" in worker.log_path.read_text()
                await client.save("aside/1", 1)
                newest = dict.fromkeys(KEYS, SAVES)
                await asyncio.gather(
                    stream.until_whole(newest), watched(watch, newest), others.until_whole({"aside/1": 1})
                )
                assert stream.by_exchange[""] >= SAVES * len(KEYS)
                # The broker does not delete what says nothing, either.
                await (await channel.get_queue("lost")).unbind(EVENTS, "default.lost")
                await cluster.until_told(worker, "'default.lost' is confirmed")
                await others.until_whole({"lost/1": 1})
            await cluster.until_told(worker, "'default.k' is confirmed")
            await cluster.until(lambda: check_health(worker.health_path).endswith("is ready"), "healthy")
            before = stream.by_exchange[""]
            await save_all(client, SAVES + 1)
            await all_acknowledged(cluster, worker)
            newest = dict.fromkeys(KEYS, 2 * SAVES)
            async with reading(cluster.amqp_url, "mine") as mine:
                await asyncio.gather(*(told.until_whole(newest) for told in (mine, others, stream)))
            assert stream.by_exchange[""] == before, "the feed does not go its usual way again"


async def watched(watch: holdfast.Watch, newest: dict[str, int]) -> None:
    """Take from a watch until it has told these versions."""
    seen: dict[str, int] = {}
    async with asyncio.timeout(60):
        async for item in watch:
            if isinstance(item, holdfast.Change):
                assert item.initial or item.version == seen.get(item.key, 0) + 1, item
                seen[item.key] = item.version
            if all(seen.get(key) == version for key, version in newest.items()):
                return


async def test_messages_of_writes_hold_up_only_themselves(cluster: Cluster, tmp_path: Path) -> None:
    """Carried by writes to such a queue: these writes become dead letters, all other commands go on, and replayed when
    it is back they publish what they carried.
    """
    config = configured(cluster, tmp_path, "[outbox]\nexchanges = ['orders', 'notes']\n")
    (worker,) = await cluster.start(config_file=config, prefetch=1)
    async with a_channel(cluster) as channel, holdfast.connect(cluster.amqp_url, timeout=60) as client:
        for name in ("orders", "notes"):
            await channel.declare_exchange(name, "fanout", durable=True)
            await bound(channel, name, name, "", "quorum")
        with stuck(cluster, "orders"):
            for number, name in enumerate(IDS):
                carried = OutboxMessage(exchange="orders", body=number)
                await client.save("order", number, id=name, messages=[carried])
            await save_all(client, 1, messages=[OutboxMessage(exchange="notes", body="noted")])
            await all_acknowledged(cluster, worker)
            notes = await channel.get_queue("notes")
            for _ in range(SAVES * len(KEYS)):
                await notes.get(no_ack=True)
            order = await client.read("order")
            assert order is not None
            assert (order.version, order.value) == (3, 2)

        letters = await dead(cluster, "list", "--json")
        # One more where a client that got no answer for some seconds has asked again.
        buried = {(letter["id"], letter["reason"]) for letter in map(json.loads, letters)}
        assert buried == {(name, "outbox_refused") for name in IDS}
        orders = await channel.get_queue("orders")
        await orders.purge()
        came: set[str | None] = set()
        # For some seconds the exchange is not tried, and they come back.
        async with asyncio.timeout(60):
            while letters or came != {f"{name}/0" for name in IDS}:
                if letters:
                    await dead(cluster, "replay", "--all")
                while (message := await orders.get(no_ack=True, fail=False)) is not None:
                    came.add(message.message_id)
                letters = await dead(cluster, "list", "--json")


async def dead(cluster: Cluster, *arguments: str) -> list[str]:
    done = await asyncio.to_thread(command_line, "dead", *arguments, amqp_url=cluster.amqp_url)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
