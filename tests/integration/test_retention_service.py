"""Retention, purge and lists of keys in a running service."""

import asyncio
from collections.abc import Sequence

import pytest
from support.service import running_worker

import holdfast
from holdfast import Client, ErasedError, HistoryEntry
from holdfast.stores import MongoStore, RetentionConfig
from holdfast.verify import verify
from holdfast.worker import retention


async def until_stripped(client: Client, key: str, count: int) -> Sequence[HistoryEntry]:
    """A key's history, once so many of its events are stubs. Each look is a round trip, so that this does not spin."""
    while True:
        events = await client.history(key)
        if sum(bool(event.stripped) for event in events) == count:
            return events
        assert sum(bool(event.stripped) for event in events) < count


async def test_a_worker_keeps_what_it_is_told_to_keep(
    amqp_url: str, mongo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a service that keeps two versions, when there are more, then older values go by themselves, and no more."""
    monkeypatch.setattr(retention, "LEAST_AGE", 0)
    config = RetentionConfig(versions=2, interval_seconds=0.05)
    with running_worker(amqp_url, mongo_url, retention={"default": config}):
        async with holdfast.connect(amqp_url) as client:
            entries = [await client.save("k", number, id=f"c{number}", metadata={"n": "1"}) for number in range(5)]
            await client.save("other", "stays")
            async with asyncio.timeout(60):
                events = await until_stripped(client, "k", 3)
            assert [event.value for event in events] == [None, None, None, 3, 4]
            assert [event.metadata for event in events] == [None] * 3 + [{"n": "1"}] * 2
            # A repeat and a stale etag are told what they would have been told before.
            assert await client.save("k", 0, id="c0", metadata={"n": "1"}) == entries[0]
            with pytest.raises(holdfast.ConflictError) as stale:
                await client.save("k", 9, etag=entries[0].etag)
            assert stale.value.actual == entries[4].etag
            with pytest.raises(ErasedError):
                await client.read("k", version=1)
            with pytest.raises(holdfast.ConflictError, match="was erased"):
                await client.restore("k", version=1)
            assert (await client.restore("k", version=4)).version == 6
            kept = await client.read("other", version=1)
            assert kept is not None
            assert kept.value == "stays"
            assert await client.purge("k", id="p")
            assert [bool(event.stripped) for event in await client.history("k")] == [True] * 6 + [False]
            assert [entry.key async for entry in client.iter_keys()] == ["other"]
    store = MongoStore(mongo_url)
    await store.open()
    assert (await verify(store, "default")).faults == []
    assert all(value is None for value in [event.value for event in await store.history("k")])
    await store.close()
