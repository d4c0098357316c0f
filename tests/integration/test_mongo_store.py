"""What only MongoStore promises: what it asks of a server, what it leaves there, and what it says when one fails."""

import asyncio
import time
import traceback
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson import Int64
from pymongo import MongoClient
from store_records import TIME, deleted, refused, saved

from holdfast.events import ClosedError, StoreConfigError, StoreError, StoreUnavailable, Topology
from holdfast.local import MongoReplicaSet, MongoServer
from holdfast.stores import AlreadyApplied, Expiry, MongoStore, Outcome
from holdfast.stores.driver import Driver
from holdfast.stores.queries import HEAD_GROUP, KEY_GROUP, VERSION_GROUP, expiring, newest
from holdfast.stores.setup import explain

APPENDED, BLOCKED, NOT_TRIED, UNKNOWN = Outcome.APPENDED, Outcome.BLOCKED, Outcome.NOT_TRIED, Outcome.UNKNOWN


@pytest.fixture
async def store(mongo_url: str) -> AsyncIterator[MongoStore]:
    store = MongoStore(mongo_url)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def failing(own_mongo: Callable[..., MongoReplicaSet]) -> MongoReplicaSet:
    """A replica set of one that can be told to fail."""
    return own_mongo(parameters={"enableTestCommands": 1})


def fail(server: MongoReplicaSet, *commands: str, times: int = 1, **data: Any) -> None:
    server.members[0].admin(
        "configureFailPoint", "failCommand", mode={"times": times}, data={"failCommands": commands, **data}
    )


# What it asks of a server.


async def test_a_standalone_server_will_not_do(tmp_path: Path) -> None:
    """Without a replica set there is no majority; the message says how to get one."""
    with MongoServer(tmp_path, cache_gb=0.25) as server:
        store = MongoStore(server.url())
        with pytest.raises(StoreConfigError, match=r"replica set.*--replSet"):
            await store.open()
        await store.close()


async def test_a_member_that_has_not_found_its_replica_set_yet(tmp_path: Path) -> None:
    """So it is at every start of a server: an outage, and no standalone server."""
    with MongoServer(tmp_path, cache_gb=0.25, replica_set="rs0") as server:
        store = MongoStore(server.url())
        with pytest.raises(StoreUnavailable, match=r"rs\.initiate"):
            await store.open()
        await store.close()


async def test_an_index_in_the_way(mongo_url: str) -> None:
    """An index of the same name that does something else is reported, not used."""
    with MongoClient[dict[str, Any]](mongo_url) as client:
        client.get_default_database()["default.events"].create_index("key", name="key_version")
    store = MongoStore(mongo_url)
    with pytest.raises(StoreConfigError, match="IndexKeySpecsConflict"):
        await store.open()
    await store.close()


async def test_a_collection_in_the_way_of_the_view(mongo_url: str) -> None:
    """A collection that has the view's name is left alone."""
    with MongoClient[dict[str, Any]](mongo_url) as client:
        client.get_default_database()["default.current"].insert_one({})
    store = MongoStore(mongo_url)
    with pytest.raises(StoreConfigError, match="has to be a view"):
        await store.open()
    await store.close()


async def test_a_user_without_rights(failing: MongoReplicaSet) -> None:
    """Missing rights are a fault of the configuration at the start, and like an outage later."""
    store = MongoStore(failing.url(), timeout_seconds=2)
    fail(failing, "createIndexes", errorCode=13)
    with pytest.raises(StoreConfigError, match="readWrite and dbAdmin"):
        await store.open()
    await store.open()
    fail(failing, "insert", "aggregate", times=2, errorCode=13)
    assert list((await store.append([saved("a", 1)])).outcomes) == [UNKNOWN]
    with pytest.raises(StoreUnavailable, match="rights"):
        await store.heads(["a"])
    await store.close()


