"""Logs that an engine wrote: every kind of record, and every condition that can lead to one."""

from random import Random
from typing import Any

from holdfast.events import Event, make_etag
from holdfast.events.limits import FOREVER
from holdfast.stores import EventStore

from .commands import Operation, apply, delete, increment, patch, purge, read, request, restore, save
from .engines import Clock, engine_on

_KEYS = ("user/1", "user/1/cart", "user/10", "ä/\U0001f600", "z")
#: Two of these are patched and expire, the others are saved and deleted.
KEYS = (*_KEYS, "counter", "session")
VALUES = (None, 0, 1.5, "text", [1, [2.0, None]], {"b": {"a": 1}, "a": [True, "x"]}, {"$ref": "r", "$id": 1})


async def write_log(
    store: EventStore, *, commands: int, seed: int = 0, store_name: str = "default", lifetime: int | None = None
) -> None:
    """Let an engine apply so many commands, in batches."""
    random, others, clock = Random(seed), Random(f"{seed} patches"), Clock()  # noqa: S311
    engine = engine_on(store, clock, lifetime=lifetime)
    for start in range(0, commands, 10):
        clock.pass_(random.choice((0, 0.5, 60)))
        batch = []
        for number in range(start, min(start + 10, commands)):
            key = random.choice(_KEYS)
            command = await _command(random, store, key, f"log-{seed}-{number}", store_name, clock.millis)
            author = random.choice((None, "ada", "bob"))
            batch.append(request(command, author=author))
        await apply(engine, *batch)
        await apply(engine, *[await _patch(others, store, f"log-{seed}-{start}-{n}", store_name) for n in range(4)])


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


async def _patch(random: Random, store: EventStore, id_: str, name: str) -> Operation:
    """Something that is patched or expires."""
    key = random.choice(("counter", "session"))
    head = (await store.heads([key])).get(key)
    fields: dict[str, Any] = {"id": id_, "store": name}
    if head is not None and head.exists and random.random() < 0.3:
        fields["etag"] = make_etag(head.version, head.id)
    if key == "session":
        fields["ttl_seconds"] = random.choice((None, 1, 30, 100, FOREVER))
    match random.randrange(5):
        case 0:
            return save(key, {"n": 1}, **fields)
        case 1:
            return patch(key, "merge", random.choice(({"n": 0}, {"a": {"b": None}}, None)), **fields)
        case 2:
            return patch(key, "json-patch", [{"op": "test", "path": "/n", "value": 1}], **fields)
        case 3:
            return read(key, store=name)
        case _:
            return increment(key, random.choice((1, 0.5)), pointer="/n", metadata={"why": "so"}, **fields)


async def events_of(store: EventStore) -> list[Event]:
    """Every event, in the order of keys and versions."""
    events = [record async for record in store.scan() if isinstance(record, Event)]
    return sorted(events, key=lambda event: (event.key, event.version))
