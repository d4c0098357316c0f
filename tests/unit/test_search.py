"""Queries at a worker: what is shown is in the log like that, whatever an index says; pages, limits and rights."""

import asyncio
import random
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from store_records import deleted, saved
from support.commands import NOW
from support.deliveries import RememberingBroker, delivery
from support.engines import Clock
from support.scripted import ScriptedStore, away, raising

from holdfast.events import QueryCommand
from holdfast.stores import Candidate, EventStore, IndexedStore, IndexQuery, IndexState, KeyScope, MemoryStore
from holdfast.stores.matching import position
from holdfast.stores.scopes import EVERYTHING
from holdfast.worker import search
from holdfast.worker.outbox import Outbox
from holdfast.worker.queries import SEARCHERS, Queries

Json = dict[str, Any]


class Desk:
    """Searchers at work on a store."""

    def __init__(self, store: EventStore, *, scans: bool = True) -> None:
        self.broker = RememberingBroker()
        self.outbox = Outbox(self.broker, stamp=dict)
        self.clock = Clock()
        self.queries = Queries("default", store, outbox=self.outbox, service_time=self.clock.now, scans=scans)
        self.tags = 0

    async def ask(self, scope: KeyScope = EVERYTHING, *, reply_to: str | None = "q", **fields: Any) -> Any:
        """The reply to a query; None if there is nobody to tell."""
        self.tags += 1
        taken = delivery(tag=self.tags, reply_to=reply_to)
        self.outbox.expect(taken, 1)
        before = len(self.broker.replies)
        self.queries.add(taken, QueryCommand.model_validate({"op": "query", "id": "x", **fields}), scope)
        async with asyncio.timeout(10):
            await self.outbox.idle()
        replies = [reply for _, _, reply in self.broker.replies[before:]]
        return replies[0] if replies else None

    async def keys(self, scope: KeyScope = EVERYTHING, **fields: Any) -> list[str]:
        """The keys of all pages."""
        found: list[str] = []
        token = None
        while True:
            reply = await self.ask(scope, token=token, **fields)
            assert reply["status"] == "ok", reply
            assert len(reply["entries"]) <= fields.get("limit", 100)
            found += [entry["key"] for entry in reply["entries"]]
            token = reply["token"]
            if token is None:
                return found


@asynccontextmanager
async def desk(store: EventStore, *, scans: bool = True) -> AsyncIterator[Desk]:
    made = Desk(store, scans=scans)
    tasks = [asyncio.create_task(made.queries.run()) for _ in range(SEARCHERS)]
    tasks.append(asyncio.create_task(made.outbox.run()))
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def filled(values: dict[str, Any], *, indexes: list[str] | None = None) -> MemoryStore:
    store = MemoryStore(clock=lambda: NOW)
    store.declare([tuple(one.split(".")) for one in indexes or ()])
    await store.open()
    await store.append([saved(key, 1, value=value) for key, value in values.items()])
    return store


#: More than are looked at together.
PEOPLE: dict[str, Any] = {
    f"p/{number:03}": {"n": number % 10, "name": f"N{number:03}", "odd": number % 2 == 1} for number in range(260)
}


@pytest.mark.parametrize("indexes", [[], ["n"], ["name"], ["n", "odd"]], ids=str)
@pytest.mark.parametrize("limit", [7, 100, 1000])
async def test_with_or_without_indexes_the_same_is_found(indexes: list[str], limit: int) -> None:
    """Given any indexes, when a query is asked page by page, then all that match come, once, in order."""
    store = await filled(PEOPLE, indexes=indexes)
    three = {"eq": ["n", 3]}
    async with desk(store) as it:
        assert await it.keys(filter=three, limit=limit) == [key for key in PEOPLE if PEOPLE[key]["n"] == 3]
        by_n = await it.keys(sort=[{"field": "n", "order": "desc"}], limit=limit)
        assert by_n == sorted(PEOPLE, key=lambda key: (PEOPLE[key]["n"], key), reverse=True)
        mixed = {"and": [{"eq": ["odd", True]}, {"lt": ["name", "N100"]}]}
        told = await it.keys(filter=mixed, sort=[{"field": "n"}, {"field": "name", "order": "desc"}], limit=limit)
        wanted = [key for key in PEOPLE if PEOPLE[key]["odd"] and PEOPLE[key]["name"] < "N100"]
        assert told == sorted(wanted, key=lambda key: (PEOPLE[key]["n"], -int(key[2:])))
        assert await it.keys(prefix="p/04", limit=limit) == [f"p/04{number}" for number in range(10)]


