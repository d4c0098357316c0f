"""A purge: an event like any other, and, before it is answered, the end of all values that came before it."""

import asyncio
from typing import Any

import pytest
from store_records import saved
from support.commands import NOW, apply, brief, delete, one, purge, read, request, restore, save
from support.deliveries import delivery
from support.desk import Desk, desk
from support.engines import Clock, engine_on
from support.scripted import ScriptedStore

from holdfast.events import Event, HistoryCommand, StoreUnavailable, make_etag
from holdfast.stores import Head, MemoryStore
from holdfast.worker import Request, erasure
from holdfast.worker.decide import NEVER, decide
from holdfast.worker.histories import look_up
from holdfast.worker.lane import StoreLostError
from holdfast.worker.purges import Purges

LIVE = Head(version=3, exists=True, id="writer", time=NOW - 5000)
DELETED = Head(version=4, exists=False, id="deleter", time=NOW - 5000)
ETAG = make_etag(3, "writer")


@pytest.mark.parametrize(
    ("head", "fields", "expected"),
    [
        (LIVE, {}, 4),
        (LIVE, {"etag": ETAG}, 4),
        (DELETED, {}, 5),
        (NEVER, {}, "unchanged"),
        (LIVE, {"etag": "3-0"}, "etag_mismatch"),
        (DELETED, {"etag": ETAG}, "absent"),
        (LIVE, {"max_version": 2}, "newer"),
        (LIVE, {"deadline": NOW - 1}, "deadline"),
    ],
)
def test_what_it_means(head: Head, fields: dict[str, Any], expected: int | str) -> None:
    """Given a key in any state, when it is purged, then that is an event, unless there never was anything."""
    decision = decide(purge("k", **fields), head, now=NOW, author=None, digest=b"")
    if isinstance(decision, Event):
        assert (decision.type, decision.version, decision.exists, decision.value) == ("purged", expected, False, None)
    elif expected == "unchanged":
        # So that it is told the same when it comes again.
        assert (decision.answer["status"], decision.answer["changed"]) == ("ok", False)
        assert (decision.recorded, decision.about_key) == (True, True)
    else:
        assert decision.answer["error"]["code"] == expected


async def test_it_goes_on_like_a_delete() -> None:
    """Given a key that was purged, when others write to it, then the versions go on, and stale etags never match."""
    engine = engine_on(await ScriptedStore.opened(), Clock())
    before = await one(engine, save("k", 1))
    command = purge("k")
    answer = await one(engine, command)
    assert answer == {
        "status": "ok", "exists": False, "changed": True, "etag": None, "version": 2, "updated_at": NOW,
    }  # fmt: skip
    answers = await apply(engine, read("k"), save("k", 2, etag=before["etag"]), save("k", 3), command, read("k"))
    assert [brief(each) for each in answers[:3]] == ["absent", "conflict absent", "ok v3"]
    assert answers[3] == answer
    assert answers[4]["value"] == 3


# At the worker.


async def fill(it: Desk) -> None:
    for value in ("one", "two"):
        await it.ask({"op": "save", "id": value, "key": "k", "value": value, "metadata": {"who": "ada"}}, None)


async def values(it: Desk) -> list[Any]:
    return [record.value for record in [one async for one in it.store.scan()] if isinstance(record, Event)]


PURGE = {"op": "purge", "id": "p", "key": "k", "metadata": {"by": "request 17"}}


async def test_the_answer_means_that_it_is_erased() -> None:
    """Given a key with values, when the reply to its purge has come, then they are nowhere, with their metadata."""
    async with desk() as it:
        await fill(it)
        reply = await it.ask(PURGE, None)
        assert (reply["status"], reply["version"], reply["changed"]) == ("ok", 3, True)
        assert await values(it) == [None] * 3
        events = (await it.ask({"op": "history", "id": "h", "key": "k"}, None))["events"]
        assert [event["type"] for event in events] == ["saved", "saved", "purged"]
        assert [event.get("stripped") for event in events] == [True, True, None]
        assert not any("value" in event for event in events)
        assert [event.get("metadata") for event in events] == [None, None, {"by": "request 17"}]
        # Stubs answer as their events did: repeats, stale etags, and what they were made by.
        again = {"op": "save", "id": "two", "key": "k", "value": "two", "metadata": {"who": "ada"}}
        assert (await it.ask(again, None))["version"] == 2
        assert (await it.ask({**again, "value": "2"}, None))["error"]["code"] == "id_reused"
        stale = {"op": "save", "id": "s", "key": "k", "value": 1, "etag": make_etag(2, "two")}
        assert (await it.ask(stale, None))["error"]["code"] == "absent"
        for wanted, code in (({"at_version": 2}, "stripped"), ({"at_time": NOW}, None)):
            past = await it.ask({"op": "read", "id": "r", "key": "k", **wanted}, None)
            assert past.get("error", {}).get("code") == code
        assert brief(await one(it.engine, restore("k", 2))) == "conflict stripped"


async def test_what_is_saved_later_stays() -> None:
    """Given a purge that comes again after the key was saved anew, when it is answered, then nothing more is erased."""
    async with desk() as it:
        await fill(it)
        first = await it.ask(PURGE, None)
        await it.ask({"op": "save", "id": "new", "key": "k", "value": "new"}, None)
        again = await it.ask(PURGE, None, redelivered=True)
        assert {**again, "time": 0} == {**first, "time": 0}
        assert await values(it) == [None, None, None, "new"]


