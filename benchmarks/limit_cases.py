"""The cases of ``python -m benchmarks.limits``: each brings one thing to its limit."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import aio_pika
import orjson
from aio_pika.exceptions import DeliveryError

import holdfast
from holdfast.events import Event, partition_of
from holdfast.stores import MongoStore

if TYPE_CHECKING:
    from .limits import Finding, Stage

_PARTITIONS = 8
_VALUE = {"name": "Ada", "tags": ["a", "b", "c"], "text": "x" * 120}
#: Published and not confirmed at one time.
_UNCONFIRMED = 500
#: About the largest value, and the largest that becomes the most objects in memory.
_LARGE = "x" * (2**20 - 100)
_DENSE: list[Any] = [{}] * (2**20 // 3 - 10)


async def _publish(url: str, messages: Iterable[tuple[str, Any]], reply_to: str | None = None) -> None:
    """Publish commands to routing keys, with confirms."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel(on_return_raises=True)
        exchange = await channel.get_exchange("holdfast.commands")
        places = asyncio.Semaphore(_UNCONFIRMED)

        async def publish(key: str, commands: Any) -> None:
            try:
                message = aio_pika.Message(orjson.dumps(commands), reply_to=reply_to, delivery_mode=2)
                await exchange.publish(message, key)
            finally:
                places.release()

        async with asyncio.TaskGroup() as tasks:
            for key, commands in messages:
                await places.acquire()
                tasks.create_task(publish(key, commands))


def _save(number: int, value: Any = _VALUE, keys: int = 10_000) -> dict[str, Any]:
    return {"op": "save", "id": f"id-{number}", "key": f"key/{number % keys}", "value": value}


def _route(command: dict[str, Any]) -> str:
    return str(partition_of("default", command["key"], _PARTITIONS))


def _grouped(commands: Iterable[dict[str, Any]], size: int) -> Iterable[tuple[str, list[dict[str, Any]]]]:
    """Commands as arrays of one partition each."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for command in commands:
        group = groups.setdefault(_route(command), [])
        group.append(command)
        if len(group) == size:
            yield _route(command), group
            del groups[_route(command)]
    yield from groups.items()


async def _backlog(stage: "Stage", case: str, messages: Iterable[tuple[str, Any]], **notes: Any) -> "Finding":
    """A worker that starts with a backlog."""
    await stage.start_worker()
    await asyncio.to_thread(stage.end_worker)
    began = time.perf_counter()
    await _publish(stage.amqp_url, messages)
    notes["published_s"] = round(time.perf_counter() - began, 1)
    await stage.start_worker()

    async def drain() -> dict[str, Any]:
        await stage.until_empty()
        return notes

    return await stage.measured(case, drain)


async def backlog(stage: "Stage") -> list["Finding"]:
    """A million commands that wait: 200,000 alone in their messages, 800,000 in arrays of 100."""
    alone, together = stage.scaled(200_000), stage.scaled(800_000)
    singles = ((_route(command), command) for command in map(_save, range(alone)))
    arrays = _grouped(map(_save, range(alone, alone + together)), 100)

    def messages() -> Iterable[tuple[str, Any]]:
        yield from singles
        yield from arrays

    found = await _backlog(stage, "backlog", messages(), commands=alone + together)
    found.notes["commands_per_s"] = round((alone + together) / found.seconds)
    return [found]


async def large_messages(stage: "Stage") -> list["Finding"]:
    """The broker's whole prefetch and more, of messages of 3 MiB: values of 1 MiB, as text and as very many objects."""
    findings = []
    keys = {_route({"key": f"k{number}"}): f"k{number}" for number in range(200)}
    for case, value in (("large messages, text", _LARGE), ("large messages, objects", _DENSE)):
        count = stage.scaled(400)
        groups = (
            (to, [_save(3 * number + part, value) | {"key": keys[to]} for part in range(3)])
            for number in range(count)
            for to in [str(number % _PARTITIONS)]
        )
        findings.append(await _backlog(stage, case, groups, sent=count))
        await asyncio.to_thread(stage.end_worker)
        stage.begin()
    return findings


async def large_reads(stage: "Stage") -> list["Finding"]:
    """A thousand reads of values of 1 MiB at once, then a thousand conflicts that bring them."""
    keys = stage.scaled(1000)
    await stage.start_worker()
    async with holdfast.connect(stage.amqp_url, timeout=300) as client:
        for first in range(0, keys, 20):
            await client.save_many({f"large/{number}": _LARGE for number in range(first, min(keys, first + 20))})
        await asyncio.to_thread(stage.end_worker)
        await stage.start_worker()

        async def read() -> dict[str, Any]:
            return await _ask(stage, [{"op": "read", "key": f"large/{number}"} for number in range(keys)])

        async def meet_conflicts() -> dict[str, Any]:
            command = {"op": "save", "value": 1, "concurrency": "first-write", "return_current": True}
            return await _ask(stage, [command | {"key": f"large/{number}"} for number in range(keys)])

        return [
            await stage.measured("large reads", read),
            await stage.measured("large conflicts", meet_conflicts),
        ]