async def test_a_query_says_whether_it_scans() -> None:
    """Given an index on one field, when queries are asked, then those that it does not serve say so, also before."""
    store = await filled(PEOPLE, indexes=["n"])
    async with desk(store) as it:
        asked: list[tuple[Json, bool]] = [
            ({}, True),
            ({"filter": {"eq": ["name", "N001"]}}, True),
            ({"filter": {"eq": ["n", 1]}}, False),
            ({"filter": {"or": [{"eq": ["n", 1]}, {"eq": ["name", "N001"]}]}}, True),
            ({"filter": {"and": [{"eq": ["n", 1]}, {"eq": ["name", "N001"]}]}}, False),
            ({"filter": {"not": {"and": [{"eq": ["n", 1]}, {"eq": ["name", "N001"]}]}}}, True),
            ({"sort": [{"field": "n"}]}, False),
            ({"sort": [{"field": "name"}]}, True),
            ({"sort": [{"field": "n"}, {"field": "name"}]}, True),
        ]
        for fields, scan in asked:
            for explain in (False, True):
                reply = await it.ask(**fields, explain=explain)
                assert (reply["status"], reply["scan"]) == ("ok", scan), fields
                assert ("entries" in reply) != explain
    async with desk(store, scans=False) as it:
        assert (await it.ask(filter={"eq": ["n", 1]}))["status"] == "ok"
        refused = await it.ask(filter={"eq": ["name", "N001"]})
        assert (refused["status"], refused["error"]["code"]) == ("invalid", "scan")


class Liar(MemoryStore):
    """A store whose index stands still: it tells of what was there, whatever has become of it."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: NOW)
        self.told: dict[str, Any] = {}
        self.asked: list[IndexQuery] = []

    async def index_state(self) -> IndexState:
        return IndexState(frozenset({("n",)}), NOW - 5000)

    async def candidates(self, query: IndexQuery) -> list[Candidate]:
        self.asked.append(query)
        sorts = () if query.sort is None else (query.sort,)
        places = sorted(position(value, key, sorts) for key, value in self.told.items())
        behind = [place for place in places if query.after is None or place > query.after]
        return [Candidate(place[1], place) for place in behind[: query.limit]]


async def test_what_an_index_says_is_looked_up_in_the_log() -> None:
    """Given an index that is behind, when it is asked, then nothing is shown that is not so any more."""
    store = Liar()
    await store.open()
    await store.append([saved(key, 1, value={"n": 1, "at": "first"}) for key in ("a", "b", "c", "d", "other/e")])
    store.told = {key: {"n": 1} for key in ("a", "b", "c", "d", "none", "other/e")}
    await store.append([deleted("a", 2), saved("b", 2, value={"n": 2}), saved("c", 2, value={"n": 1, "at": "second"})])
    only = KeyScope.of(prefixes=["a", "b", "c", "d", "n"])
    async with desk(store) as it:
        reply = await it.ask(only, filter={"eq": ["n", 1]})
        assert [(entry["key"], entry["version"], entry["value"]["at"]) for entry in reply["entries"]] == [
            ("c", 2, "second"),
            ("d", 1, "first"),
        ]
        assert (reply["scan"], reply["as_of"]) == (False, NOW - 5000)
        assert await it.keys(only, filter={"eq": ["n", 1]}, limit=1) == ["c", "d"]
        assert await it.keys(only, filter={"eq": ["n", 1]}, sort=[{"field": "at"}], limit=1) == ["d", "c"]
    assert all(query.keys == only for query in store.asked)


async def test_a_scan_looks_behind_a_fence() -> None:
    """Given a primary that is behind, when a query scans, then a key that was deleted since is not shown."""
    store = await ScriptedStore.opened()
    await store.append([saved("a", 1, value=1), saved("b", 1, value=1)])
    await store.fall_behind()
    await store.append([deleted("a", 2), saved("b", 2, value=2)])
    async with desk(store) as it:
        reply = await it.ask()
    assert [(entry["key"], entry["value"]) for entry in reply["entries"]] == [("b", 2)]


async def test_a_store_of_the_core_alone_is_scanned() -> None:
    """Given a store that offers nothing beyond the core, when it is queried, then every key is looked at."""
    store = await ScriptedStore.opened()
    assert not isinstance(store, IndexedStore)
    await store.append([saved("a", 1, value={"n": 1}), saved("b", 1, value={"n": 2})])
    async with desk(store) as it:
        reply = await it.ask(filter={"gt": ["n", 1]})
    assert ([entry["key"] for entry in reply["entries"]], reply["scan"]) == (["b"], True)


@pytest.mark.parametrize("sort", [[], [{"field": "n"}], [{"field": "text"}]], ids=str)
async def test_a_page_is_no_larger_than_a_reply(sort: list[Json]) -> None:
    """Given large values, when they are queried, then a page ends before it is too large, and the next goes on."""
    values = {f"k{number}": {"n": number, "text": "x" * 400_000} for number in range(7)}
    values["k3"]["text"] = "y" * 1_500_000
    store = await filled(values, indexes=["n"])
    async with desk(store) as it:
        reply = await it.ask(sort=sort)
        assert len(orjson.dumps(reply)) < 1_100_000
        assert sorted(await it.keys(sort=sort)) == sorted(values)
        assert await it.keys(sort=sort, projection=["n"]) == await it.keys(sort=sort)
        shown = await it.ask(sort=sort, projection=["n"])
        assert shown["token"] is None
        assert [entry["value"] for entry in shown["entries"]] == [
            {"n": values[entry["key"]]["n"]} for entry in shown["entries"]
        ]


async def test_events_that_come_in_parts() -> None:
    """Given a database that gives some of what is asked for, in any order, then nothing is lost, nor out of order."""
    inner = await filled(PEOPLE)
    store = ScriptedStore(inner)
    rng = random.Random(1)  # noqa: S311

    async def some(proceed: Callable[[], Any], _: Any) -> Any:
        found = await proceed()
        return {place: found[place] for place in rng.sample(sorted(found), max(1, len(found) // 3))}

    store.always("events", some)
    async with desk(store) as it:
        assert await it.keys(limit=300) == list(PEOPLE)
        assert await it.keys(limit=300, sort=[{"field": "name", "order": "desc"}]) == list(PEOPLE)[::-1]


# -- time


async def test_what_takes_too_long_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given no time, when keys come in order, then each page goes on a little; where all have to be seen it is said."""
    monkeypatch.setattr(search, "TIME_LIMIT", 0.0)
    store = await filled(PEOPLE)
    async with desk(store) as it:
        first = await it.ask(filter={"eq": ["name", "N250"]})
        assert (first["status"], first["entries"]) == ("ok", [])
        assert first["token"]
        assert await it.keys(filter={"eq": ["name", "N250"]}) == ["p/250"]
        slow = await it.ask(sort=[{"field": "name"}])
        assert (slow["status"], slow["error"]["code"]) == ("unavailable", "too_slow")


