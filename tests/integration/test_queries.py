"""Queries through a client, RabbitMQ and a worker, on indexes that it keeps in MongoDB, or on none."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import Int64
from pymongo import MongoClient
from store_records import deleted, saved
from support.accounts import CLIENT, WORKER, accounts_on_vhost
from support.service import Service, running_worker
from support.shell import Done, failed
from support.shell import holdfast as run_cli

import holdfast
from holdfast import Client, DeniedError, InvalidError, QueryPage, UnknownStoreError, field
from holdfast.local import RabbitServer
from holdfast.stores import MongoStore, projector
from holdfast.stores.documents import to_document
from holdfast.worker import AccessConfig, AccessRule

CITIES = ("Oslo", "Bergen", "Bodø")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows the log waits for something to come; here nothing else is waited for."""
    monkeypatch.setattr(projector, "AWAIT_MS", 20)


def indexed(mongo_url: str, name: str = "default", *fields: tuple[str, ...]) -> MongoStore:
    store = MongoStore(mongo_url, name=name)
    store.declare(fields)
    return store


@pytest.fixture
def service(amqp_url: str, mongo_url: str) -> Iterator[Service]:
    """A worker with two stores: one with indexes, one without, in which nothing may be scanned."""
    stores = {
        "default": indexed(mongo_url, "default", ("age",), ("address", "city")),
        "plain": MongoStore(mongo_url, name="plain"),
        "shut": MongoStore(mongo_url, name="shut"),
    }
    with running_worker(amqp_url, mongo_url, stores=stores, without_scans=frozenset({"shut"})) as service:
        yield service


@pytest.fixture
async def client(service: Service) -> AsyncIterator[Client]:
    async with holdfast.connect(service.amqp_url) as client:
        yield client


async def caught_up(client: Client, store: str | None = None) -> QueryPage:
    """The plan of a query by index, once the index knows of all that was acknowledged up to now."""
    now = (await client.describe()).time
    async with asyncio.timeout(60):
        while True:
            page = await client.query(field("age").gte(0), explain=True, store=store)
            if not page.scan and page.as_of >= now:
                return page
            await asyncio.sleep(0.01)


def person(number: int) -> dict[str, Any]:
    return {"name": f"N{number:02}", "age": number, "address": {"city": CITIES[number % 3]}, "tags": ["a", number]}


async def keys(client: Client, *condition: Any, **options: Any) -> list[str]:
    return [entry.key async for entry in client.iter_query(*condition, **options)]


@pytest.mark.parametrize("store", ["default", "plain"])
async def test_values_are_found_by_what_they_are(client: Client, store: str) -> None:
    """Given people, in a store with indexes or in one without, when they are asked for, then the right ones come."""
    await client.save_many({f"p/{number:02}": person(number) for number in range(30)}, store=store)
    if store == "default":
        await caught_up(client)
    page = await client.query(
        field("age").gte(10) & field("address.city").eq("Oslo"),
        prefix="p/",
        sort=[field("age").descending()],
        projection=["name", "address.city"],
        limit=3,
        store=store,
    )
    assert page.scan == (store == "plain")
    assert [(entry.key, entry.value) for entry in page.entries] == [
        (f"p/{number}", {"name": f"N{number}", "address": {"city": "Oslo"}}) for number in (27, 24, 21)
    ]
    assert page.entries[0].etag == (await client.read("p/27", store=store)).etag  # type: ignore[union-attr]
    following = await client.query(
        field("age").gte(10) & field("address.city").eq("Oslo"),
        prefix="p/",
        sort=[field("age").descending()],
        token=page.token,
        store=store,
    )
    assert [entry.key for entry in following.entries] == ["p/18", "p/15", "p/12"]
    assert following.token is None
    by_name = await keys(client, field("tags").exists(), sort=["name"], store=store)
    assert by_name == [f"p/{number:02}" for number in range(30)]


async def test_what_is_gone_or_changed_is_not_found(client: Client) -> None:
    """Given an index, when keys are deleted and changed, then at once no query finds them as they were."""
    await client.save_many({f"p/{number:02}": person(number) for number in range(9)})
    await caught_up(client)
    young = field("age").lt(5)
    assert await keys(client, young) == [f"p/{number:02}" for number in range(5)]
    for round_ in range(10):
        key = f"p/{round_ % 5:02}"
        entry = await client.save(key, {"age": 1, "round": round_})
        if round_ >= 5:
            # It was deleted: the index may not have it again yet.
            await caught_up(client)
        assert key in await keys(client, young)
        found = {one.key: one async for one in client.iter_query(young)}
        assert found[key] == entry
        await client.save(key, {"age": 50})
        assert key not in await keys(client, young)
        await client.delete(key)
        assert key not in await keys(client)
        assert key not in await keys(client, field("age").gte(0))
    await caught_up(client)
    assert await keys(client, field("age").gte(0)) == [f"p/{number:02}" for number in range(5, 9)]


