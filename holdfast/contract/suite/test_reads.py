"""What stores show of their log."""

import pytest

from holdfast.contract.records import TIME, deleted, new_id, refused, saved
from holdfast.events import Event, Record
from holdfast.stores import EventStore, Head, Outcome


@pytest.mark.parametrize("fenced", [False, True])
async def test_heads_and_versions(store: EventStore, fenced: bool) -> None:
    """The newest event of each key, deleted ones too; keys without an event are left out, refusals are none."""
    records: list[Record] = [
        saved("a", 1),
        saved("a", 2, time=TIME + 1),
        saved("b", 1),
        deleted("b", 2),
        saved("c", 1),
        refused("d"),
    ]
    await store.append(records)
    fence = await store.fence() if fenced else None
    keys = ["c", "a", "b", "d", "nothing"]
    assert await store.heads(keys, after=fence) == {
        "a": Head(2, True, records[1].id, TIME + 1),
        "b": Head(2, False, records[3].id, TIME),
        "c": Head(1, True, records[4].id, TIME),
    }
    assert await store.versions(keys, after=fence) == {"a": 2, "b": 2, "c": 1}


async def test_a_fence_of_an_append_covers_it(store: EventStore) -> None:
    """A read after an append's fence sees the append, each time."""
    for version in range(1, 21):
        result = await store.append([saved("a", version)])
        assert result.fence is not None
        assert await store.versions(["a"], after=result.fence) == {"a": version}
        assert (await store.heads(["a"], after=result.fence))["a"].version == version
        assert list(await store.events([("a", version)], after=result.fence)) == [("a", version)]


async def test_a_fence_covers_what_was_acknowledged_before(store: EventStore) -> None:
    """A read after a fence sees all appends that had returned when it was made."""
    for version in range(1, 21):
        record = saved("a", version)
        await store.append([record])
        fence = await store.fence()
        assert await store.versions(["a"], after=fence) == {"a": version}
        assert await store.find([record.id], after=fence) == {record.id: record}
        assert await store.events([("a", version)], after=fence) == {("a", version): record}


async def test_an_old_fence_does_not_hide_what_is_newer(store: EventStore) -> None:
    """A fence is the least that a read shows, not the most."""
    fence = await store.fence()
    await store.append([saved("a", 1)])
    later = (await store.append([saved("a", 2)])).fence
    assert later is not None
    assert await store.versions(["a"], after=later) == {"a": 2}
    assert (await store.versions(["a"], after=fence)).get("a") in (None, 1, 2)


async def test_a_fence_from_elsewhere(store: EventStore) -> None:
    """Something that is no fence of this store is a mistake, not a read without a fence."""
    for read in (store.heads, store.versions, store.find):
        with pytest.raises(TypeError):
            await read(["a"], after="no fence")
    with pytest.raises(TypeError):
        await store.events([("a", 1)], after="no fence")


async def test_asking_for_nothing(store: EventStore) -> None:
    """No keys, ids or places give no answers."""
    assert await store.heads([]) == {}
    assert await store.versions([]) == {}
    assert await store.events([]) == {}
    assert await store.find([]) == {}


async def test_many_keys_at_once(store: EventStore) -> None:
    """Thousands of keys are looked up in one call."""
    for start in range(0, 3000, 1000):
        await store.append([saved(f"key/{number}", 1, value=number) for number in range(start, start + 1000)])
    names = [f"key/{number}" for number in range(3000)]
    assert await store.versions(names) == dict.fromkeys(names, 1)
    assert set(await store.heads(names)) == set(names)
    events = await store.events([(name, 1) for name in names])
    assert {place: event.value for place, event in events.items()} == {(f"key/{n}", 1): n for n in range(3000)}


