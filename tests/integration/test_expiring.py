"""Keys that expire on real servers: for everybody at once, and also when nobody asks for them any more."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from pymongo import MongoClient
from support.raw import raw_client
from support.service import running_worker

import holdfast
from holdfast import field
from holdfast.events.topology import DEAD
from holdfast.local import RabbitServer
from holdfast.stores import MongoStore
from holdfast.verify import verify
from holdfast.worker import AccessConfig, AccessRule

KEYS = 60
SOON: dict[str, Any] = {"sweep_interval": 0.05}

#: What nobody in particular may do. The workers' own account is named nowhere.
CLOSED = AccessConfig(
    default="closed", rules=[AccessRule(anonymous=True, store="default", key="*", operations=["save", "read"])]
)


async def until(what: str, done: Callable[[], bool]) -> None:
    """Wait for something, without asking Holdfast."""
    ends = time.monotonic() + 30
    while not done():
        assert time.monotonic() < ends, what
        await asyncio.sleep(0.02)


async def verified(mongo_url: str) -> None:
    store = MongoStore(mongo_url)
    await store.open()
    report = await verify(store, "default")
    await store.close()
    assert report.faults == []


@pytest.mark.parametrize("access", [None, CLOSED], ids=["open", "closed"])
async def test_what_nobody_asks_for_expires_too(
    rabbit: RabbitServer, amqp_vhost: str, amqp_url: str, mongo_url: str, access: AccessConfig | None
) -> None:
    """Given keys that nobody reads or writes again, when their time comes, then the log says so, once for each."""
    more: dict[str, Any] = {} if access is None else {"access": access}
    with running_worker(amqp_url, mongo_url, **SOON, **more), running_worker(amqp_url, mongo_url, **SOON, **more):
        async with raw_client(amqp_url) as client:
            saves: list[dict[str, Any]] = [
                {"op": "save", "id": f"s{n}", "key": f"k{n}", "value": n, "ttl_seconds": 1} for n in range(KEYS)
            ]
            await client.send([*saves, {"op": "save", "id": "stays", "key": "stays", "value": 1}])
            replies = await client.answers("stays", *(save["id"] for save in saves))
        assert {reply["status"] for reply in replies} == {"ok"}
        expires = {reply["id"]: reply["expires"] for reply in replies if "expires" in reply}
        assert len(expires) == KEYS
        with MongoClient[dict[str, Any]](mongo_url) as mongo:
            log = mongo.get_default_database()["default.events"]
            await until("the sweep does not come", lambda: log.count_documents({"type": "expired"}) >= KEYS)
            events = list(log.find({"type": "expired"}))
        assert {(event["key"], event["version"]) for event in events} == {(f"k{n}", 2) for n in range(KEYS)}
        assert all("author" not in event and "value" not in event for event in events)
        await verified(mongo_url)
    queues = rabbit.ctl("list_queues", "-p", amqp_vhost, "name", "messages", "--silent")
    assert f"{DEAD}\t0" in queues.replace(" ", "")


async def test_a_key_that_expires_is_absent_for_all(amqp_url: str, mongo_url: str) -> None:
    """Given a key with a time, when that has come by the service's clock, then it is absent for every kind of call."""
    with running_worker(amqp_url, mongo_url, sweep_interval=3600.0):
        async with holdfast.connect(amqp_url) as client:
            names = ("strong", "eventual", "first", "etag", "gone")
            saved = {name: await client.save(name, name, ttl=1) for name in names}
            assert all(entry.expires_at_ms == entry.updated_at_ms + 1000 for entry in saved.values())
            assert await client.read("strong") == saved["strong"]
            last = max(entry.expires_at_ms or 0 for entry in saved.values())
            while (await client.describe()).time.timestamp() * 1000 < last:  # noqa: ASYNC110 - it is another's clock
                await asyncio.sleep(0.02)
            assert await client.read("strong") is None
            assert await client.read("eventual", consistency="eventual") is None
            assert (await client.save("first", "new", first_write=True)).version == 3
            with pytest.raises(holdfast.ConflictError) as caught:
                await client.save("etag", "stale", etag=saved["etag"].etag)
            assert (caught.value.code, caught.value.actual) == ("absent", None)
            assert await client.delete("gone") is False
            assert [event.type for event in await client.history("first")] == ["saved", "expired", "saved"]
            assert [event.type for event in await client.history("eventual")] == ["saved"]
            await client.save("kept", 1, ttl=1)
            assert (await client.save("kept", 2)).expires_at is None
        await verified(mongo_url)