async def test_names_and_values_that_look_like_operators(client: Client, mongo_url: str) -> None:
    """Given values full of operators, when they are queried for, then each is found as the text that it is."""
    odd = ["$gt", "$where", "$$ROOT", '{"$ne": null}', "/.*/", ".*", "', $or: ["]
    await client.save_many({text: {"age": 1, "address": {"city": text}, text: text} for text in odd})
    await caught_up(client)
    for text in odd:
        assert await keys(client, field("address.city").eq(text)) == [text]
        assert await keys(client, field([text]).eq(text)) == [text]
        assert await keys(client, prefix=text) == sorted(key for key in odd if key.startswith(text))
    assert await keys(client, field("address.city").is_in(odd)) == sorted(odd)
    assert await keys(client, field("address.$gt").exists() | field("$where").exists()) == ["$where"]
    with MongoClient[Any](mongo_url) as mongo:
        documents = mongo.get_default_database()["default.documents"]
        assert {document["_id"] for document in documents.find()} == set(odd)


async def test_stores_that_refuse(client: Client) -> None:
    """Given a store without indexes that must not be scanned, or none at all, when it is queried, then that is told."""
    with pytest.raises(InvalidError) as refused:
        await client.query(store="shut")
    assert refused.value.code == "scan"
    with pytest.raises(UnknownStoreError):
        await client.query(store="nowhere")
    with pytest.raises(InvalidError) as bad:
        await client.query(token="W10=")
    assert (bad.value.code, bad.value.field) == ("bad_token", "token")


# -- rights


async def test_nothing_is_told_of_keys_that_one_may_not_read(rabbit: RabbitServer, mongo_url: str) -> None:
    """Given rules, when users query, then each finds what he may both query and read, by index and by scan."""
    rules = [
        AccessRule(user="owner", store="*", key="*", operations=["*"]),
        AccessRule(user="ada", store="default", key="home/ada/*", operations=["*"]),
        AccessRule(user="ada", store="default", key="public/*", operations=["query", "read"]),
        AccessRule(user="ada", store="default", key="drop/*", operations=["query", "save"]),
        AccessRule(user="ada", store="default", key="quiet", operations=["read"]),
        AccessRule(user="eve", store="default", key="*", operations=["read", "save", "history"]),
    ]
    stores = {"default": indexed(mongo_url, "default", ("age",))}
    with accounts_on_vhost(rabbit) as accounts:
        worker = accounts.add("worker", WORKER, tag="impersonator")
        users = {name: accounts.add(name, CLIENT) for name in ("owner", "ada", "eve")}
        access = AccessConfig(default="closed", rules=rules)
        with running_worker(worker, mongo_url, stores=stores, access=access):
            async with (
                holdfast.connect(users["owner"]) as owner,
                holdfast.connect(users["ada"]) as ada,
                holdfast.connect(users["eve"]) as eve,
            ):
                for number, key in enumerate(["home/ada/1", "home/adam/1", "public/1", "drop/1", "quiet", "public/2"]):
                    await owner.save(key, {"age": number, "secret": key})
                await caught_up(owner)
                mine = ["home/ada/1", "public/1", "public/2"]
                assert await keys(ada) == mine
                assert await keys(ada, field("age").gte(0)) == mine
                assert await keys(ada, sort=["age"]) == mine
                assert await keys(ada, sort=["secret"]) == mine
                assert await keys(ada, field("secret").eq("home/adam/1")) == []
                assert await keys(ada, ~field("age").lt(0), prefix="home/") == ["home/ada/1"]
                with pytest.raises(DeniedError, match=r"may not query the key 'drop/\*'"):
                    await ada.query(prefix="drop/")
                with pytest.raises(DeniedError):
                    await eve.query()
                # A token of somebody who sees more leads to nothing more.
                page = await owner.query(limit=1)
                assert [entry.key for entry in page.entries] == ["drop/1"]
                assert [entry.key for entry in (await ada.query(token=page.token)).entries] == mine


# -- what keeps the indexes