async def test_an_index_that_no_majority_has(failing: MongoReplicaSet) -> None:
    """A store is not open before its index is safe: without it a log would take a version twice."""
    store = MongoStore(failing.url(), timeout_seconds=2)
    concern = {"code": 64, "errmsg": "waiting for replication timed out"}
    fail(failing, "createIndexes", writeConcernError=concern)
    with pytest.raises(StoreUnavailable, match="index"):
        await store.open()
    with pytest.raises(ClosedError):
        await store.append([saved("a", 1)])
    await store.open()
    assert list((await store.append([saved("a", 1)])).outcomes) == [APPENDED]
    await store.close()


async def test_the_clocks_of_all_calls(failing: MongoReplicaSet) -> None:
    """Every command tells the server when to give up."""
    store = MongoStore(failing.url(), timeout_seconds=2)
    await store.open()
    with failing.client() as client:
        database = client["holdfast"]
        database.command("profile", 2)
        await store.append([saved("a", 1)])
        fence = await store.fence()
        await store.heads(["a"], after=fence)
        await store.versions(["a"])
        await store.events([("a", 1)])
        await store.find(["a"])
        await store.history("a")
        await store.keys()
        await store.agree(Topology(partitions=1))
        assert [record async for record in store.scan()]
        database.command("profile", 0)
        seen = list(database["system.profile"].find({"appName": "holdfast"}))
    # The profiler keeps an update's statement without the command around it.
    commands = [entry["command"] for entry in seen if entry["op"] != "update"]
    assert len(commands) >= 10
    # An append that waits for somebody's open transaction is given up sooner.
    appends = [command for command in commands if command.get("insert") == "default.events"]
    assert [command["maxTimeMS"] for command in appends] == [1000]
    assert {command.get("maxTimeMS") for command in commands if command not in appends} == {2000}
    await store.close()


# What it leaves there.


async def test_documents(store: MongoStore, mongo_url: str) -> None:
    """Documents are native BSON, and what has nothing to say is left out."""
    event = saved("a", 1, value={"n": 1, "f": 1.0}, author="ada", metadata={"why": "test"})
    gone, refusal = deleted("a", 2), refused("a", status="conflict")
    await store.append([event, gone, refusal])
    with MongoClient[dict[str, Any]](mongo_url) as client:
        kept = {doc["_id"]["c"]: doc for doc in client.get_default_database()["default.events"].find()}
    assert kept[event.id]["_id"] == {"c": event.id, "n": 0}
    assert set(kept[event.id]) == {
        "_id", "key", "version", "type", "value", "time", "digest", "author", "metadata"
    }  # fmt: skip
    assert isinstance(kept[event.id]["version"], Int64)
    assert kept[event.id]["value"] == {"n": 1, "f": 1.0}
    assert kept[event.id]["time"].isoformat() == "2024-11-21T21:10:56.789000"
    assert set(kept[gone.id]) == {"_id", "key", "version", "type", "time", "digest"}
    assert set(kept[refusal.id]) == {"_id", "key", "type", "time", "digest", "answer"}


async def test_the_view_of_current_documents(store: MongoStore, mongo_url: str) -> None:
    """The view shows the newest value of each key that is there, and no others."""
    await store.append(
        [
            saved("a", 1, value=1),
            saved("a", 2, value=2),
            saved("b", 1),
            deleted("b", 2),
            refused("c"),
            saved("d", 1, value={}),
        ]
    )
    with MongoClient[dict[str, Any]](mongo_url) as client:
        shown = {doc["_id"]: doc for doc in client.get_default_database()["default.current"].find()}
    assert {key: (doc["version"], doc["value"]) for key, doc in shown.items()} == {"a": (2, 2), "d": (1, {})}


async def test_the_view_shows_nothing_that_has_expired(store: MongoStore, mongo_url: str) -> None:
    """What expires is shown until then, whether or not the log says so yet."""
    now = await store.service_time()
    await store.append([saved("past", 1, expires=now - 1), saved("future", 1, expires=now + 3_600_000), saved("a", 1)])
    with MongoClient[dict[str, Any]](mongo_url) as client:
        shown = {doc["_id"]: doc for doc in client.get_default_database()["default.current"].find()}
    assert shown.keys() == {"a", "future"}
    assert shown["future"]["expires"] == datetime.fromtimestamp((now + 3_600_000) / 1000, UTC).replace(tzinfo=None)
    assert "expires" not in shown["a"]


