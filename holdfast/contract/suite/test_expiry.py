"""What expires can be found, in order and a page at a time, until the log says so."""

from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from holdfast.contract.records import TIME, deleted, new_id, saved
from holdfast.events import Event
from holdfast.stores import EventStore, ExpiringStore, Expiry


def expired(key: str, version: int, time: int) -> Event:
    return Event(id=new_id(), key=key, version=version, type="expired", time=time, digest=b"\0\1\2\3\4\5\6\7")


@pytest_asyncio.fixture(loop_scope="function")
async def expiring(store: EventStore, capability: Callable[[EventStore, str], None]) -> AsyncIterator[ExpiringStore]:
    """A store that finds what has expired."""
    capability(store, "expiry")
    assert isinstance(store, ExpiringStore)
    yield store


async def every(store: ExpiringStore, until: int, *, limit: int, after: Expiry | None = None) -> list[str]:
    """The keys of all pages, and no more looks than pages can take."""
    found: list[str] = []
    for _ in range(100):
        page = await store.expired(until=until, after=after, limit=limit)
        assert len(page.keys) <= limit
        found += page.keys
        if page.next is None:
            return found
        assert after is None or page.next > after
        after = page.next
    raise AssertionError("it does not end")


async def test_heads_and_events_tell_when(store: EventStore) -> None:
    """Given an event that expires, when it is looked up in any way, then its time comes along, exactly."""
    event = saved("k", 1, expires=TIME + 1234)
    await store.append([event, saved("stays", 1)])
    heads = await store.heads(["k", "stays"])
    assert [heads[key].expires for key in ("k", "stays")] == [TIME + 1234, None]
    assert (await store.events([("k", 1)]))["k", 1] == event
    assert (await store.find([event.id]))[event.id] == event
    assert await store.history("k") == [event]


@pytest.mark.parametrize("limit", [1, 2, 3, 1000])
async def test_only_what_has_expired_and_does_not_say_so_is_found(expiring: ExpiringStore, limit: int) -> None:
    """Given keys in all states, when what has expired is looked for, then exactly those are found, in their order."""
    await expiring.append(
        [
            saved("late", 1, expires=TIME + 30),
            saved("early", 1, expires=TIME + 10),
            saved("same b", 1, expires=TIME + 20),
            saved("same a", 1, expires=TIME + 20),
            saved("future", 1, expires=TIME + 31),
            saved("stays", 1),
            saved("renewed", 1, expires=TIME + 5),
            saved("renewed", 2, expires=TIME + 50),
            saved("cleared", 1, expires=TIME + 5),
            saved("cleared", 2),
            saved("gone", 1, expires=TIME + 5),
            deleted("gone", 2),
            saved("said", 1, expires=TIME + 5),
            expired("said", 2, TIME + 5),
            saved("again", 1, expires=TIME + 5),
            expired("again", 2, TIME + 5),
            saved("again", 3, expires=TIME + 25),
        ]
    )
    assert await every(expiring, TIME + 30, limit=limit) == ["early", "same a", "same b", "again", "late"]
    assert await every(expiring, TIME + 4, limit=limit) == []
    assert await every(expiring, TIME + 20, limit=limit, after=Expiry(TIME + 20, "same a", 1)) == ["same b"]
    assert await every(expiring, TIME + 25, limit=limit, after=Expiry(TIME + 20)) == ["same a", "same b", "again"]


async def test_what_is_said_meanwhile_is_found_no_more(expiring: ExpiringStore) -> None:
    """Given a page that was read, when the log says that one of its keys has expired, then it is found no more."""
    await expiring.append([saved(key, 1, expires=TIME) for key in ("a", "b", "c")])
    page = await expiring.expired(until=TIME, limit=2)
    assert page.keys == ["a", "b"]
    await expiring.append([expired("a", 2, TIME), saved("b", 2)])
    assert await every(expiring, TIME, limit=2) == ["c"]
    assert await every(expiring, TIME, limit=2, after=page.next) == ["c"]


async def test_how_far_the_sweep_has_come_is_kept_and_only_goes_on(expiring: ExpiringStore) -> None:
    """Given a time that is noted, when an earlier one is noted too, then the later one stands; at first there is 0."""
    assert await expiring.swept() == 0
    await expiring.note_swept(TIME)
    await expiring.note_swept(TIME - 1)
    assert await expiring.swept() == TIME
    await expiring.note_swept(TIME + 1)
    assert await expiring.swept() == TIME + 1
    # It is no part of the log.
    assert [record async for record in expiring.scan()] == []
