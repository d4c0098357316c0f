"""Opening, closing, health, the clock, and what workers agree on."""

import asyncio
import time

import pytest

from holdfast.contract.records import saved
from holdfast.events import ClosedError, Topology
from holdfast.stores import EventStore


async def test_closed_and_opened_again(closed_store: EventStore) -> None:
    """Nothing is lost by closing; opening and closing can be repeated."""
    await closed_store.close()
    await closed_store.open()
    await closed_store.open()
    await closed_store.append([saved("a", 1, value=[1])])
    await closed_store.close()
    await closed_store.close()
    await closed_store.open()
    assert [event.value for event in await closed_store.history("a")] == [[1]]
    await closed_store.close()


async def test_used_while_it_is_closed(closed_store: EventStore) -> None:
    """Before it is opened and after it was closed, a store says that it is closed."""
    for _ in range(2):
        with pytest.raises(ClosedError):
            await closed_store.append([saved("a", 1)])
        with pytest.raises(ClosedError):
            await closed_store.heads(["a"])
        with pytest.raises(ClosedError):
            await closed_store.health()
        await closed_store.open()
        await closed_store.close()


async def test_opened_by_many_at_once(closed_store: EventStore) -> None:
    """Openings at the same time do not disturb one another."""
    await asyncio.gather(*(closed_store.open() for _ in range(5)))
    await closed_store.append([saved("a", 1)])
    assert await closed_store.versions(["a"]) == {"a": 1}
    await closed_store.close()


async def test_health(store: EventStore) -> None:
    """A store that could take a write is healthy, and checking it leaves no record."""
    await store.health()
    assert [record async for record in store.scan()] == []


async def test_service_time(store: EventStore) -> None:
    """The clock of a database on this machine is this machine's, in milliseconds, and goes forward."""
    before = time.time() * 1000 - 1
    first, second = await store.service_time(), await store.service_time()
    assert before <= first <= second <= time.time() * 1000 + 1


async def test_the_first_proposal_is_agreed_on(store: EventStore) -> None:
    """The first proposal stays, whole."""
    first = Topology(partitions=4, epoch=3, min_protocol=1, max_protocol=1, stores=("default", "carts"))
    assert await store.agree(first) == first
    assert await store.agree(Topology(partitions=8)) == first
    assert [record async for record in store.scan()] == []


async def test_many_proposals_at_once(store: EventStore) -> None:
    """However many workers propose at the same time, all get the same answer, which one of them proposed."""
    answers = await asyncio.gather(*(store.agree(Topology(partitions=number)) for number in range(1, 21)))
    assert len({answer.partitions for answer in answers}) == 1
    assert await store.agree(Topology(partitions=99)) == answers[0]


async def test_strikes_are_counted_by_mark_until_they_are_cleared(store: EventStore) -> None:
    """Each mark has its own count, whoever counts, and none after it was cleared. The log has nothing of it."""
    assert [await store.strike("a"), await store.strike("a"), await store.strike("b")] == [1, 2, 1]
    assert sorted(await asyncio.gather(*(store.strike("c") for _ in range(5)))) == [1, 2, 3, 4, 5]
    await store.clear("a")
    await store.clear("never noted")
    assert [await store.strike("a"), await store.strike("b")] == [1, 2]
    assert [record async for record in store.scan()] == []


async def test_strikes_outlive_those_who_count(closed_store: EventStore) -> None:
    """What was noted before a store is closed is still noted when it is opened again."""
    await closed_store.open()
    await closed_store.strike("a")
    await closed_store.close()
    await closed_store.open()
    assert await closed_store.strike("a") == 2
    await closed_store.close()