@pytest.mark.parametrize("after", [None, Expiry(TIME, "a", 1)], ids=["first page", "next page"])
async def test_the_sweep_reads_no_document(store: MongoStore, mongo_url: str, after: Expiry | None) -> None:
    """What expires is found along its index alone, and only what has: others may be as many as they like."""
    events = [saved(f"stays {number}", 1) for number in range(100)]
    events += [saved(f"k{number}", 1, expires=TIME + number) for number in range(20)]
    events += [saved(f"later {number}", 1, expires=TIME + 1000) for number in range(100)]
    await store.append(events)
    driver = Driver(mongo_url, None, timeout_seconds=5)
    find = {"find": "default.events", **expiring(TIME + 10, after, 5)}
    told = (await driver.command({"explain": find, "verbosity": "executionStats"}))["executionStats"]
    assert told["nReturned"] == 5
    assert told["totalDocsExamined"] == 0
    assert told["totalKeysExamined"] <= 6
    find = {"find": "default.events", **expiring(TIME + 19, Expiry(TIME + 18), 1000)}
    told = (await driver.command({"explain": find, "verbosity": "executionStats"}))["executionStats"]
    assert (told["nReturned"], told["totalDocsExamined"], told["totalKeysExamined"]) == (2, 0, 2)
    await driver.close()


async def test_a_view_of_an_older_release_is_renewed(mongo_url: str) -> None:
    """A view that shows something else is made to show what this release shows."""
    with MongoClient[dict[str, Any]](mongo_url) as client:
        database = client.get_default_database()
        database.create_collection("default.current", viewOn="default.events", pipeline=[{"$match": {"none": 1}}])
        store = MongoStore(mongo_url)
        await store.open()
        await store.append([saved("a", 1)])
        assert database["default.current"].count_documents({}) == 1
        await store.close()


async def test_many_workers_open_at_once(mongo_url: str) -> None:
    """Workers that start together on an empty database find one set of indexes and one view."""
    stores = [MongoStore(mongo_url, name="carts") for _ in range(8)]
    await asyncio.gather(*(store.open() for store in stores))
    with MongoClient[dict[str, Any]](mongo_url) as client:
        database = client.get_default_database()
        assert set(database.list_collection_names()) - {"system.views"} == {"carts.events", "carts.current"}
        index = database["carts.events"].index_information()["key_version"]
    assert index["unique"]
    assert index["key"] == [("key", 1), ("version", -1)]
    assert index["partialFilterExpression"] == {"version": {"$gt": 0}}
    await asyncio.gather(*(store.close() for store in stores))


async def test_stores_of_one_database_are_apart(mongo_url: str) -> None:
    """Each named store has a log of its own; ids and versions of one are nothing to another."""
    stores = [MongoStore(mongo_url, name=name) for name in ("one", "two")]
    event = saved("a", 1)
    for store in stores:
        await store.open()
        assert list((await store.append([event])).outcomes) == [APPENDED]
    topologies = [await store.agree(Topology(partitions=number + 1)) for number, store in enumerate(stores)]
    assert topologies[0] == topologies[1]
    for store in stores:
        await store.close()


async def test_which_database(mongo: MongoReplicaSet, mongo_url: str) -> None:
    """The argument goes before the URL's database."""
    name = mongo_url.rpartition("/")[2].partition("?")[0]
    for store in (
        MongoStore(mongo_url),
        MongoStore(mongo.url(), database=name),
        MongoStore(mongo.url("no"), database=name),
    ):
        await store.open()
        await store.append([saved("a", 1)])
        assert await store.versions(["a"]) == {"a": 1}
        await store.close()
    with mongo.client() as client:
        assert "no" not in client.list_database_names()


