"""Transactions in a log: what is not whole is found, and what is, is not complained of."""

from collections.abc import Callable
from typing import Any

import pytest
from support.commands import apply, checks, drops, one, request, save, sets, transact
from support.engines import engine_on

from holdfast.events import Event, Receipt, Record, Refusal
from holdfast.rules import Rule
from holdfast.stores import MemoryStore, Place
from holdfast.verify import verify
from holdfast.wholeness import Wholeness


async def written() -> list[Record]:
    """A log with transactions of all kinds between single commands, as an engine writes it."""
    store = MemoryStore()
    await store.open()
    engine = engine_on(store)
    await apply(engine, save("a", 1), save("b", 1), save("c", 1))
    answers = [
        await one(engine, request(command, author="ada"))
        for command in (
            transact(sets("a", 2), drops("b"), checks("c", exists=True), sets("new", 1), id="t1"),
            transact(sets("a", 3), sets("a", 4), drops("a"), drops("never"), id="t2", metadata={"why": "x"}),
            transact(checks("a", exists=False), drops("b"), id="t3"),
            transact(sets("a", 5), checks("c", exists=False), id="t4"),
            transact(sets("a", 5), checks("never", exists=True), id="t5"),
            transact(checks("new", exists=False), id="t6"),
            transact(sets("new", 5), sets("new", 6, concurrency="first-write"), id="t7"),
            transact(sets("new", 7, concurrency="first-write"), id="t8"),
        )
    ]
    await apply(engine, save("a", 9), save("new", 9), save("c", 9, concurrency="first-write"))
    assert [answer["status"] for answer in answers] == ["ok"] * 3 + ["conflict"] * 5
    return [record async for record in store.scan()]


async def log_of(records: list[Record]) -> MemoryStore:
    store = MemoryStore()
    await store.open()
    for record in records:
        await store.append([record])
    return store


async def test_what_an_engine_wrote_is_sound() -> None:
    records = await written()
    report = await verify(await log_of(records), "default")
    assert report.faults == []
    assert report.transactions == 3
    assert report.refusals == sum(isinstance(record, Refusal) for record in records) == 6
    assert report.events == sum(isinstance(record, Event) for record in records)


Change = Callable[[list[Record]], list[Record]]


def without(id_: str, position: int) -> Change:
    return lambda records: [one for one in records if (one.id, one.position) != (id_, position)]


def changed(id_: str, position: int, **fields: Any) -> Change:
    def change(records: list[Record]) -> list[Record]:
        return [one.model_copy(update=fields) if (one.id, one.position) == (id_, position) else one for one in records]

    return change


def result(id_: str, number: int, **fields: Any) -> Change:
    """One result of a receipt tells something else."""

    def change(records: list[Record]) -> list[Record]:
        (receipt,) = (one for one in records if isinstance(one, Receipt) and one.id == id_)
        results = [dict(each) for each in receipt.answer["results"]]
        results[number] |= fields
        return changed(id_, 0, answer={**receipt.answer, "results": results})(records)

    return change


@pytest.mark.parametrize(
    ("change", "id_", "said"),
    [
        pytest.param(without("t1", 0), "t1", "no receipt for it", id="no receipt"),
        pytest.param(without("t2", 3), "t2", "events 3 to 3 of 3 are missing", id="the last event"),
        pytest.param(without("t2", 1), "t2", "events 1 to 1 of 3 are missing", id="the first event"),
        pytest.param(without("t2", 2), "t2", "events 2 to 2 of 3 are missing", id="an event between"),
        pytest.param(changed("t1", 0, events=2), "t1", "tells of 2 events, and there is one more", id="too few told"),
        pytest.param(changed("t1", 0, events=4), "t1", "events 4 to 4 of 4 are missing", id="too many told"),
        pytest.param(changed("t3", 0, events=1), "t3", "events 1 to 1 of 1 are missing", id="of none"),
        pytest.param(result("t1", 0, version=1), "t1", "result 0 tells of another state", id="another version"),
        pytest.param(result("t1", 0, etag="2-00000000"), "t1", "result 0 tells of another state", id="another etag"),
        pytest.param(result("t1", 1, exists=True), "t1", "result 1 tells of another state", id="not deleted"),
        pytest.param(result("t1", 3, version=7), "t1", "which is not in the log", id="never made"),
        pytest.param(result("t1", 2, changed=True), "t1", "tells that it made version 1 of 'c'", id="somebody else's"),
        pytest.param(result("t2", 3, exists=True), "t2", "never was", id="never was"),
        pytest.param(result("t1", 0, key=5), "t1", "its result 0 is none", id="no result"),
        pytest.param(changed("t3", 0, answer={"status": "conflict"}), "t3", "'conflict'", id="no success"),
    ],
)
async def test_what_is_not_whole(change: Change, id_: str, said: str) -> None:
    report = await verify(await log_of(change(await written())), "default")
    faults = [fault for fault in report.faults if fault.rule is Rule.TRANSACTION]
    assert faults
    assert id_ in {fault.id for fault in faults}
    assert any(said in fault.message for fault in faults), faults


def refusal(id_: str, version: int | None = None, **error: Any) -> Change:
    """A recorded conflict tells something else."""

    def change(records: list[Record]) -> list[Record]:
        (one,) = (each for each in records if isinstance(each, Refusal) and each.id == id_)
        answer = {**one.answer, "error": one.answer["error"] | error}
        return changed(id_, 0, answer=answer | ({} if version is None else {"version": version}))(records)

    return change


@pytest.mark.parametrize(
    ("change", "id_"),
    [
        (refusal("t4", key="a"), "t4"),
        (refusal("t4", version=2), "t4"),
        (refusal("t4", winner="somebody"), "t4"),
        (refusal("t5", version=1), "t5"),
        (refusal("t6", actual="1-00000000"), "t6"),
        (refusal("t8", winner="t2"), "t8"),
    ],
)
async def test_a_refusal_that_was_never_right(change: Change, id_: str) -> None:
    """Of the key of the operation that is named; the winner may be a transaction, of which one event is meant."""
    report = await verify(await log_of(change(await written())), "default")
    assert [(fault.rule, fault.id) for fault in report.faults] == [(Rule.ANSWER, id_)]


async def test_an_event_with_another_digest() -> None:
    """Events of transactions are judged like all others."""
    records = changed("t1", 1, digest=b"\0" * 8)(await written())
    report = await verify(await log_of(records), "default")
    assert [(fault.rule, fault.key, fault.version) for fault in report.faults] == [(Rule.DIGEST, "a", 2)]


def test_pages_may_end_anywhere() -> None:
    """A receipt and its events need not come on one page; and single commands have none."""
    receipt = Receipt(id="b", key="k", time=1, digest=b"", answer={}, events=2)
    places = [Place("a", 0, True), Place("b", 0, False), Place("b", 1, True), Place("b", 2, True), Place("c", 0, True)]
    for end in range(len(places)):
        wholeness = Wholeness()
        for page in (places[:end], places[end:]):
            receipts = {"b": receipt} if any(place == ("b", 0, False) for place in page) else {}
            assert list(wholeness.step(page, receipts)) == []
        assert list(wholeness.finish()) == []
        assert wholeness.take_orphans() == []


def test_an_event_before_its_receipt_was_seen() -> None:
    """A transaction that is committed while the pages go by may show its later part alone: that is asked for again."""
    wholeness = Wholeness()
    assert list(wholeness.step([Place("a", 2, True), Place("b", 0, True)], {})) == []
    assert wholeness.take_orphans() == [Place("a", 2, True)]
    assert wholeness.take_orphans() == []
