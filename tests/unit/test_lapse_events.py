"""That a key has expired is told to others like every event: by whoever put it into the log, or who comes after it."""

import orjson
import pytest
from support.commands import Operation, apply, brief, checks, delete, first, one, read, request, save, sets, transact
from support.engines import Clock, engine_on
from support.scripted import ScriptedStore, lost_after, transaction_lost_after

from holdfast.events import ReadCommand, StoreUnavailable, WatchCommand
from holdfast.verify import verify
from holdfast.worker import Batch, Engine, Request
from holdfast.worker.watching import watch_page

TTL = 60


@pytest.fixture
async def store() -> ScriptedStore:
    return await ScriptedStore.opened()


async def expired(store: ScriptedStore, clock: Clock, *keys: str) -> Engine:
    """An engine that has saved keys for a minute, and the minute is over."""
    engine = engine_on(store, clock, tells_values=True)
    await apply(engine, *(save(key, "short", ttl_seconds=TTL) for key in keys))
    clock.millis += TTL * 1000
    return engine


def sweep(key: str, *, redelivered: bool = False) -> Request:
    return Request(ReadCommand(op="read", id="sweep", key=key), sweep=True, redelivered=redelivered)


def told(*made: Request) -> list[list[tuple[str, int, str]]]:
    return [[(event.key, event.version, event.type) for event in each.events] for each in made]


async def test_whoever_finds_it_tells_it(store: ScriptedStore) -> None:
    """Given expired keys, when each is met by another kind of command, then that tells it, before its own event."""
    engine = await expired(store, Clock(), "read", "swept", "saved", "refused", "eventual")
    made = [
        request(read("read")),
        sweep("swept"),
        request(save("saved", 1)),
        request(delete("refused")),
        request(read("eventual", consistency="eventual")),
    ]
    await apply(engine, *made)
    assert told(*made) == [
        [("read", 2, "expired")],
        [("swept", 2, "expired")],
        [("saved", 2, "expired"), ("saved", 3, "saved")],
        [("refused", 2, "expired")],
        [],
    ]


async def test_it_is_told_before_what_comes_after_it(store: ScriptedStore) -> None:
    """Given a read that finds it and writes behind that, when they are applied, then the first write tells it.

    The read may be answered after them, when its value has been looked up, and is told by nobody before that.
    """
    engine = await expired(store, Clock(), "k")
    made = [request(read("k")), request(save("k", 1)), request(save("k", 2)), request(read("k"))]
    batch = Batch.of(made)
    await engine.apply(batch)
    assert told(*made) == [[], [("k", 2, "expired"), ("k", 3, "saved")], [("k", 4, "saved")], []]


@pytest.mark.parametrize("case", ["read", "sweep", "save", "delete"])
async def test_who_dies_before_it_is_told(store: ScriptedStore, case: str) -> None:
    """Given a worker that died when it was in the log, when its messages come again, then it is told all the same."""
    clock = Clock()
    await expired(store, clock, "k")
    commands: dict[str, Operation] = {
        "read": read("k"), "save": save("k", 1), "delete": delete("k"), "sweep": read("k"),
    }  # fmt: skip
    command = commands[case]
    await one(engine_on(store.inner, clock), command)
    made = sweep("k", redelivered=True) if case == "sweep" else request(command, redelivered=True)
    await apply(engine_on(store, clock, tells_values=True), made)
    assert told(made) == [[("k", 2, "expired"), ("k", 3, "saved")] if case == "save" else [("k", 2, "expired")]]


async def test_an_append_whose_answer_was_lost(store: ScriptedStore) -> None:
    """Given an append that landed without our knowing, when the batch is applied again, then the lapses are told."""
    engine = await expired(store, Clock(), "a", "b")
    made = [request(read("a")), request(save("b", 1))]
    batch = Batch.of(made)
    store.script("append", lost_after)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    await engine.apply(batch)
    assert told(*made) == [[("a", 2, "expired")], [("b", 2, "expired"), ("b", 3, "saved")]]


