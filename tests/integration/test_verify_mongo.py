"""`holdfast verify` on a real MongoDB: each way in which a log can be damaged by hand, and none that is not there."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bson
import pytest
from bson import Int64
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database
from support.commands import apply, delete, first, request, save, sets, transact
from support.engines import engine_on
from support.logs import KEYS, write_log

from holdfast.events import OutboxMessage, Record
from holdfast.rules import Rule
from holdfast.stores import MemoryStore, MongoStore
from holdfast.verify import Report, verify

Documents = Collection[dict[str, Any]]

#: What the damage is done to.
KEY = "user/1"


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """What an engine wrote, to be put into one database after the other."""

    async def write() -> list[Record]:
        store = MemoryStore()
        await store.open()
        await write_log(store, commands=200)
        return [record async for record in store.scan()]

    return asyncio.run(write())


@pytest.fixture
async def written_url(mongo_url: str, records: list[Record]) -> str:
    """The address of a database with a sound log in it."""
    store = MongoStore(mongo_url)
    await store.open()
    assert (await store.append(records)).fence is not None
    await store.close()
    return mongo_url


async def verified(mongo_url: str) -> Report:
    store = MongoStore(mongo_url)
    await store.open(create=False)
    try:
        return await verify(store, "default")
    finally:
        await store.close()


def database(client: MongoClient[dict[str, Any]]) -> Database[dict[str, Any]]:
    return client.get_default_database()


def change(at: int, /, **fields: Any) -> Callable[[Documents], None]:
    """Change fields of an event."""

    def damage(log: Documents) -> None:
        assert log.update_one({"key": KEY, "version": at}, {"$set": fields}).modified_count == 1

    return damage


def remove(version: int, field: str) -> Callable[[Documents], None]:
    """Take a field out of an event."""

    def damage(log: Documents) -> None:
        assert log.update_one({"key": KEY, "version": version}, {"$unset": {field: ""}}).modified_count == 1

    return damage


def drop(version: int) -> Callable[[Documents], None]:
    """Delete an event."""

    def damage(log: Documents) -> None:
        assert log.delete_one({"key": KEY, "version": version}).deleted_count == 1

    return damage


def copy(at: int, /, *, unique: bool, **fields: Any) -> Callable[[Documents], None]:
    """Put a copy of an event beside it."""

    def damage(log: Documents) -> None:
        if not unique:
            log.drop_index("key_version")
        document = log.find_one({"key": KEY, "version": at})
        assert document is not None
        log.insert_one({**document, **fields})

    return damage


def raw(log: Documents) -> None:
    """An event whose value is no Unicode."""
    document = log.find_one_and_delete({"key": KEY, "version": 2})
    assert document is not None
    document["value"] = "zzzz"
    data = bson.encode(document).replace(b"zzzz", b"z\xffzz")
    log.insert_one(RawBSONDocument(data))


def refusal(**fields: Any) -> Callable[[Documents], None]:
    """Change a recorded conflict."""

    def damage(log: Documents) -> None:
        assert log.update_one({"answer.status": "conflict"}, {"$set": fields}).modified_count == 1

    return damage


#: name: what is done, the rule that it breaks, and the version of which it is told.
DAMAGES: dict[str, tuple[Callable[[Documents], None], Rule, int | None]] = {
    "an event is gone": (drop(3), Rule.VERSION, 4),
    "the first event is gone": (drop(1), Rule.VERSION, 2),
    "a version is another": (change(3, version=Int64(999)), Rule.VERSION, 4),
    "a version is no whole number": (change(3, version=3.5), Rule.RECORD, None),
    "a version is a double": (change(3, version=3.0), Rule.RECORD, 3),
    "a version is a text": (change(3, version="3"), Rule.RECORD, None),
    "a version is negative": (change(3, version=Int64(-3)), Rule.RECORD, -3),
    "a version is gone": (remove(3, "version"), Rule.RECORD, None),
    "an event went to another key": (change(3, key="elsewhere"), Rule.VERSION, 4),
    "a key is a number": (change(3, key=7), Rule.RECORD, 3),
    "a key is empty": (change(3, key=""), Rule.RECORD, 3),
    "a key is gone": (remove(3, "key"), Rule.RECORD, 3),
    "a time runs backwards": (change(3, time=bson.datetime_ms.DatetimeMS(1)), Rule.TIME, 3),
    "a time is a number": (change(3, time=1), Rule.RECORD, 3),
    "a time is gone": (remove(3, "time"), Rule.RECORD, 3),
    "a value is another": (change(3, value={"other": 1}), Rule.DIGEST, 3),
    "a value is no JSON": (change(3, value=bson.ObjectId()), Rule.RECORD, 3),
    "a value is no Unicode": (raw, Rule.RECORD, None),
    "a digest is another": (change(3, digest=b"\0" * 8), Rule.DIGEST, 3),
    "a digest is short": (change(3, digest=b"\0"), Rule.RECORD, 3),
    "a digest is a text": (change(3, digest="12345678"), Rule.RECORD, 3),
    "metadata is another": (change(3, metadata={"who": "else"}), Rule.DIGEST, 3),
    "metadata is no text": (change(3, metadata={"who": 1}), Rule.RECORD, 3),
    "an author is a number": (change(3, author=1), Rule.RECORD, 3),
    "a stub has a value": (change(3, stripped=True), Rule.RECORD, 3),
    "a stub is half one": (change(3, stripped=1), Rule.RECORD, 3),
    "a value is gone": (remove(3, "value"), Rule.RECORD, 3),
    "a correlation id is a number": (change(3, correlation_id=1), Rule.RECORD, 3),
    "it was restored from a later version": (change(3, restored=Int64(9)), Rule.RECORD, 3),
    "it was restored from a text": (change(3, restored="1"), Rule.RECORD, 3),
    "it is the first one, in words": (change(3, first="yes"), Rule.RECORD, 3),
    "it is closed, and there": (change(3, closed=bson.datetime_ms.DatetimeMS(1)), Rule.RECORD, 3),
    "there is an unknown field": (change(3, extra=1), Rule.RECORD, 3),
    "expires is a number": (change(3, expires=1), Rule.RECORD, 3),
    "expires is a date that nobody gave it": (change(3, expires=bson.datetime_ms.DatetimeMS(10)), Rule.EXPIRY, 3),
    "a patch is no text": (change(3, patch=1), Rule.RECORD, 3),
    "a patch is too short": (change(3, patch="0" * 31), Rule.RECORD, 3),
    "a patch that was none": (change(3, patch="0" * 32), Rule.DIGEST, 3),
    "a refusal expires": (refusal(expires=bson.datetime_ms.DatetimeMS(10)), Rule.RECORD, None),
    "there is an unknown type": (change(3, type="moved"), Rule.RECORD, 3),
    "the type is gone": (remove(3, "type"), Rule.RECORD, 3),
    "an event is a refusal too": (change(3, type="refused", answer={"status": "ok"}), Rule.RECORD, 3),
    "an event is of no transaction": (
        copy(3, unique=True, _id={"c": "log-0-1", "n": 1}, version=Int64(900)),
        Rule.TRANSACTION,
        None,
    ),
    "an id has another form": (copy(3, unique=True, _id="x", version=Int64(900)), Rule.RECORD, 900),
    "an id has a member more": (
        copy(3, unique=True, _id={"c": "x", "n": 0, "m": 0}, version=Int64(900)),
        Rule.RECORD,
        900,
    ),
    "an id is empty": (copy(3, unique=True, _id={"c": "", "n": 0}, version=Int64(900)), Rule.RECORD, 900),
    "a version is there twice": (copy(3, unique=False, _id={"c": "x", "n": 0}), Rule.VERSION, 3),
    "an answer tells of another event": (refusal(**{"answer.error.winner": "nobody"}), Rule.ANSWER, None),
    "an answer tells of another etag": (refusal(**{"answer.error.actual": "1-00000000"}), Rule.ANSWER, None),
    "an answer has no status": (refusal(answer={"x": 1}), Rule.RECORD, None),
    "an answer is none": (refusal(answer="no"), Rule.RECORD, None),
    "a refusal has an unknown field": (refusal(extra=1), Rule.RECORD, None),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_damage_is_found(written_url: str, name: str) -> None:
    damage, rule, version = DAMAGES[name]
    with MongoClient[dict[str, Any]](written_url) as client:
        damage(database(client)["default.events"])
    report = await verified(written_url)
    assert not report.sound
    assert version in {fault.version for fault in report.faults if fault.rule is rule}, report.faults


Definition = Callable[[Database[dict[str, Any]]], Any]


def index_again(**options: Any) -> Definition:
    """The index with other options."""

    def damage(db: Database[dict[str, Any]]) -> None:
        db["default.events"].drop_index("key_version")
        keys = options.pop("keys", [("key", 1), ("version", -1)])
        db["default.events"].create_index(keys, name="key_version", **options)

    return damage


PARTIAL = {"version": {"$gt": 0}}
#: name: what is done, and a piece of what is said.
DEFINITIONS: dict[str, tuple[Definition, str]] = {
    "no index": (lambda db: db["default.events"].drop_index("key_version"), "the index key_version does not exist"),
    "no index for the sweep": (
        lambda db: db["default.events"].drop_index("expires"),
        "index expires does not exist",
    ),
    "an index that decides nothing": (index_again(partialFilterExpression=PARTIAL), "is not the one that decides"),
    "an index with fewer events": (
        index_again(unique=True, partialFilterExpression={"version": {"$gt": 1}}),
        "is not the one that decides",
    ),
    "an index the other way round": (
        index_again(keys=[("key", 1), ("version", 1)], unique=True, partialFilterExpression=PARTIAL),
        "is not the one that decides",
    ),
    "an index of others that refuses": (
        lambda db: db["default.events"].create_index("time", unique=True, sparse=True, name="theirs"),
        "the unique index theirs",
    ),
    "an index that deletes": (
        lambda db: db["default.events"].create_index("time", expireAfterSeconds=10**9, name="ttl"),
        "the index ttl deletes documents",
    ),
    "no view": (lambda db: db.drop_collection("default.current"), "the view default.current does not exist"),
    "another view": (
        lambda db: db.command({"collMod": "default.current", "viewOn": "default.events", "pipeline": []}),
        "default.current is not the view",
    ),
    "a validator": (
        lambda db: db.command({"collMod": "default.events", "validator": {"key": {"$exists": True}}}),
        "the option validator",
    ),
}


@pytest.mark.parametrize("name", DEFINITIONS)
async def test_a_definition_that_is_not_ours_is_found_and_left_as_it_is(written_url: str, name: str) -> None:
    damage, words = DEFINITIONS[name]
    if name == "an index of others that refuses":
        # It can only be made where no two times are equal.
        with MongoClient[dict[str, Any]](written_url) as client:
            log = database(client)["default.events"]
            for number, document in enumerate(log.find({}, {"_id": 1}).sort("time")):
                log.update_one({"_id": document["_id"]}, {"$set": {"time": bson.datetime_ms.DatetimeMS(number)}})
    with MongoClient[dict[str, Any]](written_url) as client:
        db = database(client)
        damage(db)
        before = _definitions(db)
        report = await verified(written_url)
        assert any(words in fault.message for fault in report.faults if fault.rule is Rule.DEFINITION), report.faults
        # A look at a log changes nothing, not even for the better.
        assert _definitions(db) == before


def _definitions(db: Database[dict[str, Any]]) -> tuple[Any, Any]:
    collections = sorted((one["name"], repr(one["options"])) for one in db.list_collections())
    return collections, repr(db["default.events"].index_information())


async def test_a_log_that_an_engine_wrote_is_sound(written_url: str, records: list[Record]) -> None:
    report = await verified(written_url)
    assert report.faults == []
    assert report.events + report.refusals == len(records)
    assert report.keys == len(KEYS)


@pytest.mark.parametrize("erased", [False, True])
async def test_what_receipts_carry(mongo_url: str, erased: bool) -> None:
    """Messages that nobody would find when they are to be erased are told of; that they were erased is no fault."""
    store = MongoStore(mongo_url)
    await store.open()
    whole = transact(sets(KEY, 1), messages=(OutboxMessage(exchange="orders"),), metadata={"who": "ada"})
    await apply(engine_on(store), request(whole))
    await apply(engine_on(store), save(KEY, 2))
    if erased:
        await store.strip([(KEY, 1, 1)])
    await store.close()
    assert (await verified(mongo_url)).faults == []
    with MongoClient[dict[str, Any]](mongo_url) as client:
        log = database(client)["default.events"]
        for other in ({"at": -1}, {"at": 1.0}) if not erased else ({"at": Int64(1)},):
            log.update_one({"_id.c": whole.id, "_id.n": 0}, {"$set": other})
            assert [fault.rule for fault in (await verified(mongo_url)).faults] == [Rule.RECORD]
        log.update_one({"_id.c": whole.id, "_id.n": 0}, {"$unset": {"at": ""}})
    assert [fault.rule for fault in (await verified(mongo_url)).faults] == ([] if erased else [Rule.RECORD])


async def test_versions_are_followed_without_the_index(written_url: str) -> None:
    """Whoever has lost it wants to know what has come in since, because that keeps it from being made again."""
    with MongoClient[dict[str, Any]](written_url) as client:
        log = database(client)["default.events"]
        copy(3, unique=False, _id={"c": "x", "n": 0})(log)
        drop(5)(log)
    report = await verified(written_url)
    versions = {(fault.key, fault.version) for fault in report.faults if fault.rule is Rule.VERSION}
    assert versions == {(KEY, 3), (KEY, 6)}
    assert {Rule.DEFINITION, Rule.VERSION, Rule.CURRENT} <= set(report.broken)


async def test_a_store_that_never_was(mongo_url: str) -> None:
    report = await verified(mongo_url)
    assert [fault.message for fault in report.faults] == ["the collection default.events does not exist"]


@pytest.mark.parametrize("indexed", [True, False])
async def test_more_duplicates_than_a_page_holds(written_url: str, indexed: bool) -> None:
    """All of one key and version, so that no place is behind them."""
    with MongoClient[dict[str, Any]](written_url) as client:
        log = database(client)["default.events"]
        log.drop_index("key_version")
        if indexed:
            log.create_index([("key", 1), ("version", -1)], name="key_version", partialFilterExpression=PARTIAL)
        document = log.find_one({"key": KEY, "version": 3})
        assert document is not None
        log.insert_many([{**document, "_id": {"c": f"copy-{number}", "n": 0}} for number in range(5000)])
    report = await verified(written_url)
    assert report.broken[Rule.VERSION] == 5000


async def test_no_false_alarm_under_load(written_url: str) -> None:
    """Writers go on over many looks: new keys, keys that move, conflicts, deletes."""
    done = asyncio.Event()

    async def write(name: str) -> int:
        store = MongoStore(written_url)
        await store.open()
        engine = engine_on(store)
        count = 0
        while not done.is_set():
            batch = [
                make(f"{prefix}{(count * 7 + number) % 50}", **fields)
                for number in range(40)
                for prefix, make, fields in (
                    (f"new/{count}/", save, {"id": f"{name}-{count}-{number}-n", "value": number}),
                    ("moving/", save, {"id": f"{name}-{count}-{number}-s", "value": number}),
                    ("moving/", first, {"id": f"{name}-{count}-{number}-f", "value": number}),
                    ("moving/", delete, {"id": f"{name}-{count}-{number}-d"}),
                )
            ]
            await apply(engine, *batch)
            count += 1
        await store.close()
        return count

    writers = [asyncio.ensure_future(write(name)) for name in ("a", "b")]
    seen: list[int] = []
    try:
        # Looks until the log has grown under several of them.
        while len(set(seen)) < 8:
            report = await verified(written_url)
            assert report.faults == []
            seen.append(report.events + report.refusals)
    finally:
        done.set()
        await asyncio.gather(*writers)
    report = await verified(written_url)
    assert report.faults == []
    assert report.events + report.refusals > seen[0]


async def run(mongo_url: str, *args: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        "holdfast",
        "verify",
        *args,
        env=_environment(mongo_url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def _environment(mongo_url: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "HOLDFAST_MONGO_URL": mongo_url, "PATH": path}


async def test_the_command(written_url: str) -> None:
    code, out, err = await run(written_url)
    assert (code, err) == (0, "")
    assert f"of {len(KEYS)} keys" in out
    assert "default: sound" in out
    with MongoClient[dict[str, Any]](written_url) as client:
        drop(3)(database(client)["default.events"])
        change(5, value="changed")(database(client)["default.events"])
    code, out, err = await run(written_url)
    assert (code, err) == (1, "")
    assert f"version: key '{KEY}', version 4, id 'log-0-" in out
    assert "version 3 is missing before it" in out
    assert "faults: " in out
    code, out, err = await run(written_url, "--json", "--max-faults", "1")
    assert (code, err) == (1, "")
    data = json.loads(out)
    assert (data["store"], data["sound"], len(data["faults"])) == ("default", False, 1)
    assert sum(data["broken"].values()) > 1


async def test_the_command_on_what_it_cannot_check(mongo_url: str) -> None:
    code, out, err = await run(mongo_url, "--store", "other")
    assert (code, out) == (1, "")
    assert "no store 'other' is configured" in err
    code, out, err = await run("mongodb://127.0.0.1:1/?replicaSet=rs0&serverSelectionTimeoutMS=100")
    assert (code, out) == (1, "")
    assert "store 'default'" in err