async def test_events_at_places(store: EventStore) -> None:
    """Exactly the places that were asked for, of any version, each with its own event."""
    records = {(key, version): saved(key, version) for key in ("a", "b", "c") for version in range(1, 6)}
    await store.append(list(records.values()))
    wanted = [("a", 1), ("a", 5), ("b", 3), ("c", 1), ("c", 2), ("c", 6), ("d", 1), ("a", 0), ("a", -1)]
    assert await store.events(wanted) == {place: records[place] for place in wanted if place in records}
    assert await store.events(set(wanted)) == await store.events(wanted)


async def test_find(store: EventStore) -> None:
    """Events and refusals are found by their command's id, and nothing else is."""
    event, refusal = saved("a", 1, value=[1]), refused("a", status="conflict", n=1)
    await store.append([event, refusal])
    assert await store.find([event.id, refusal.id, new_id()]) == {event.id: event, refusal.id: refusal}
    without = await store.find([event.id, refusal.id, new_id()], with_values=False)
    assert without == {event.id: event.model_copy(update={"value": None}), refusal.id: refusal}


async def test_history_in_pages(store: EventStore) -> None:
    """A key's events come oldest first, and no page repeats or leaves out one."""
    records: list[Record] = [saved("a", version, value=version) for version in range(1, 26)]
    await store.append([*records, refused("a"), saved("ab", 1), saved("a/", 1)])
    assert await store.history("a") == records
    assert await store.history("a", limit=25) == records
    pages: list[Event] = []
    while page := await store.history("a", after_version=pages[-1].version if pages else 0, limit=10):
        pages += page
    assert pages == records
    assert await store.history("a", after_version=25) == []
    assert await store.history("a", after_version=-1, limit=1) == records[:1]
    assert await store.history("nothing") == []


async def test_more_than_one_reply_holds(store: EventStore) -> None:
    """What is more than a database gives at a time comes whole by asking again for what is missing."""
    records = [saved("a", version, value=chr(64 + version) * 2_000_000) for version in range(1, 13)]
    for record in records:
        await store.append([record])
    pages: list[Event] = []
    while page := await store.history("a", after_version=pages[-1].version if pages else 0):
        pages += page
    assert [event.value[0] for event in pages] == [record.value[0] for record in records]
    events: dict[tuple[str, int], Event] = {}
    missing = {("a", version) for version in range(1, 14)}
    while some := await store.events(missing):
        events |= some
        missing -= some.keys()
    assert missing == {("a", 13)}
    assert {version: event.value[0] for (_, version), event in events.items()} == {
        version: chr(64 + version) for version in range(1, 13)
    }
    found = await store.find([record.id for record in records])
    assert set(found) == {record.id for record in records}


async def test_an_append_larger_than_one_message(store: EventStore) -> None:
    """A batch of many megabytes lands whole, or up to what stops it."""
    big = "x" * 2_000_000
    first = [saved(f"key/{number}", 1, value=big) for number in range(25)]
    assert list((await store.append(first)).outcomes) == [Outcome.APPENDED] * 25
    assert await store.versions([record.key for record in first]) == {record.key: 1 for record in first}
    second = [saved(f"more/{number}", 1, value=big) for number in range(24)]
    outcomes = list((await store.append([*second, saved("key/0", 1), saved("last", 1)])).outcomes)
    assert outcomes == [Outcome.APPENDED] * 24 + [Outcome.VERSION_TAKEN, Outcome.NOT_TRIED]


async def test_scan(store: EventStore) -> None:
    """A scan shows every record once."""
    records: dict[str, Record] = {}
    for number in range(2500):
        record: Record = refused("a") if number % 5 == 0 else saved(f"key/{number}", 1, value=number)
        records[record.id] = record
    everything = list(records.values())
    for start in range(0, 2500, 1000):
        await store.append(everything[start : start + 1000])
    scanned = [record async for record in store.scan()]
    assert len(scanned) == 2500
    assert {record.id: record for record in scanned} == records


async def test_scan_of_nothing(store: EventStore) -> None:
    """An empty log has nothing to show."""
    assert [record async for record in store.scan()] == []
