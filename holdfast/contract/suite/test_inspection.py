"""Looking through a log: every record once, events key by key and backwards, whatever is written meanwhile."""

import asyncio
import random
from collections.abc import Callable
from typing import cast

import pytest

from holdfast.contract.records import deleted, refused, saved
from holdfast.events import Event, Record, Refusal
from holdfast.stores import EventStore, InspectableStore


@pytest.fixture
def inspectable(store: EventStore, capability: Callable[[EventStore, str], None]) -> InspectableStore:
    """The store, as one that can be looked through."""
    capability(store, "inspection")
    return cast("InspectableStore", store)


async def _fill(store: EventStore, records: list[Record]) -> None:
    for start in range(0, len(records), 1000):
        appended = await store.append(records[start : start + 1000])
        assert appended.fence is not None


async def _events(store: InspectableStore) -> list[tuple[str, int]]:
    return [
        (event.key or "", event.version or 0) async for page in store.inspection().events() for event in page.events
    ]


async def test_nothing(inspectable: InspectableStore) -> None:
    inspection = inspectable.inspection()
    assert await inspection.definition_faults() == []
    assert await inspection.count() == 0
    assert [page async for page in inspection.events()] == []
    assert [page async for page in inspection.records()] == []


async def test_everything_comes_once(inspectable: InspectableStore) -> None:
    """More than fits on a page, in an order that is none."""
    keys = ["a", "a/b", "ä", "\U0001f600", "z" * 512]
    places = [(key, version) for key in keys for version in range(1, 1101)]
    records: list[Record] = [saved(key, version, value={"n": version}) for key, version in places if version != 500]
    records += [deleted(key, 500) for key in keys]
    records += [refused("a") for _ in range(1500)]
    random.Random(1).shuffle(records)  # noqa: S311
    await _fill(inspectable, records)
    assert await inspectable.inspection().count() == len(records)
    assert await _events(inspectable) == [(key, version) for key in sorted(keys) for version in range(1100, 0, -1)]
    seen: list[tuple[str, int, bool]] = []
    others: list[object] = []
    async for page in inspectable.inspection().records():
        seen += ((place.id, place.position, place.is_event) for place in page.ids)
        others += page.others
    assert seen == sorted((record.id, 0, isinstance(record, Event)) for record in records)
    wanted = sorted((record for record in records if isinstance(record, Refusal)), key=lambda record: record.id)
    assert others == wanted


async def test_records_come_as_they_are(inspectable: InspectableStore) -> None:
    event = saved("k", 1, value={"n": [1, 2.5, None, "x", True]}, author="ada", metadata={"why": "so"})
    refusal = refused("k", status="conflict", version=1)
    await _fill(inspectable, [event, refusal])
    (events,) = [page async for page in inspectable.inspection().events()]
    assert events.events == [event]
    assert await inspectable.heads(["k"], after=events.after)
    (records,) = [page async for page in inspectable.inspection().records()]
    assert records.others == [refusal]
    assert await inspectable.find([event.id], after=records.after) == {event.id: event}


async def test_values_that_fill_replies(inspectable: InspectableStore) -> None:
    """One reply of the database is 16 MiB at most."""
    big = "x" * (1024 * 1024)
    for version in range(1, 41):
        await _fill(inspectable, [saved("k", version, value=big), refused("k", status="ok", text=big)])
    assert await _events(inspectable) == [("k", version) for version in range(40, 0, -1)]
    assert sum([len(page.others) async for page in inspectable.inspection().records()]) == 40


async def test_while_it_is_written_to(inspectable: InspectableStore) -> None:
    """What is there from the beginning to the end is shown; and of each key all that precedes what is shown."""
    keys = [f"k{number:02}" for number in range(20)]
    versions = dict.fromkeys(keys, 0)

    async def write(count: int) -> None:
        for _ in range(count):
            records: list[Record] = []
            for key in keys:
                versions[key] += 1
                records.append(saved(key, versions[key]))
            await _fill(inspectable, records)

    await write(200)
    before = dict(versions)
    going_on = asyncio.ensure_future(write(100))
    seen: dict[str, list[int]] = {}
    async for page in inspectable.inspection().events():
        for event in page.events:
            seen.setdefault(event.key or "", []).append(event.version or 0)
        await asyncio.sleep(0)
    await going_on
    assert list(seen) == keys
    for key, found in seen.items():
        assert found[0] >= before[key]
        assert found == list(range(found[0], 0, -1))
