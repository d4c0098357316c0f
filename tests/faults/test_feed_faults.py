"""The change feed and the outbox when workers, connections and brokers die: nothing is missed or told twice."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import aio_pika
import orjson
import pytest
from support.load import Load, check_log, read_log

import holdfast
from chaos.cluster import Cluster
from chaos.raw import raw_client
from chaos.steps import Step
from holdfast import CaughtUp, Change, OutboxMessage, Watch
from holdfast.events import Event


class Follower:
    """Takes what a watch gives, and checks it on the way: versions of a key go up by one, each once."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.changes: list[Change] = []
        self.newest: dict[str, int] = {}
        self._caught_up = asyncio.Event()
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for item in self._watch:
            if isinstance(item, CaughtUp):
                assert not self._caught_up.is_set(), "a second end of the beginning"
                self._caught_up.set()
                continue
            if not item.initial:
                assert item.version == self.newest.get(item.key, 0) + 1, item
            self.newest[item.key] = item.version
            self.changes.append(item)
            self._news.set()

    async def caught_up(self) -> None:
        """Wait for the end of the beginning."""
        async with asyncio.timeout(60):
            await self._or_fail(self._caught_up)

    async def until(self, newest: dict[str, int]) -> None:
        """Wait until these versions were told."""
        async with asyncio.timeout(60):
            while any(self.newest.get(key, 0) < version for key, version in newest.items()):
                self._news.clear()
                await self._or_fail(self._news)

    async def _or_fail(self, event: asyncio.Event) -> None:
        waiting = asyncio.ensure_future(event.wait())
        await asyncio.wait({waiting, self._task}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._task.done():
            self._task.result()

    async def end(self) -> None:
        """Stop taking."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def compare(follower: Follower, mongo_url: str) -> None:
    """What was told is what is in the log: all of it, in the order of each key, with its values, and nothing else."""
    told: defaultdict[str, list[tuple[int, str, Any, str]]] = defaultdict(list)
    for change in follower.changes:
        told[change.key].append((change.version, change.type, change.value, change.id))
    log: defaultdict[str, list[tuple[int, str, Any, str]]] = defaultdict(list)
    for record in await read_log(mongo_url):
        if isinstance(record, Event):
            log[record.key].append((record.version, record.type, record.value, record.id))
    assert {key: sorted(events) for key, events in log.items()} == dict(told)


@pytest.mark.parametrize("step", [Step.APPENDED, Step.PUBLISHING, Step.PUBLISHED, Step.ACKNOWLEDGING])
async def test_a_worker_dies_between_commit_and_acknowledgement(cluster: Cluster, step: Step) -> None:
    """The only worker dies with an event in the log and perhaps not in the feed: its successor publishes it."""
    worker = cluster.mortal_worker()
    await asyncio.to_thread(worker.start)
    async with holdfast.connect(cluster.amqp_url, timeout=60) as client, client.watch() as watch:
        follower = Follower(watch)
        await follower.caught_up()
        await client.save("k/1", "old")
        await follower.until({"k/1": 1})
        await cluster.until(lambda: cluster.waiting() == 0, "all acknowledged")
        worker.die_at(step)
        saving = asyncio.gather(client.save("k/1", "new"), client.save("k/2", {"deep": [1]}))
        await cluster.until(lambda: not worker.running, f"death {step}")
        await asyncio.to_thread(worker.start)
        await saving
        await follower.until({"k/1": 2, "k/2": 1})
        await follower.end()

    await compare(follower, cluster.mongo_url)


async def test_a_raw_consumer_loses_nothing_either(cluster: Cluster) -> None:
    """What a death leaves unpublished comes by plain AMQP, too, without our client, and without a notice or a look."""
    worker = cluster.mortal_worker()
    await asyncio.to_thread(worker.start)
    async with raw_client(cluster.amqp_url) as raw, await aio_pika.connect(cluster.amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("", exclusive=True)
        await queue.bind("holdfast.events", "default.k")
        worker.die_at(Step.PUBLISHING)
        await raw.send({"op": "save", "id": "one", "key": "k/1", "value": 1}, "any")
        await raw.answers("one")
        await cluster.until(lambda: not worker.running, "death before publish")
        assert await queue.get(fail=False) is None
        await asyncio.to_thread(worker.start)
        async with asyncio.timeout(30), queue.iterator(no_ack=True) as messages:
            message = await anext(messages)

    (event,) = json.loads(message.body)
    assert (event["id"], event["data"]["value"], event["data"]["id"]) == ("k/1@1", 1, "one")


async def test_workers_die_under_load(cluster: Cluster) -> None:
    """One of two workers dies before it publishes, again and again: a watcher is told the log, no more and no less."""
    victim, other = cluster.mortal_worker("victim"), cluster.worker("other")
    await asyncio.gather(asyncio.to_thread(victim.start), asyncio.to_thread(other.start))
    async with holdfast.connect(cluster.amqp_url, max_in_flight=200) as client, client.watch() as watch:
        follower = Follower(watch)
        await follower.caught_up()
        for number, step in enumerate((Step.PUBLISHING, Step.PUBLISHED, Step.PUBLISHING)):
            load = Load(client, saves=2_000, keys=60, name=f"load-{number}")
            victim.die_at(step, 3)
            await asyncio.gather(load.run(), cluster.until(lambda: not victim.running, f"death {step}"))
            assert load.failed == {}
            await asyncio.to_thread(victim.start)
        newest = {record.key: 0 for record in await read_log(cluster.mongo_url)}
        for record in await read_log(cluster.mongo_url):
            if isinstance(record, Event):
                newest[record.key] = max(newest[record.key], record.version)
        await follower.until(newest)
        await follower.end()

    assert len(follower.changes) == 6_000
    await compare(follower, cluster.mongo_url)


@pytest.mark.parametrize("fault", ["the broker is restarted", "the watch is disconnected"])
async def test_what_a_watcher_misses_is_told_when_it_is_back(on_fragile_rabbit: Cluster, fault: str) -> None:
    """Connections break under load, and what was published meanwhile went to nobody: it is told all the same."""
    cluster = on_fragile_rabbit
    await cluster.start(2)
    async with holdfast.connect(cluster.amqp_url, timeout=90) as client:
        await client.save("before", 1)
        async with client.watch() as watch:
            follower = Follower(watch)
            await follower.caught_up()
            load = Load(client, saves=4_000, keys=50, timeout=90)
            running = asyncio.create_task(load.run())
            if fault == "the broker is restarted":
                # Once: on a busy machine it takes the better part of a minute.
                await load.at(0.3)
                await asyncio.to_thread(cluster.rabbit.stop)
                await asyncio.to_thread(cluster.rabbit.start)
            else:
                for share in (0.2, 0.5):
                    await load.at(share)
                    await cluster.until(
                        lambda: cluster.close_connections_named("holdfast watch") == 1, "the watch is disconnected"
                    )
            await running
            await client.delete("before")
            await follower.until({"before": 2, **dict.fromkeys(load.keys, 80)})
            await follower.end()

    assert load.failed == {}
    check_log([record for record in await read_log(cluster.mongo_url) if record.key != "before"], load)
    await compare(follower, cluster.mongo_url)


# -- messages that writes carry


def allow(path: Path, mongo_url: str, *exchanges: str) -> Path:
    """A configuration file that lets messages go to these exchanges."""
    path.write_text(f"[stores.default]\nurl = {json.dumps(mongo_url)}\n[outbox]\nexchanges = {json.dumps(exchanges)}\n")
    return path


class Target:
    """An exchange of an application's own, and a queue with what came to it."""

    def __init__(self, queue: aio_pika.abc.AbstractQueue) -> None:
        self.queue = queue
        self.messages: list[aio_pika.abc.AbstractIncomingMessage] = []
        self._news = asyncio.Event()

    async def take(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        self.messages.append(message)
        self._news.set()

    async def until(self, ids: set[str]) -> None:
        """Wait until messages with these ids have come."""
        async with asyncio.timeout(60):
            while not ids <= {str(message.message_id) for message in self.messages}:
                self._news.clear()
                await self._news.wait()


async def target(channel: aio_pika.abc.AbstractChannel, name: str = "orders", **arguments: Any) -> Target:
    exchange = await channel.declare_exchange(name, "direct", durable=True)
    queue = await channel.declare_queue(f"{name}.placed", durable=True, arguments=arguments or None)
    await queue.bind(exchange, "placed")
    return Target(queue)


async def through_a_death(
    cluster: Cluster,
    folder: Path,
    step: Step,
    calls: Callable[[holdfast.Client], Iterable[Coroutine[Any, Any, Any]]],
    ids: set[str],
) -> tuple[Target, list[Any]]:
    """Let a worker die at a step of calls whose writes carry messages, and another one do the rest.

    :param ids: of the messages that have to come.
    :returns: what has come, and the outcomes of the calls.
    """
    config = allow(folder / "holdfast.toml", cluster.mongo_url, "orders")
    # Without a feed the first message that is published is one that a write carries.
    worker = cluster.mortal_worker(config_file=config, feed="off")
    await asyncio.to_thread(worker.start)
    async with await aio_pika.connect(cluster.amqp_url) as connection:
        it = await target(await connection.channel())
        await it.queue.consume(it.take, no_ack=True)
        async with holdfast.connect(cluster.amqp_url, timeout=60) as client:
            await client.save("taken", 1)
            await cluster.until(lambda: cluster.waiting() == 0, "all acknowledged")
            worker.die_at(step)
            calling = asyncio.gather(*calls(client), return_exceptions=True)
            await cluster.until(lambda: not worker.running, f"death {step}")
            await asyncio.to_thread(worker.start)
            outcomes = await calling
            await it.until(ids)
            await cluster.until(lambda: cluster.waiting() == 0, "all acknowledged")
    return it, outcomes


@pytest.mark.parametrize("step", [Step.APPENDING, Step.APPENDED, Step.PUBLISHING, Step.PUBLISHED])
async def test_messages_of_a_write_survive_their_worker(cluster: Cluster, tmp_path: Path, step: Step) -> None:
    """A worker dies between commit and publish: its successor publishes, in order, what was committed and no more."""

    def calls(client: holdfast.Client) -> Iterable[Coroutine[Any, Any, Any]]:
        for n in range(5):
            yield client.save("k", n, id=f"save-{n}", messages=[message(n), message(n)])
        yield client.save("taken", 2, id="refused", first_write=True, messages=[message(9)])

    wanted = {f"save-{n}/{m}" for n in range(5) for m in range(2)}
    it, (*saved, refused) = await through_a_death(cluster, tmp_path, step, calls, wanted)
    assert [entry.version for entry in saved if isinstance(entry, holdfast.Entry)] == [1, 2, 3, 4, 5]
    assert isinstance(refused, holdfast.ConflictError)
    ids = [str(each.message_id) for each in it.messages]
    assert set(ids) == wanted
    firsts = list(dict.fromkeys(ids))
    assert firsts == sorted(firsts), "messages of one key came in another order than its versions"
    for each in it.messages:
        number = int(str(each.message_id)[5])
        assert orjson.loads(each.body) == {"order": number}
        assert each.headers == {
            "who": "shop", "x-holdfast-store": "default", "x-holdfast-key": "k", "x-holdfast-version": number + 1,
        }  # fmt: skip


@pytest.mark.parametrize("step", [Step.APPENDING, Step.COMMITTING, Step.APPENDED, Step.PUBLISHING, Step.PUBLISHED])
async def test_messages_of_a_transaction_survive_their_worker(cluster: Cluster, tmp_path: Path, step: Step) -> None:
    """A worker dies around a commit: what was committed is published, in the order of its first key, and no more."""

    def calls(client: holdfast.Client) -> Iterable[Coroutine[Any, Any, Any]]:
        def both(number: int, *more: holdfast.Step) -> Coroutine[Any, Any, Any]:
            steps = [holdfast.Save("a", number), holdfast.Save(f"b/{number}", number), *more]
            return client.transact(steps, id=f"t-{number}", messages=[message(number), message(number)])

        yield both(0)
        yield client.save("a", 1, id="t-1", messages=[message(1), message(1)])
        yield both(2)
        yield both(9, holdfast.Check("taken", exists=False))

    wanted = {f"t-{n}/{m}" for n in range(3) for m in range(2)}
    it, (first, second, third, refused) = await through_a_death(cluster, tmp_path, step, calls, wanted)
    assert isinstance(second, holdfast.Entry)
    assert isinstance(first, list)
    assert isinstance(third, list)
    assert [first[0].version, second.version, third[0].version] == [1, 2, 3]
    assert isinstance(refused, holdfast.ConflictError)
    assert [str(each.message_id) for each in it.messages if str(each.message_id).startswith("t-9")] == []
    firsts = list(dict.fromkeys(str(each.message_id) for each in it.messages))
    assert firsts == [f"t-{n}/{m}" for n in range(3) for m in range(2)]
    for each in it.messages:
        number = int(str(each.message_id)[2])
        assert orjson.loads(each.body) == {"order": number}
        assert (each.headers["x-holdfast-key"], each.headers["x-holdfast-version"]) == ("a", number + 1)


def message(number: int, **more: Any) -> OutboxMessage:
    return OutboxMessage(
        **{"exchange": "orders", "routing_key": "placed", "body": {"order": number}, "headers": {"who": "shop"}} | more
    )