@pytest.mark.parametrize(
    ("group", "covered"),
    [(HEAD_GROUP, False), (VERSION_GROUP, True), (KEY_GROUP, True)],
    ids=["heads", "versions", "keys"],
)
@pytest.mark.parametrize("keys", [{"$in": ["k/1", "k/2"]}, {"$gte": "k/", "$lt": "k0"}], ids=["in", "range"])
async def test_plans(store: MongoStore, mongo_url: str, keys: Any, group: Any, covered: bool) -> None:
    """The newest versions are found by one seek per key, and versions and keys out of the index alone."""
    await store.append([saved(f"k/{number % 10}", 1 + number // 10) for number in range(100)])
    driver = Driver(mongo_url, None, timeout_seconds=5)
    stages = await explain(driver, "default.events", newest(keys, group))
    assert "DISTINCT_SCAN" in stages
    assert ("PROJECTION_COVERED" in stages, "FETCH" in stages) == (covered, not covered)
    await driver.close()


async def test_a_slow_plan_is_said_at_the_start(
    mongo_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that plans otherwise works, but somebody should know."""
    monkeypatch.setattr("holdfast.stores.setup.HEAD_GROUP", {"$group": {"_id": "$key", "v": {"$max": "$version"}}})
    store = MongoStore(mongo_url)
    await store.open()
    assert "DISTINCT_SCAN" in caplog.text
    await store.close()


# What it says when one fails.


async def test_a_document_that_the_database_refuses(store: MongoStore, mongo_url: str) -> None:
    """What will never be taken is an error, and what stood before it has landed."""
    with MongoClient[dict[str, Any]](mongo_url) as client:
        client.get_default_database().command("collMod", "default.events", validator={"key": {"$ne": "bad"}})
    before, bad, behind = saved("a", 1), saved("bad", 1), saved("b", 1)
    with pytest.raises(StoreError, match="code 121") as caught:
        await store.append([before, bad, behind])
    assert not isinstance(caught.value, StoreUnavailable)
    assert set(await store.find([before.id, bad.id, behind.id])) == {before.id}


async def test_a_unique_index_of_somebody_else(store: MongoStore, mongo_url: str) -> None:
    """A duplicate in an index that is not ours is no version conflict and no repeat."""
    with MongoClient[dict[str, Any]](mongo_url) as client:
        client.get_default_database()["default.events"].create_index("value.email", unique=True, sparse=True)
    await store.append([saved("a", 1, value={"email": "x"})])
    with pytest.raises(StoreError, match=r"value\.email"):
        await store.append([saved("b", 1, value={"email": "x"})])


async def test_a_document_that_is_too_large(store: MongoStore) -> None:
    """More than 16 MiB are refused before anything is sent."""
    with pytest.raises(StoreError, match="16 MiB"):
        await store.append([saved("a", 1), saved("b", 1, value="x" * 2**24)])
    assert await store.versions(["a", "b"]) == {}


async def test_what_cannot_be_asked(store: MongoStore) -> None:
    """Keys and versions that MongoDB has no form for are errors of ours."""
    for call in (
        store.heads(["\ud800"]),
        store.find(["\ud800"]),
        store.events([("a", 2**63)]),
        store.history("a", after_version=2**64),
    ):
        with pytest.raises(StoreError, match="was not asked"):
            await call


@pytest.mark.parametrize("options", ["", "&retryWrites=true&retryReads=true"])
async def test_an_insert_is_never_repeated_by_the_driver(failing: MongoReplicaSet, options: str) -> None:
    """A lost answer leaves the outcome unknown, whatever the URL says about retries."""
    store = MongoStore(failing.url() + options, timeout_seconds=2)
    await store.open()
    event = saved("a", 1)
    for failure in ({"closeConnection": True}, {"errorCode": 91}):
        fail(failing, "insert", **failure)
        assert list((await store.append([event, saved("b", 1)])).outcomes) == [UNKNOWN, UNKNOWN]
        fail(failing, "aggregate", **failure)
        with pytest.raises(StoreUnavailable):
            await store.heads(["a"])
    assert await store.find([event.id]) == {}
    assert list((await store.append([event])).outcomes) == [APPENDED]
    await store.close()


async def test_an_append_that_ran_out_of_its_time(failing: MongoReplicaSet) -> None:
    """The server has given it up: the store looks what landed, and goes on. Who is late alone, too, is blocked."""
    store = MongoStore(failing.url(), timeout_seconds=2)
    await store.open()
    fail(failing, "insert", errorCode=50)
    assert list((await store.append([saved("a", 1), saved("b", 1)])).outcomes) == [APPENDED, APPENDED]
    fail(failing, "insert", errorCode=50, times=2)
    assert list((await store.append([saved("a", 2), saved("b", 2)])).outcomes) == [BLOCKED, NOT_TRIED]
    assert await store.versions(["a", "b"]) == {"a": 1, "b": 1}
    await store.close()


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(10107, id="NotWritablePrimary"),
        pytest.param(11602, id="InterruptedDueToReplStateChange"),
        pytest.param(134, id="ReadConcernMajorityNotAvailableYet"),
    ],
)
async def test_errors_of_a_change_of_primaries_pass(failing: MongoReplicaSet, code: int) -> None:
    """Whatever a server says when it is no longer the primary, or not yet: nobody knows, and nothing is for good."""
    store = MongoStore(failing.url(), timeout_seconds=2)
    await store.open()
    event = saved("a", 1)
    fail(failing, "insert", errorCode=code)
    assert list((await store.append([event])).outcomes) == [UNKNOWN]
    # After the append, as when it was interrupted while it waited for the majority.
    fail(failing, "insert", writeConcernError={"code": code, "errmsg": "operation was interrupted"})
    assert list((await store.append([event])).outcomes) == [UNKNOWN]
    assert list((await store.append([event])).outcomes) == [AlreadyApplied(event)]
    for command, call in (
        ("update", store.fence),
        ("aggregate", lambda: store.heads(["a"])),
        ("find", lambda: store.find(["a"])),
        ("createIndexes", store.open),
    ):
        fail(failing, command, errorCode=code)
        with pytest.raises(StoreUnavailable, match=f"code {code}$"):
            await call()
    await store.close()


async def test_no_majority_means_unknown(failing: MongoReplicaSet) -> None:
    """What only one server has is not acknowledged, and a repeat of it is not taken for applied."""
    store = MongoStore(failing.url(), timeout_seconds=2)
    await store.open()
    event = saved("a", 1)
    concern = {"code": 64, "errmsg": "waiting for replication timed out"}
    fail(failing, "insert", times=3, writeConcernError=concern)
    assert list((await store.append([event])).outcomes) == [UNKNOWN]
    assert list((await store.append([event, saved("b", 1)])).outcomes) == [UNKNOWN, UNKNOWN]
    assert list((await store.append([saved("a", 1)])).outcomes) == [UNKNOWN]
    assert list((await store.append([event])).outcomes) == [AlreadyApplied(event)]
    fail(failing, "update", writeConcernError=concern)
    with pytest.raises(StoreUnavailable):
        await store.fence()
    fail(failing, "insert", writeConcernError=concern)
    with pytest.raises(StoreUnavailable):
        await store.agree(Topology(partitions=4))
    await store.close()


async def test_a_duplicate_that_cannot_be_looked_up(failing: MongoReplicaSet) -> None:
    """If the original cannot be read, nobody can say whether the command was applied."""
    store = MongoStore(failing.url(), timeout_seconds=2)
    await store.open()
    event = saved("a", 1)
    await store.append([event])
    fail(failing, "find", errorCode=91)
    assert list((await store.append([event, saved("b", 1)])).outcomes) == [UNKNOWN, UNKNOWN]
    await store.close()


async def test_a_minority_acknowledges_nothing(own_mongo: Callable[..., MongoReplicaSet]) -> None:
    """With two of three servers frozen, writes are unknown and the store is not healthy; both pass."""
    servers = own_mongo(members=3)
    store = MongoStore(servers.url(), timeout_seconds=0.5)
    await store.open()
    await store.append([saved("a", 1)])
    primary = servers.primary()
    event = saved("a", 2)
    others = [member for member in servers.members if member is not primary]
    for member in others:
        member.pause()
    try:
        assert list((await store.append([event])).outcomes) == [UNKNOWN]
        assert list((await store.append([event, saved("b", 1)])).outcomes) == [UNKNOWN, UNKNOWN]
        with pytest.raises(StoreUnavailable):
            await store.health()
    finally:
        for member in others:
            member.resume()
    await asyncio.to_thread(servers.primary)
    for _ in range(20):  # each takes up to its timeouts while the set finds itself again
        outcome = (await store.append([event])).outcomes[0]
        if outcome is not UNKNOWN:
            break
    # It depends on who became primary whether the first try was kept or rolled back.
    assert outcome in (APPENDED, AlreadyApplied(event))
    assert await store.versions(["a"], after=await store.fence()) == {"a": 2}
    await store.close()


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_the_server_goes_away_and_comes_back(own_mongo: Callable[..., MongoReplicaSet], how: str) -> None:
    """While there is no server every call ends within the timeouts and says so; afterwards the store goes on."""
    servers = own_mongo()
    store = MongoStore(servers.url(), timeout_seconds=1)
    await store.open()
    event = saved("a", 1)
    await store.append([event])
    await asyncio.to_thread(servers.kill if how == "killed" else servers.pause)
    lost = saved("a", 2)
    for _ in range(2):
        started = time.monotonic()
        assert list((await store.append([lost, saved("b", 1)])).outcomes) == [UNKNOWN, UNKNOWN]
        assert time.monotonic() - started < 4
    started = time.monotonic()
    calls = (
        store.heads(["a"]), store.versions(["a"]), store.events([("a", 1)]), store.find(["a"]), store.history("a"),
        store.keys(), store.fence(), store.health(), store.service_time(), store.agree(Topology(partitions=1)),
    )  # fmt: skip
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable] * len(answers)
    assert time.monotonic() - started < 6
    await asyncio.to_thread(servers.start if how == "killed" else servers.resume)
    for _ in range(20):
        outcome = (await store.append([lost])).outcomes[0]
        if outcome is not UNKNOWN:
            break
    assert outcome in (APPENDED, AlreadyApplied(lost))
    assert await store.find([event.id, lost.id]) == {event.id: event, lost.id: lost}
    await store.close()


async def test_no_server_at_the_start() -> None:
    """Nobody listening is an outage, not a fault of the configuration."""
    store = MongoStore("mongodb://127.0.0.1:9/?replicaSet=rs0", timeout_seconds=0.3)
    with pytest.raises(StoreUnavailable):
        await store.open()
    await store.close()


async def test_passwords_stay_out_of_everything_said(mongo: MongoReplicaSet) -> None:
    """Errors, their tracebacks and reprs show where it went wrong, but no password."""
    secret = "s3cr%40t"  # an @ inside
    addresses = [
        f"mongodb://ada:{secret}@{mongo.members[0].address}/x?replicaSet={mongo.name}",
        f"mongodb://ada:{secret}@127.0.0.1:9/?serverSelectionTimeoutMS=1",
        f"mongodb://ada:{secret}@@127.0.0.1:9/",
        f"mongodb://ada:{secret}/@127.0.0.1:9/",
        f"mongodb://ada:{secret}@127.0.0.1:x/",
        f"mongodb://ada:{secret}@127.0.0.1:9/?w=x&tlsCertificateKeyFilePassword={secret}&authMechanism=none",
        f"mongodb://ada:{secret}@127.0.0.1:9/?tls=ture",
        f"amqp://ada:{secret}@127.0.0.1",
        f"ada:{secret}@127.0.0.1",
    ]
    said = []
    for address in addresses:
        store = MongoStore(address, timeout_seconds=0.3)
        said.append(repr(store))
        with pytest.raises(StoreError) as caught:
            await store.open()
        said += traceback.format_exception(caught.value)
        await store.close()
    assert "AuthenticationFailed" in "".join(said)
    assert not [line for line in said if "s3cr" in line]