async def test_what_comes_late_is_not_looked_for() -> None:
    """Given a query whose sender has given up, when its turn comes, then it is expired, and nothing is looked up."""
    store = await ScriptedStore.opened()
    async with desk(store) as it:
        late = await it.ask(deadline=NOW - 1)
        assert await it.ask(reply_to=None) is None
    assert late["error"]["code"] == "deadline"
    assert sum(store.calls.values()) == 0


async def test_a_store_that_is_away_is_an_answer() -> None:
    """Given a store that is away, or fails, when it is queried, then that is told, and the next query is answered."""
    store = await ScriptedStore.opened()
    store.script("fence", away, raising(RuntimeError("scripted")))
    async with desk(store) as it:
        codes = [(await it.ask()).get("error", {}).get("code") for _ in range(3)]
        assert codes == ["store_away", "internal", None]
        assert [(reason, detail) for _, reason, detail in it.broker.buried] == [("internal", "RuntimeError")]


# -- tokens


async def test_a_token_belongs_to_its_query() -> None:
    """Given a token, when another query comes with it, or it was made up, then it is refused."""
    store = await filled(PEOPLE, indexes=["n"])
    query: Json = {"filter": {"eq": ["odd", True]}, "sort": [{"field": "n"}], "limit": 3}
    async with desk(store) as it:
        token = (await it.ask(**query))["token"]
        assert (await it.ask(**query, token=token))["status"] == "ok"
        others: list[Json] = [
            {"filter": {"eq": ["odd", False]}},
            {"sort": [{"field": "n", "order": "desc"}]},
            {"sort": []},
            {"prefix": "p"},
        ]
        for other in others:
            refused = await it.ask(**{**query, **other}, token=token)
            assert (refused["status"], refused["error"]["code"]) == ("invalid", "bad_token"), other


def forged(*place: Any) -> list[str]:
    """Tokens of the query without anything, that lead elsewhere."""
    command = QueryCommand(op="query", id="x")
    query = search.Query.of(command, EVERYTHING)
    return [urlsafe_b64encode(orjson.dumps([identity, *place])).decode() for identity in (query.identity, "", None)]


@pytest.mark.parametrize(
    "token",
    [
        *("", "x", "é", "====", "bnVsbA==", "W10=", "e30="),
        *forged(),
        *forged([], ""),
        *forged([], "\0"),
        *forged([], "k" * 513),
        *forged([], 5),
        *forged([[0, 0]], "k"),
        *forged({}, "k", "k"),
        *forged(None, None),
        *forged([], "k")[1:],
    ],
)
async def test_tokens_that_are_none(token: str) -> None:
    """Given anything in the place of a token, when it is read, then it is refused, and no worker fails."""
    store = await filled(PEOPLE)
    async with desk(store) as it:
        refused = await it.ask(token=token)
        assert (refused["status"], refused["error"]["code"]) == ("invalid", "bad_token")
        assert it.broker.buried == []


async def test_a_forged_token_leads_to_nothing_that_is_hidden() -> None:
    """Given a token that points among keys of others, when it is used, then only one's own come."""
    store = await filled(PEOPLE)
    (token, *_) = forged([], "p/100")
    async with desk(store) as it:
        reply = await it.ask(KeyScope.of(["p/050", "p/200"], ["p/24"]), token=token)
    assert [entry["key"] for entry in reply["entries"]] == ["p/200", *(f"p/24{number}" for number in range(10))]