async def test_a_worker_that_dies_before_it_is_erased_has_not_answered() -> None:
    """Given a purge in the log whose values are still there, when it comes again, then they go, and it is answered."""
    command = purge("k", id="p")
    async with desk() as it:
        await fill(it)
        # The other worker came as far as this.
        assert (await apply(it.engine, command))[0]["changed"]
        assert "two" in await values(it)
        reply = await it.ask({"op": "purge", "id": "p", "key": "k"}, None, redelivered=True)
        assert (reply["status"], reply["version"]) == ("ok", 3)
        assert await values(it) == [None] * 3


async def test_it_is_not_answered_while_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a store that goes away before all is erased, when it stays away, then the session ends unanswered."""
    monkeypatch.setattr(erasure, "wait_random_exponential", lambda **_: lambda _: 0)
    store = MemoryStore()
    await store.open()
    tries = 0

    async def away(_: Any) -> int:
        nonlocal tries
        tries += 1
        raise StoreUnavailable("scripted")

    monkeypatch.setattr(store, "strip", away)
    answered: list[Any] = []

    async def published() -> None:
        """There is nothing to be published."""

    erasures = erasure.Erasures(
        store, Purges(), answered=lambda *told: answered.append(told), published=published, patience=0.01
    )
    made = await apply(engine_on(store), save("k", 1), delete("k"), purge("k"))
    erasures.add(Request(purge("k")), made[2])
    with pytest.raises(StoreLostError):
        await erasures.run()
    assert tries > 1
    assert answered == []


async def test_a_key_of_many_versions_is_erased_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given more versions than one step takes, when they are erased, then in several, and the purge is in none."""
    monkeypatch.setattr(erasure, "STEP", 3)
    async with desk() as it:
        for number in range(7):
            await it.ask({"op": "save", "id": f"{number}", "key": "k", "value": number}, None)
        asked: list[Any] = []
        strip = it.store.strip

        async def noted(ranges: Any) -> int:
            asked.extend(ranges)
            return await strip(ranges)

        monkeypatch.setattr(it.store, "strip", noted)
        assert (await it.ask(PURGE, None))["version"] == 8
        assert asked == [("k", 0, 2), ("k", 3, 5), ("k", 6, 7)]
        assert await values(it) == [None] * 8


async def test_writers_do_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given an erasure that takes its time, when others write meanwhile, the same key too, then they are answered."""
    async with desk() as it:
        await fill(it)
        held = asyncio.Event()
        strip = it.store.strip

        async def slow(ranges: Any) -> int:
            await held.wait()
            return await strip(ranges)

        monkeypatch.setattr(it.store, "strip", slow)
        replies = len(it.broker.replies)
        it.take(delivery(PURGE, tag=900), 0)
        it.take(delivery({"op": "save", "id": "new", "key": "k", "value": "new"}, tag=901), 0)
        await it.broker.until_so_many_acknowledged(3)
        assert [body["id"] for _, _, body in it.broker.replies[replies:]] == ["new"]
        assert not any(tag == 900 for tag in it.broker.acknowledged)
        held.set()
        await it.idle()
        assert [body["id"] for _, _, body in it.broker.replies[replies:]] == ["new", "p"]
        assert await values(it) == [None, None, None, "new"]


async def test_nothing_is_restored_from_behind_a_purge_on_its_way() -> None:
    """Given a purge in the log whose values are still there, when one of them is to be restored, then it is erased."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await apply(engine, save("k", "one"), save("k", "two"))
    command = purge("k")
    # In the same batch, and in later ones: the values are there until somebody erases them.
    answers = await apply(engine, command, restore("k", 1), save("k", "three"), restore("k", 4), restore("k", 2))
    assert [brief(answer) for answer in answers] == [
        "ok v3",
        "conflict stripped",
        "ok v4",
        "ok v5",
        "conflict stripped",
    ]
    assert brief(await one(engine, restore("k", 1))) == "conflict stripped"
    assert brief(await one(engine, restore("k", 1, etag=answers[3]["etag"]))) == "conflict stripped"
    # Nor is it told what they are.
    for version, code in ((1, "stripped"), (2, "stripped"), (3, None), (4, None)):
        past = await look_up(engine, read("k", at_version=version))
        assert past.get("error", {}).get("code") == code
    events = (await look_up(engine, HistoryCommand(op="history", id="h", key="k")))["events"]
    assert [event.get("stripped") for event in events] == [True, True, None, None, None]
    assert [event.get("value") for event in events] == [None, None, None, "three", "three"]
    # Another worker takes the purge over.
    other = engine_on(store)
    again, refused = await apply(other, request(command, redelivered=True), request(restore("k", 1)))
    assert (again, brief(refused)) == (answers[0], "conflict stripped")
    # Once they are erased, there is nothing to be remembered of it.
    await store.inner.strip([("k", 1, 2)])
    engine.purges.finish("k", 2)
    assert engine.purges.hide(saved("k", 1)).stripped
    engine.purges.finish("k", 3)
    assert not engine.purges.hide(saved("k", 1)).stripped
    assert brief(await one(engine, restore("k", 2))) == "conflict stripped"


async def test_a_purge_that_is_done_is_not_remembered() -> None:
    """Given a purge that was answered, then the worker remembers nothing of it."""
    async with desk() as it:
        await fill(it)
        await it.ask(PURGE, None)
        assert not it.engine.purges.hide(saved("k", 1)).stripped