async def test_the_change_feed_tells_what_expires(amqp_url: str, mongo_url: str) -> None:
    """Given watches, when keys expire, then each lapse is told once and in its place, whoever has found it.

    A watch that begins when a key's time has come, and before the log says so, does not show it as there.
    """
    with running_worker(amqp_url, mongo_url, sweep_interval=3600.0):
        async with holdfast.connect(amqp_url) as client, client.watch("k/") as early:
            assert isinstance(await taken(early), holdfast.CaughtUp)
            saved = [await client.save(f"k/{name}", name, ttl=1) for name in ("read", "saved", "nobody")]
            for entry in saved:
                change = await taken(early)
                assert isinstance(change, holdfast.Change)
                assert (change.key, change.type, change.expires_at) == (entry.key, "saved", entry.expires_at)
            await until_gone(client, saved)
            async with client.watch("k/") as late:
                assert isinstance(await taken(late), holdfast.CaughtUp)
                assert await client.read("k/read") is None
                await client.save("k/saved", "again")
                for watch in (early, late):
                    told = [await changed(watch) for _ in range(3)]
                    assert [(change.key, change.version, change.type) for change in told] == [
                        ("k/read", 2, "expired"),
                        ("k/saved", 2, "expired"),
                        ("k/saved", 3, "saved"),
                    ]
    with running_worker(amqp_url, mongo_url, **SOON):
        async with holdfast.connect(amqp_url) as client, client.watch("k/", since=saved[0].updated_at) as watch:
            told = [await changed(watch) for _ in range(7)]
            nobody = [(change.version, change.type) for change in told if change.key == "k/nobody"]
            assert nobody == [(1, "saved"), (2, "expired")]
    await verified(mongo_url)


async def changed(watch: holdfast.Watch) -> holdfast.Change:
    """The next change, of those from before it has caught up, or after that."""
    item = await taken(watch)
    while not isinstance(item, holdfast.Change):
        item = await taken(watch)
    return item


async def taken(watch: holdfast.Watch) -> holdfast.Change | holdfast.CaughtUp:
    async with asyncio.timeout(30):
        return await anext(watch)


async def until_gone(client: holdfast.Client, saved: list[holdfast.Entry]) -> None:
    """Until the service's clock says that they are."""
    last = max(entry.expires_at_ms or 0 for entry in saved)
    while (await client.describe()).time.timestamp() * 1000 < last:  # noqa: ASYNC110 - it is another's clock
        await asyncio.sleep(0.02)


async def test_queries_never_find_what_has_expired(amqp_url: str, mongo_url: str) -> None:
    """Given keys whose time has come, and a log that does not say so, then no query finds them, by index or scan."""
    indexed = MongoStore(mongo_url)
    indexed.declare([("age",)])
    stores = {"default": indexed, "plain": MongoStore(mongo_url, name="plain")}
    with running_worker(amqp_url, mongo_url, stores=stores, sweep_interval=3600.0):
        async with holdfast.connect(amqp_url) as client:
            for store in stores:
                await client.save("stays", {"age": 2}, store=store)
                saved = [await client.save("goes", {"age": 1}, ttl=2, store=store)]
            # What follows the log has come as far as that.
            page = await client.query(field("age").gte(0), explain=True)
            async with asyncio.timeout(60):
                while page.scan or page.as_of < saved[0].updated_at:
                    page = await client.query(field("age").gte(0), explain=True)
            await until_gone(client, saved)
            for store in stores:
                for sort in ((), ("age",)):
                    found = await client.query(field("age").gte(0), sort=sort, store=store)
                    assert [entry.key for entry in found.entries] == ["stays"]
                assert [event.type for event in await client.history("goes", store=store)] == ["saved"]


async def test_a_store_with_a_lifetime(amqp_url: str, mongo_url: str) -> None:
    """Given two workers on a store with a lifetime, when its values are written in every way, then what says nothing
    expires by itself, what says "for ever" stays, and the log says both, soundly.
    """
    # As those of two versions of a configuration, in a rolling restart.
    with (
        running_worker(amqp_url, mongo_url, **SOON, lifetimes={"default": 2}),
        running_worker(amqp_url, mongo_url, **SOON, lifetimes={"default": 3}),
    ):
        async with holdfast.connect(amqp_url) as client:
            assert (await client.describe()).ttl_seconds in ({"default": 2}, {"default": 3})
            await client.save_many({f"goes/{n}": n for n in range(20)})
            await client.save_many([holdfast.Save(f"stays/{n}", n, ttl="forever") for n in range(20)])
            async with client.transaction() as steps:
                steps.save("goes/transacted", 1)
                steps.save("stays/transacted", 1, ttl="forever")
            await client.increment("goes/counted")
            await client.increment("stays/counted", ttl="forever")
            await client.increment("stays/counted")
            await client.save("stays/restored", 1)
            await client.restore("stays/restored", version=1, ttl="forever")
            assert await client.count_keys("stays/") == 23
            with MongoClient[dict[str, Any]](mongo_url) as mongo:
                log = mongo.get_default_database()["default.events"]
                await until("the sweep does not come", lambda: log.count_documents({"type": "expired"}) >= 22)
                expired = {event["key"]: event["time"] for event in log.find({"type": "expired"})}
                saved = {event["key"]: event["time"] for event in log.find({"type": "saved", "version": 1})}
            assert expired.keys() == {*(f"goes/{n}" for n in range(20)), "goes/transacted", "goes/counted"}
            assert {(expired[key] - saved[key]).total_seconds() for key in expired} <= {2, 3}
            assert await client.count_keys() == 23
    await verified(mongo_url)
