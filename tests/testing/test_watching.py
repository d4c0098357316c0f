"""Watches on a service in memory: what users see of a real change feed, without a broker."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

import holdfast
from holdfast import CaughtUp, Delete, Save
from holdfast.testing import AccessConfig, AccessRule, MemoryService, Service

#: In the place of the marker.
CAUGHT_UP = ("", 0, CaughtUp())


async def take(watch: holdfast.Watch, count: int) -> list[tuple[str, int, Any]]:
    async with asyncio.timeout(30):
        items = [await anext(watch) for _ in range(count)]
    return [CAUGHT_UP if isinstance(item, CaughtUp) else (item.key, item.version, item.value) for item in items]


async def test_what_is_there_and_then_what_changes(holdfast_service: Service) -> None:
    """Given entries, when they are watched, then they come first, the marker, and every change by whomever."""
    async with holdfast_service.connect() as client, holdfast_service.connect() as other:
        await client.save_many({"user/1": "a", "user/2": "b", "cart/1": "c", "flat": "d"})
        await client.delete("user/2")
        async with client.watch("user/") as watch, other.watch() as everything, other.watch("flat") as single:
            assert await take(watch, 2) == [("user/1", 1, "a"), CAUGHT_UP]
            assert await take(single, 2) == [("flat", 1, "d"), CAUGHT_UP]
            assert (await take(everything, 4))[-1] == CAUGHT_UP
            await other.save("cart/1", "not told")
            await other.save("user/1", "e")
            await client.transact([Save("user/3", "f"), Delete("user/1"), Save("flat", "g")])
            assert await take(watch, 1) == [("user/1", 2, "e")]
            assert sorted(await take(watch, 2)) == [("user/1", 3, None), ("user/3", 1, "f")]
            assert await take(single, 1) == [("flat", 2, "g")]
            told = await take(everything, 5)
            assert [each for each in told if each[0] == "user/1"] == [("user/1", 2, "e"), ("user/1", 3, None)]


async def test_all_changes_of_all_keys_in_order() -> None:
    """Given a busy service whose replies get lost, when it is watched, then the log is told, each version once."""
    with MemoryService() as service:
        service.faults.at_random(seed=3, lost_replies=0.05)
        async with service.connect() as writer, service.connect() as client, client.watch() as watch:
            assert await take(watch, 1) == [CAUGHT_UP]
            saving = asyncio.gather(*(writer.save(f"k/{n % 7}", n) for n in range(700)))
            told = await take(watch, 700)
            await saving
            for number in range(7):
                versions = [each[1] for each in told if each[0] == f"k/{number}"]
                assert versions == list(range(1, 101))


async def test_since_a_time_and_by_a_pattern() -> None:
    """Given a past, when it is watched since a time, then all of it since then comes, deletes too."""
    with MemoryService() as service:
        async with service.connect() as client:
            early = await client.save("user/1/cart", 1)
            await client.save("user/1/name", "Ada")
            service.advance(60)
            await client.save("user/1/cart", 2)
            await client.save("user/2/cart", 3)
            await client.delete("user/2/cart")
            since = early.updated_at + timedelta(seconds=30)
            async with client.watch(pattern="user/*/cart", since=since) as watch:
                told = await take(watch, 4)
            assert told[-1] == CAUGHT_UP
            assert sorted(told[:3]) == [("user/1/cart", 2, 2), ("user/2/cart", 1, 3), ("user/2/cart", 2, None)]


async def test_who_may_not_watch_is_denied() -> None:
    """Given rules, when somebody without the right watches, then it is an error, as in a real service."""
    own = AccessRule(user="*", store="*", key="user/${user}/*", operations=["*"])
    with MemoryService(access=AccessConfig(default="closed", rules=[own])) as service:
        async with service.connect(user="ada") as ada, service.connect(user="eve") as eve:
            async with ada.watch("user/ada/") as watch:
                assert await take(watch, 1) == [CAUGHT_UP]
                await ada.save("user/ada/1", 1)
                assert await take(watch, 1) == [("user/ada/1", 1, 1)]
            async with eve.watch("user/ada/") as watch:
                with pytest.raises(holdfast.DeniedError):
                    await take(watch, 1)


async def test_a_watch_ends_with_its_client_and_leaves_nothing() -> None:
    """Given watches, when they, their client or the service end, then nobody hangs, and nothing is kept for them."""
    service = MemoryService()
    client = service.connect()
    async with client:
        async with client.watch() as left:
            assert await take(left, 1) == [CAUGHT_UP]
        assert service._feeds == set()
        open_watch = client.watch()
        await open_watch.__aenter__()
        assert await take(open_watch, 1) == [CAUGHT_UP]
    with pytest.raises(holdfast.ClosedError):
        await take(open_watch, 1)
    async with service.connect() as another, another.watch() as watch:
        assert await take(watch, 1) == [CAUGHT_UP]
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.to_thread(service.close)
        # What is away is waited for, and not an error.
        await watch.close()
        with pytest.raises(holdfast.ClosedError, match="this watch was closed"):
            await waiting
