"""Indexes on fields of current values, of stores that keep some: they bring every key that matches, in order."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from holdfast.contract import MakeStore
from holdfast.contract.records import deleted, saved
from holdfast.events import Receipt
from holdfast.events.queries import And, Compare, Exists, Filter, Not, OneOf, Or, Path, Scalar, Sort
from holdfast.stores import EventStore, IndexedStore, IndexQuery, IndexState, KeyScope, TransactionalStore, narrow
from holdfast.stores.matching import matches, position, sort_key
from holdfast.stores.scopes import EVERYTHING

CITY: Path = ("address", "city")
DEEP: Path = ("a/b", "c~d", "~1")
FIELDS: list[Path] = [("n",), ("t",), CITY, DEEP, ("type!",)]

#: One of each kind, and neighbours in an order; whatever means something to a database is a plain text or name here.
SCALARS: list[Any] = [
    *(None, False, True, 0, -1, 1, 1.5, 2, 2**53, 2**53 + 1, float(2**53), -(2**63), 2**63 - 1, 1e300, -0.0),
    *("", "0", "1", "a", "A", "ab", "b", "é", "\ud7ff", "\ue000", "\U0001f600", "\U0010ffff", "x" * 255, "x" * 256),
    *("x" * 256 + "a", "x" * 256 + "b", "x" * 300, "null", "$gt", "$$ROOT", "$x.n", '{"$gt": ""}', "/.*/", "^a"),
]
STRUCTURES: list[Any] = [{}, [], {"$gt": ""}, {"$ne": None}, [1], ["a"], [None], [[1]], {"city": "a"}, {"n": 1}]


@asynccontextmanager
async def kept(store: IndexedStore) -> AsyncIterator[IndexedStore]:
    """The store, opened, with somebody who keeps its indexes up to date."""
    await store.open()
    work = asyncio.ensure_future(store.maintain())
    try:
        yield store
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        await store.close()


@pytest.fixture
def closed_indexed(make_store: MakeStore, capability: Callable[[EventStore, str], None]) -> IndexedStore:
    """A store with declared fields, not opened yet."""
    store = make_store("default")
    capability(store, "indexes")
    assert isinstance(store, IndexedStore)
    store.declare(FIELDS)
    return store


@pytest_asyncio.fixture(loop_scope="function")
async def indexed(closed_indexed: IndexedStore) -> AsyncIterator[IndexedStore]:
    """A store whose indexes are kept up to date."""
    async with kept(closed_indexed) as store:
        yield store


async def caught_up(store: IndexedStore) -> IndexState:
    """The state of the indexes once they know of all that was appended up to now."""
    now = await store.service_time()
    async with asyncio.timeout(60):
        while True:
            state = await store.index_state()
            if state.ready == set(FIELDS) and state.as_of >= now:
                return state
            await asyncio.sleep(0.01)


async def found(
    store: IndexedStore,
    filter_: Filter | None = None,
    *,
    sort: Sort | None = None,
    keys: KeyScope = EVERYTHING,
    limit: int = 1000,
) -> list[str]:
    """The keys of all candidates, in their order, asked for by pages."""
    told: list[str] = []
    after = None
    while True:
        page = await store.candidates(IndexQuery(keys, filter_, sort, after, limit))
        assert len(page) <= limit
        told += [candidate.key for candidate in page]
        if len(page) < limit:
            return told
        after = page[-1].position


def wanted(
    values: dict[str, Any], filter_: Filter | None = None, *, sort: Sort | None = None, keys: KeyScope = EVERYTHING
) -> list[str]:
    """What is to be found."""
    sorts = () if sort is None else (sort,)
    places = [
        position(value, key, sorts)
        for key, value in values.items()
        if key in keys and (filter_ is None or matches(filter_, value))
    ]
    return [key for _, key in sorted(places, key=lambda place: sort_key(place, sorts))]


def odd_values() -> dict[str, Any]:
    """A value of each kind in each field, and some without it, or with something in the way to it."""
    values: dict[str, Any] = {}
    for number, inner in enumerate([*SCALARS, *STRUCTURES]):
        values[f"n/{number:02}"] = {"n": inner, "t": 1}
        values[f"t/{number:02}"] = {"t": inner, "address": {"city": inner}}
        values[f"o/{number:02}"] = {"a/b": {"c~d": {"~1": inner}}, "type!": inner}
        values[f"w/{number:02}"] = inner
        values[f"x/{number:02}"] = {"address": inner, "address.city": "a", "a/b": inner}
    values["y"] = {"address": [{"city": "a"}], "n": [5], "x": {"n": 5}}
    return values


async def fill(store: EventStore, values: dict[str, Any]) -> None:
    """Save each of them."""
    await store.append([saved(key, 1, value=value) for key, value in values.items()])


def conditions() -> Iterator[Filter]:
    """Conditions on one field, of each kind, with each kind of operand; all of them exact in an index."""
    for path in (("n",), CITY, DEEP):
        yield Exists(path)
        for value in SCALARS:
            if isinstance(value, str) and len(value) >= 256:
                continue
            yield Compare("eq", path, value)
            if value is not None and not isinstance(value, bool):
                yield from (Compare(op, path, value) for op in ("gt", "gte", "lt", "lte"))
        yield OneOf(path, ())
        yield OneOf(path, (None,))
        yield OneOf(path, (None, True, 1, "a", "$gt"))


async def test_every_condition_on_every_kind_of_value(indexed: IndexedStore) -> None:
    """What a condition means in an index is what it means for a value, and so does its negation."""
    values = odd_values()
    await fill(indexed, values)
    await caught_up(indexed)
    assert await found(indexed) == sorted(values)
    for condition in conditions():
        for one in (condition, Not(condition)):
            assert await found(indexed, one) == wanted(values, one), one


async def test_conditions_together(indexed: IndexedStore) -> None:
    """Conditions can be nested in one another at will."""
    values = odd_values()
    await fill(indexed, values)
    await caught_up(indexed)
    single = list(conditions())
    rng = random.Random(1)  # noqa: S311

    def some(depth: int) -> Filter:
        if depth == 0 or rng.random() < 0.2:
            return rng.choice(single)
        match rng.randrange(3):
            case 0:
                return And(tuple(some(depth - 1) for _ in range(rng.randint(1, 3))))
            case 1:
                return Or(tuple(some(depth - 1) for _ in range(rng.randint(1, 3))))
            case _:
                return Not(some(depth - 1))

    seen = 0
    for _ in range(150):
        filter_ = some(3)
        assert narrow(filter_, FIELDS) == filter_
        expected = wanted(values, filter_)
        seen += bool(expected)
        assert await found(indexed, filter_) == expected, filter_
    assert seen > 50


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_orders_and_pages(indexed: IndexedStore, limit: int, descending: bool) -> None:
    """Every kind of value has its place in an order, and pages of any length follow on one another without a gap."""
    values = odd_values()
    await fill(indexed, values)
    await caught_up(indexed)
    for path in (("n",), CITY):
        sort = Sort(path, descending)
        assert await found(indexed, sort=sort, limit=limit) == wanted(values, sort=sort)
    narrowed = Compare("eq", ("t",), 1)
    sort = Sort(("n",), descending)
    assert await found(indexed, narrowed, sort=sort, limit=limit) == wanted(values, narrowed, sort=sort)
    assert await found(indexed, narrowed, limit=limit) == wanted(values, narrowed)


@pytest.mark.parametrize(
    "scope",
    [
        KeyScope.of(),
        KeyScope.of(["n/00"]),
        KeyScope.of(["n/00", "n/01", "none"], ["t/", "x/1"]),
        KeyScope.of(prefixes=["n/0"]),
        KeyScope.of(prefixes=["$", "{", "n/.*"]),
    ],
    ids=str,
)
async def test_nothing_beyond_the_scope(indexed: IndexedStore, scope: KeyScope) -> None:
    """Only keys that are asked for are told of, and all of them."""
    values = odd_values()
    await fill(indexed, values)
    await caught_up(indexed)
    for sort in (None, Sort(("n",)), Sort(("n",), descending=True)):
        assert await found(indexed, keys=scope, sort=sort, limit=3) == wanted(values, keys=scope, sort=sort)


async def test_changes_are_followed(indexed: IndexedStore) -> None:
    """A key is found by its newest value, not at all when it is deleted, and again when it is there again."""
    five: Scalar = 5
    at_five = Compare("eq", ("n",), five)
    await indexed.append([saved("a", 1, value={"n": 5}), saved("b", 1, value={"n": 5}), saved("c", 1, value={"n": 6})])
    await caught_up(indexed)
    assert await found(indexed, at_five) == ["a", "b"]
    await indexed.append([saved("a", 2, value={"n": 6}), deleted("b", 2), saved("c", 2, value={"n": 5})])
    await caught_up(indexed)
    assert await found(indexed, at_five) == ["c"]
    assert await found(indexed) == ["a", "c"]
    await indexed.append([saved("b", 3, value=5), saved("b", 4, value={"n": 5.0}), deleted("c", 3)])
    await caught_up(indexed)
    assert await found(indexed, at_five) == ["b"]


async def test_transactions_are_followed(indexed: IndexedStore, capability: Callable[[EventStore, str], None]) -> None:
    """Their events are found like all others; what they only guard stays as it is."""
    capability(indexed, "transactions")
    assert isinstance(indexed, TransactionalStore)
    at_five = Compare("eq", ("n",), 5)
    await indexed.append([saved("a", 1, value={"n": 5}), saved("b", 1, value={"n": 5})])
    await caught_up(indexed)
    first = saved("a", 2, value={"n": 6}, command="t").model_copy(update={"position": 1})
    second = saved("c", 1, value={"n": 5}, command="t").model_copy(update={"position": 2})
    receipt = Receipt(id="t", key="a", time=first.time, digest=b"12345678", answer={"status": "ok"}, events=2)
    result = await indexed.transact([receipt, first, second], [("b", 2), ("never", 1)])
    assert result.fence is not None
    await caught_up(indexed)
    assert await found(indexed, at_five) == ["b", "c"]
    assert await found(indexed) == ["a", "b", "c"]


async def test_what_was_there_before_anything_was_declared(
    make_store: MakeStore, capability: Callable[[EventStore, str], None]
) -> None:
    """Indexes that are declared later are built from the log; what is declared twice is built once."""
    plain = make_store("default")
    capability(plain, "indexes")
    assert isinstance(plain, IndexedStore)
    await plain.open()
    assert (await plain.index_state()).ready == frozenset()
    values = {f"k/{number:04}": {"n": number % 7, "t": str(number)} for number in range(1200)}
    for start in range(0, 1200, 400):
        await fill(plain, dict(itertools.islice(values.items(), start, start + 400)))
    await plain.append([deleted("k/0003", 2)])
    del values["k/0003"]
    plain.declare(FIELDS)
    async with kept(plain) as store:
        await caught_up(store)
        three = Compare("eq", ("n",), 3)
        assert await found(store, three) == wanted(values, three)


async def test_a_rebuild_ends_with_the_same(closed_indexed: IndexedStore) -> None:
    """A rebuild tells how far it is, and afterwards all is found again, and nothing else."""
    values = odd_values()
    async with kept(closed_indexed) as store:
        await fill(store, values)
        await store.append([deleted("y", 2)])
        del values["y"]
        await caught_up(store)
        told: list[tuple[int, int]] = []
        await store.rebuild(lambda done, total: told.append((done, total)))
        assert told[-1][0] == told[-1][1]
        assert all(0 <= done <= total for done, total in told)
        await caught_up(store)
        assert await found(store) == sorted(values)
        sort = Sort(("n",))
        assert await found(store, sort=sort) == wanted(values, sort=sort)


async def test_a_long_text_is_left_to_the_log(indexed: IndexedStore) -> None:
    """An index holds the head of a text: what is about more than that is not asked of it."""
    long = "x" * 256
    assert narrow(Compare("eq", ("t",), long), FIELDS) is None
    assert narrow(Not(Compare("lt", ("t",), long)), FIELDS) is None
    assert narrow(Or((Compare("eq", ("t",), long), Exists(("n",)))), FIELDS) is None
    both = And((OneOf(("t",), (long,)), Exists(("n",))))
    assert narrow(both, FIELDS) == And((Exists(("n",)),))
    assert narrow(Not(both), FIELDS) is None