async def test_a_worker_goes_on_where_the_last_one_was(amqp_url: str, mongo_url: str) -> None:
    """Given an index, when workers come and go and write without one between them, then it comes to know of it all."""
    fields = [("age",)]
    for generation in range(3):
        with running_worker(amqp_url, mongo_url, stores={"default": indexed(mongo_url, "default", *fields)}):
            async with holdfast.connect(amqp_url) as client:
                await client.save(f"by/{generation}", {"age": generation})
                await caught_up(client)
                assert await keys(client, field("age").gte(0), prefix="by/") == [
                    f"by/{number}" for number in range(generation + 1)
                ]
        # By somebody who keeps no indexes.
        with running_worker(amqp_url, mongo_url):
            async with holdfast.connect(amqp_url) as client:
                await client.save(f"beside/{generation}", {"age": 100 + generation})
                await client.delete("beside/0")
    with running_worker(amqp_url, mongo_url, stores={"default": indexed(mongo_url, "default", *fields)}):
        async with holdfast.connect(amqp_url) as client:
            await caught_up(client)
            assert await keys(client, field("age").gte(100)) == ["beside/1", "beside/2"]
    with MongoClient[Any](mongo_url) as mongo:
        # From there, and not from where the first one began.
        noted = mongo.get_default_database()["projectors"].find_one({"_id": "default"})
    assert noted is not None
    assert noted["token"]
    assert "start" not in noted


async def test_no_document_goes_back_to_an_older_version(mongo_url: str) -> None:
    """Given two projectors at a time, when the one that is behind writes, then what the other wrote stays."""
    store = indexed(mongo_url, "default", ("age",))
    await store.open()
    first, second, gone = saved("k", 1, value={"age": 1}), saved("k", 2, value={"age": 2}), deleted("k", 3)
    old, new, none = (to_document(record) for record in (first, second, gone))
    documents = store._documents

    async def age() -> Any:
        with MongoClient[Any](mongo_url) as mongo:
            found = mongo.get_default_database()["default.documents"].find_one({"_id": "k"})
        return found and (found["version"], found["value"]["age"], found["x"]["age"])

    await documents.put([new])
    await documents.put([old])
    assert await age() == (2, 2, 2)
    await documents.put([{**none, "version": 1}])
    assert await age() == (2, 2, 2)
    await documents.put([old], anew=True)
    assert await age() == (2, 2, 2)
    await documents.put([none])
    assert await age() is None
    await store.close()


@pytest.mark.parametrize("paths", [1, 2])
async def test_one_at_a_time_holds_the_office(mongo_url: str, paths: int) -> None:
    """Given two workers, when both want to keep the documents, then one does, until it leaves or is put out."""
    stores = [indexed(mongo_url, "default", ("age",)) for _ in range(2)]
    for store in stores:
        await store.open()
    one, other = (store._documents for store in stores)
    assert await one.take_office()
    assert await one.take_office()
    assert not await other.take_office()
    assert await one.note(as_of=Int64(5))
    if paths == 1:
        await one.leave_office()
        assert await other.take_office()
    else:
        assert await other.take_office(by_force=True)
    assert not await one.note(as_of=Int64(1))
    assert (await other.standing()).as_of == 5
    for store in stores:
        await store.close()


async def test_other_fields_are_indexed_after_a_change_of_the_settings(amqp_url: str, mongo_url: str) -> None:
    """Given other declared fields, when a worker starts, then their index is built, and the old one goes."""
    with running_worker(amqp_url, mongo_url, stores={"default": indexed(mongo_url, "default", ("name",))}):
        async with holdfast.connect(amqp_url) as client:
            await client.save_many({f"p/{number:02}": person(number) for number in range(30)})
            assert (await client.query(field("age").gte(0), explain=True)).scan
    with running_worker(amqp_url, mongo_url, stores={"default": indexed(mongo_url, "default", ("age",))}):
        async with holdfast.connect(amqp_url) as client:
            await caught_up(client)
            assert await keys(client, field("age").gte(28)) == ["p/28", "p/29"]
            assert (await client.query(field("name").eq("N01"), explain=True)).scan
    with MongoClient[Any](mongo_url) as mongo:
        names = mongo.get_default_database()["default.documents"].index_information()
        assert set(names) == {"_id_", "x.age"}


