"""Logs that an engine wrote: every kind of record, and every condition that can lead to one."""

from random import Random
from typing import Any

from holdfast.events import Event, make_etag
from holdfast.stores import EventStore

from .commands import Operation, apply, delete, purge, request, restore, save
from .engines import Clock, engine_on

KEYS = ("user/1", "user/1/cart", "user/10", "ä/\U0001f600", "z")
VALUES = (None, 0, 1.5, "text", [1, [2.0, None]], {"b": {"a": 1}, "a": [True, "x"]}, {"$ref": "r", "$id": 1})


async def write_log(store: EventStore, *, commands: int, seed: int = 0, store_name: str = "default") -> None:
    """Let an engine apply so many commands, in batches."""
    random, clock = Random(seed), Clock()  # noqa: S311
    engine = engine_on(store, clock)
    for start in range(0, commands, 10):
        clock.pass_(random.choice((0, 0.5, 60)))
        batch = []
        for number in range(start, min(start + 10, commands)):
            key = random.choice(KEYS)
            command = await _command(random, store, key, f"log-{seed}-{number}", store_name, clock.millis)
            author = random.choice((None, "ada", "bob"))
            batch.append(request(command, author=author))
        await apply(engine, *batch)


async def _command(random: Random, store: EventStore, key: str, id_: str, name: str, now: int) -> Operation:
    head = (await store.heads([key])).get(key)
    etag = None
    if head is not None and head.exists and random.random() < 0.5:
        etag = make_etag(head.version, head.id)
    fields: dict[str, Any] = {"id": id_, "store": name, "etag": etag}
    if random.random() < 0.2:
        fields["metadata"] = {"why": "so", "who": "ä"}
    if random.random() < 0.05:
        fields["deadline"] = now - 1
    kind = random.random()
    if kind < 0.3:
        return delete(key, **fields)
    if kind < 0.4:
        return restore(key, random.randint(1, 2 + (head.version if head is not None else 0)), **fields)
    if kind < 0.42:
        return purge(key, **fields)
    return save(key, random.choice(VALUES), concurrency=random.choice(("first-write", "last-write")), **fields)


async def events_of(store: EventStore) -> list[Event]:
    """Every event, in the order of keys and versions."""
    events = [record async for record in store.scan() if isinstance(record, Event)]
    return sorted(events, key=lambda event: (event.key, event.version))