async def _ask(stage: "Stage", commands: list[dict[str, Any]]) -> dict[str, Any]:
    """Send commands as one array per partition, and take the replies as they come, keeping none."""
    wanted = {f"ask-{time.monotonic_ns()}-{number}" for number in range(len(commands))}
    commands = [command | {"id": id_} for command, id_ in zip(commands, wanted, strict=True)]
    got: Counter[str] = Counter()
    sizes: list[int] = []
    done = asyncio.Event()
    connection = await aio_pika.connect(stage.amqp_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("", exclusive=True)

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            sizes.append(len(message.body))
            for reply in orjson.loads(message.body):
                got[f"{reply['status']}"] += 1
                wanted.discard(reply["id"])
            if not wanted:
                done.set()

        await queue.consume(take, no_ack=True)
        await _publish(stage.amqp_url, _grouped(commands, 1_000_000), reply_to=queue.name)
        async with asyncio.timeout(300):
            await done.wait()
    return {"replies": dict(got), "largest_message_kib": max(sizes) // 1024}


async def many_calls(stage: "Stage") -> list["Finding"]:
    """Ten thousand calls started at once, and a hundred thousand: 8,192 of them are under way, the others wait."""
    await stage.start_worker()
    findings = []
    for count in (stage.scaled(10_000), stage.scaled(100_000)):
        async with holdfast.connect(stage.amqp_url, timeout=600) as client:
            await client.save("warm", 1)
            finding = await stage.measured(f"{count:,} calls at once", partial(_calls, client, count))
        findings.append(finding)
    return findings


async def _calls(client: holdfast.Client, count: int) -> dict[str, Any]:
    from .limits import memory_of

    async def save(number: int) -> None:
        await client.save(f"key/{number % 1000}", number)

    before = memory_of(os.getpid())
    tasks = [asyncio.create_task(save(number)) for number in range(count)]
    await asyncio.sleep(0)
    started = memory_of(os.getpid())
    began = time.perf_counter()
    await asyncio.gather(*tasks)
    return {
        "client_before_mib": round(before),
        "with_all_started_mib": round(started),
        "afterwards_mib": round(memory_of(os.getpid())),
        "calls_per_s": round(count / (time.perf_counter() - began)),
    }


async def history(stage: "Stage") -> list["Finding"]:
    """All of a key's 100,000 versions, page by page, with writers beside; then twenty readers of it at once."""
    versions = stage.scaled(100_000)
    await stage.start_worker()
    store = MongoStore(stage.mongo_url)
    await store.open()
    for first in range(1, versions + 1, 1000):
        await store.append(
            [
                Event(
                    id=f"v{version}", key="long", time=version, digest=b"", type="saved", version=version, value=_VALUE
                )
                for version in range(first, min(first + 1000, versions + 1))
            ]
        )
    await store.close()
    async with holdfast.connect(stage.amqp_url, timeout=60) as client:

        async def alone() -> dict[str, Any]:
            return {"saves_alone": await _paced_saves(client, asyncio.sleep(5))}

        async def page() -> dict[str, Any]:
            counts: list[int] = []

            async def go_through() -> None:
                counts.append(len([None async for _ in client.iter_history("long")]))

            saves = await _paced_saves(client, go_through())
            return {"events": sum(counts), "saves_beside": saves}

        async def many() -> dict[str, Any]:
            async def read() -> None:
                pages = [client.history("long", after_version=n * 1000, limit=1000) for n in range(versions // 1000)]
                for part in range(0, len(pages), 20):
                    await asyncio.gather(*pages[part : part + 20])

            return {"saves_beside": await _paced_saves(client, read())}

        return [
            await stage.measured("saves alone", alone),
            await stage.measured("history of one reader", page),
            await stage.measured("history of twenty readers", many),
        ]


async def _paced_saves(client: holdfast.Client, beside: Awaitable[Any]) -> str:
    """Saves one after the other for as long as something else goes on: how long they take."""
    going = asyncio.ensure_future(beside)
    took: list[float] = []
    while not going.done():
        began = time.perf_counter()
        await client.save(f"beside/{len(took) % 100}", len(took))
        took.append((time.perf_counter() - began) * 1000)
    await going
    took.sort()
    return f"{len(took)} saves, p50 {took[len(took) // 2]:.1f} ms, p99 {took[len(took) * 99 // 100]:.1f} ms"


async def overload(stage: "Stage") -> list["Finding"]:
    """A queue that is full: how soon callers are told, over both routes, and that what was taken is applied."""
    await stage.start_worker(queue_max_length=2000)
    async with holdfast.connect(stage.amqp_url, timeout=120) as client:
        await client.save("k", 0)
        stage.worker.pause()
        outcomes: Counter[str] = Counter()
        waits: list[float] = []

        async def save(number: int) -> None:
            began = time.perf_counter()
            try:
                await client.save("k", number)
            except holdfast.HoldfastError as error:
                outcomes[type(error).__name__] += 1
                waits.append((time.perf_counter() - began) * 1000)
            else:
                outcomes["ok"] += 1

        async def fill() -> None:
            async def one(number: int) -> None:
                try:
                    await _publish(stage.amqp_url, [(_route({"key": "k"}), _save(number) | {"key": "k"})])
                except* DeliveryError:
                    outcomes["raw refused"] += 1

            numbers = range(2300)
            for first in range(0, len(numbers), 50):
                await asyncio.gather(*map(one, numbers[first : first + 50]))

        async def run() -> dict[str, Any]:
            await fill()
            async with asyncio.TaskGroup() as tasks:
                for number in range(200):
                    tasks.create_task(save(number))
                    await asyncio.sleep(0.005)
                await asyncio.sleep(3)
                stage.worker.resume()
            waits.sort()
            await stage.until_empty()
            return {
                "outcomes": dict(outcomes),
                "told_after_ms": f"p50 {waits[len(waits) // 2]:.0f}, max {waits[-1]:.0f}" if waits else "never",
            }

        return [await stage.measured("full queue", run)]


CASES: dict[str, Callable[["Stage"], Awaitable[list["Finding"]]]] = {
    "backlog": backlog,
    "large_messages": large_messages,
    "large_reads": large_reads,
    "many_calls": many_calls,
    "history": history,
    "overload": overload,
}