async def test_what_was_deleted_is_no_lapse(store: ScriptedStore) -> None:
    """Given a deleted key, and one saved again after that, when commands come again, then no lapse is told of them."""
    engine = engine_on(store, tells_values=True)
    again = save("b", 2)
    await apply(engine, save("a", 1), delete("a"), save("b", 1), delete("b"), again)
    made = [request(read("a"), redelivered=True), request(again, redelivered=True)]
    await apply(engine_on(store, tells_values=True), *made)
    assert told(*made) == [[], [("b", 3, "saved")]]


async def test_transactions_tell_it(store: ScriptedStore) -> None:
    """Given expired keys, when a transaction writes one and checks another, then it tells of both, and of its own."""
    engine = await expired(store, Clock(), "a", "b", "c")
    made = request(transact(sets("a", 1, concurrency="first-write"), checks("b", exists=False)))
    await apply(engine, made)
    assert made.answer is not None
    assert brief(made.answer) == "ok"
    assert told(made) == [[("a", 2, "expired"), ("b", 2, "expired"), ("a", 3, "saved")]]
    refused = request(transact(sets("a", 2), checks("c", exists=True)))
    await apply(engine, refused)
    assert refused.answer is not None
    assert brief(refused.answer) == "conflict absent"
    assert told(refused) == [[("c", 2, "expired")]]


async def test_a_transaction_whose_answer_was_lost(store: ScriptedStore) -> None:
    """Given a transaction that landed without our knowing, when it is applied again, then its lapses are told."""
    engine = await expired(store, Clock(), "a", "b")
    made = request(transact(sets("a", 1), checks("b", exists=False)))
    batch = Batch.of([made])
    store.script("transact", transaction_lost_after)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    made.events = ()
    await engine.apply(batch)
    assert sorted(told(made)[0]) == [("a", 2, "expired"), ("a", 3, "saved"), ("b", 2, "expired")]
    assert told(made)[0].index(("a", 2, "expired")) < told(made)[0].index(("a", 3, "saved"))


async def test_saves_of_a_transaction_that_expire(store: ScriptedStore) -> None:
    """Given a save with a time in a transaction, when that is over, then it is absent; the other one stays."""
    clock = Clock()
    engine = engine_on(store, clock, tells_values=True)
    answer = await one(engine, transact(sets("a", 1, ttl_seconds=TTL), sets("b", 1), id="t"))
    assert [result.get("expires") for result in answer["results"]] == [clock.millis + TTL * 1000, None]
    other = transact(sets("a", 1, ttl_seconds=TTL + 1), sets("b", 1), id="t")
    assert brief(await one(engine, other)) == "invalid id_reused"
    clock.millis += TTL * 1000 - 1
    assert brief(await one(engine, first("a", 2))) == "conflict exists"
    clock.millis += 1
    assert brief(await one(engine, read("a"))) == "absent"
    assert brief(await one(engine, first("b", 2))) == "conflict exists"
    assert (await verify(store.inner, "default")).sound


@pytest.mark.parametrize("values", [True, False])
async def test_what_a_watch_begins_with(store: ScriptedStore, values: bool) -> None:
    """Given expired keys of which the log does not say so yet, when a watch begins, then they are not there.

    Their versions are: what comes next, the lapse, is the version after them.
    """
    clock = Clock()
    await expired(store, clock, "gone", "here")
    await apply(engine_on(store, clock), save("here", 1, ttl_seconds=TTL))
    command = WatchCommand(op="watch", id="w", values=values)
    page, _ = await watch_page(store, command, clock.millis)
    answer = orjson.loads(orjson.dumps(page))
    assert [event["key"] for event in answer["events"]] == (["here"] if values else [])
    assert answer["versions"] == {"gone": 1, "here": 3}
    since, _ = await watch_page(store, WatchCommand(op="watch", id="w", since=0), clock.millis)
    told = {event["key"]: event.get("expires") for event in orjson.loads(orjson.dumps(since))["events"]}
    assert told == {"gone": clock.millis, "here": clock.millis + TTL * 1000}