@pytest.mark.parametrize("how", ["another log", "dropped"])
async def test_without_a_way_to_go_on_all_is_built_anew(
    amqp_url: str, mongo_url: str, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Given a log that came in the place of the old one, as by a restore, when a worker starts, then it begins anew."""
    with running_worker(amqp_url, mongo_url, stores={"default": indexed(mongo_url, "default", ("age",))}):
        async with holdfast.connect(amqp_url) as client:
            await client.save("a", {"age": 1})
            await client.save("b", {"age": 2})
            await caught_up(client)
    with MongoClient[Any](mongo_url) as mongo:
        database = mongo.get_default_database()
        log = database["default.events"]
        if how == "dropped":
            kept, indexes = list(log.find({"key": "b"})), log.index_information()["key_version"]
            log.drop()
            log.insert_many(kept)
            log.create_index(
                indexes.pop("key"), name="key_version", unique=True, partialFilterExpression={"version": {"$gt": 0}}
            )
        else:
            with database["other"].watch() as stream:
                database["other"].insert_one({})
                next(stream)
                database["projectors"].update_one({"_id": "default"}, {"$set": {"token": stream.resume_token}})
            log.delete_one({"key": "a"})
    with running_worker(amqp_url, mongo_url, stores={"default": indexed(mongo_url, "default", ("age",))}):
        async with holdfast.connect(amqp_url) as client:
            await caught_up(client)
            assert await keys(client, field("age").gte(0)) == ["b"]
            await client.save("c", {"age": 3})
            await caught_up(client)
            assert await keys(client, field("age").gte(0)) == ["b", "c"]
    with MongoClient[Any](mongo_url) as mongo:
        assert {one["_id"] for one in mongo.get_default_database()["default.documents"].find()} == {"b", "c"}
    assert "are built anew" in caplog.text


# -- the command line


@pytest.fixture
def cli(service: Service) -> Callable[..., Done]:
    """Runs a command against the running service."""

    def run(*arguments: str, **options: Any) -> Done:
        return run_cli(*arguments, **({"amqp_url": service.amqp_url} | options))

    return run


def fill(service: Service, store: str) -> None:
    async def save() -> None:
        async with holdfast.connect(service.amqp_url) as client:
            await client.save_many({f"p/{number}": person(number) for number in (1, 2, 3)}, store=store)

    asyncio.run(save())


def test_queries_from_a_shell(cli: Callable[..., Done], service: Service) -> None:
    """Given a running service, when it is queried from a shell, then entries are printed as JSON, a line each."""
    fill(service, "plain")
    plain = ("--store", "plain")
    found = cli("query", '{"gte": ["age", 2]}', "--sort=-age", "--field", "name", "--limit", "1", *plain)
    (line,) = [json.loads(line) for line in found.stdout.splitlines()]
    assert (line["key"], line["value"]) == ("p/3", {"name": "N03"})
    assert line.keys() == {"key", "etag", "version", "updated_at", "value"}
    assert "every key is looked at" in found.stderr
    token = found.stderr.partition("--token ")[2].strip()
    rest = cli("query", '{"gte": ["age", 2]}', "--sort=-age", "--token", token, *plain)
    assert [json.loads(line)["key"] for line in rest.stdout.splitlines()] == ["p/2"]
    assert json.loads(cli("query", "--explain", *plain).stdout)["scan"] is True
    failed(cli("query", '{"$where": "1"}'), 1, "filter: '$where' is none of eq, ne")
    failed(cli("query", "age > 5"), 1, "filter: not JSON")


def test_a_rebuild_from_a_shell(service: Service, mongo_url: str, tmp_path: Path) -> None:
    """Given documents that are wrong, when the indexes are rebuilt from a shell beside a worker, then all is right."""
    fill(service, "default")
    config = tmp_path / "holdfast.toml"
    config.write_text(f'[stores.default]\nurl = "{mongo_url}"\nindexes = ["age", "address.city"]\n')
    with MongoClient[Any](mongo_url) as mongo:
        documents = mongo.get_default_database()["default.documents"]
        patience = time.monotonic() + 60
        while documents.count_documents({}) < 3:
            assert time.monotonic() < patience, "the documents are not there after 60 s"
            time.sleep(0.01)
        documents.update_many({}, {"$set": {"x.age": -1}})
        documents.insert_one({"_id": "ghost", "version": 1, "x": {"age": 1}})
        done = run_cli("rebuild", config_file=str(config))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "the indexes of default are built\n")
        ages = {document["_id"]: document["x"]["age"] for document in documents.find()}
    assert ages == {"p/1": 1, "p/2": 2, "p/3": 3}
    failed(run_cli("rebuild", "none", config_file=str(config)), 1, "no store 'none' is configured")
    failed(run_cli("rebuild", mongo_url=mongo_url), 1, "no indexes: none are declared")
