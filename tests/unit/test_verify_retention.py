"""What `holdfast verify` says of logs in which values were erased and records dropped, and of what only looks so."""

from typing import Any

import pytest
from store_records import saved
from support.commands import apply, checks, delete, drops, first, one, purge, restore, save, sets, transact
from support.engines import Clock, engine_on

from holdfast.events import Event, Receipt, Record, StoreUnavailable
from holdfast.rules import Rule
from holdfast.stores import Mark, MemoryStore, RetentionConfig
from holdfast.verify import verify
from holdfast.worker.compaction import Compactor

DAYS = 24 * 3600.0


class Log:
    """A log that an engine wrote, with a mark of its own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()

    async def broken(
        self, records: list[Record], mark: Mark | None = None
    ) -> list[tuple[Rule, str | None, int | None]]:
        """What is said of these records."""
        store = MemoryStore()
        await store.open()
        for record in records:
            await store.append([record])
        assert await store.set_mark(Mark(), mark or Mark())
        return [(fault.rule, fault.key, fault.version) for fault in (await verify(store, "default")).faults]

    async def records(self) -> list[Record]:
        return [record async for record in self.store.scan()]


@pytest.fixture
async def log() -> Log:
    """Keys with saves, a restore, a delete and a purge, an hour apart; and refusals."""
    made = Log()
    await made.store.open()
    engine = engine_on(made.store, made.clock)
    for command in (
        save("a", 1), save("a", {"n": [2]}, metadata={"why": "so"}), restore("a", 1), save("a", 4), restore("a", 2),
        save("b", 1), delete("b"), first("a"), restore("b", 9), save("p", 1), purge("p"), save("p", 3), restore("n", 1),
        purge("n"),
    ):  # fmt: skip
        made.clock.pass_(3600)
        await apply(engine, command)
    return made


def change(records: list[Record], key: str, version: int, **fields: Any) -> list[Record]:
    return [
        record.model_copy(update=fields)
        if isinstance(record, Event) and (record.key, record.version) == (key, version)
        else record
        for record in records
    ]


def without(records: list[Record], key: str, *versions: int) -> list[Record]:
    return [one for one in records if not (isinstance(one, Event) and one.key == key and one.version in versions)]


async def test_all_of_it_is_sound(log: Log) -> None:
    assert await log.broken(await log.records()) == []


async def test_stubs_are_sound(log: Log) -> None:
    """Also those of deletes and purges, of restores and of their sources."""
    await log.store.strip([("a", 1, 4), ("b", 1, 1), ("p", 1, 2)])
    assert await log.broken(await log.records()) == []


async def test_a_stub_is_a_part_of_its_key_like_any_other(log: Log) -> None:
    """What follows it is judged by it, and it must not be missing."""
    await log.store.strip([("a", 1, 4)])
    records = await log.records()
    assert await log.broken(without(records, "a", 2)) == [(Rule.VERSION, "a", 3)]
    assert (Rule.TIME, "a", 4) in await log.broken(change(records, "a", 3, time=2**52))
    assert await log.broken(change(records, "a", 5, value=5)) == []
    assert await log.broken(change(records, "a", 5, restored=1)) == [(Rule.DIGEST, "a", 5)]


async def test_a_value_that_was_restored_is_the_one_of_its_version(log: Log) -> None:
    records = await log.records()
    assert await log.broken(change(records, "a", 5, value=5)) == [(Rule.RESTORED, "a", 5)]
    assert (Rule.RESTORED, "a", 3) in await log.broken(change(records, "a", 1, value=5))


@pytest.mark.parametrize("gone", [(1,), (1, 2), (1, 2, 3, 4)])
async def test_what_may_have_been_dropped(log: Log, gone: tuple[int, ...]) -> None:
    """The oldest versions may be missing, if what follows them is older than the mark tells; and nothing else."""
    records = without(await log.records(), "a", *gone)
    (oldest, *_) = [one for one in records if isinstance(one, Event) and one.key == "a"]
    assert await log.broken(records, Mark(horizon=oldest.time + 1)) == []
    assert await log.broken(records, Mark(horizon=oldest.time)) == [(Rule.VERSION, "a", oldest.version)]
    assert (Rule.VERSION, "a", 5) in await log.broken(without(await log.records(), "a", 4), Mark(horizon=2**52))


async def test_how_a_key_may_begin(log: Log) -> None:
    """With a version above 1, if it says that it is the first, and is no higher than the floor lets it be."""
    digest = next(one.digest for one in await log.records() if isinstance(one, Event) and one.key == "p")
    event = saved("p", 8, value=1, digest=digest, time=log.clock.millis)
    for first_, floor, expected in ((True, 7, []), (True, 9, []), (True, 6, [8]), (False, 9, [8])):
        found = await log.broken([event.model_copy(update={"first": first_})], Mark(floor=floor))
        assert found == [(Rule.VERSION, "p", version) for version in expected]
    # Its digest is judged, as that of every event that is no stub.
    assert await log.broken([event.model_copy(update={"first": True, "value": 2})], Mark(floor=7)) == [
        (Rule.DIGEST, "p", 8)
    ]


async def test_recorded_answers_outlive_what_they_tell_of(log: Log) -> None:
    """Of those that are older than the mark tells it is not expected; of younger ones it is."""
    refusals: list[Record] = [record for record in await log.records() if not isinstance(record, Event)]
    assert len(refusals) == 4
    assert await log.broken(refusals, Mark(horizon=2**52)) == []
    assert {(rule, key) for rule, key, _ in await log.broken(refusals)} == {(Rule.ANSWER, "a"), (Rule.ANSWER, "b")}


async def test_a_sweep_that_is_cut_off_leaves_it_sound(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped is noted before; so it is sound wherever a sweep ends."""
    config = RetentionConfig(versions=1, forget_days=7, interval_seconds=1)
    compactor = Compactor("default", log.store, config, service_time=log.clock.now)
    drop = log.store.drop

    async def cut_off(places: Any) -> int:
        await drop(places[:1])
        raise StoreUnavailable("scripted")

    monkeypatch.setattr(log.store, "drop", cut_off)
    for _ in range(6):
        log.clock.pass_(10 * DAYS)
        before = len(await log.records())
        with pytest.raises(StoreUnavailable):
            await compactor.sweep_if_due()
        assert len(await log.records()) == before - 1
        assert (await verify(log.store, "default")).faults == []


async def test_receipts_of_keys_below_the_floor(log: Log) -> None:
    """What a transaction found absent may have been dropped, up to the floor, and what it changed may not."""
    command = transact(drops("gone"), checks("never", exists=False), sets("t", 1))
    await one(engine_on(log.store, log.clock), command)
    (receipt,) = [record for record in await log.records() if isinstance(record, Receipt)]
    others = [record for record in await log.records() if not isinstance(record, Receipt)]

    def told(number: int, **fields: Any) -> list[Record]:
        results = [dict(result) for result in receipt.answer["results"]]
        results[number] |= fields
        return [*others, receipt.model_copy(update={"answer": {**receipt.answer, "results": results}})]

    mark = Mark(floor=7, horizon=1, firsts_since=1)
    for number in (0, 1):
        assert await log.broken(told(number, version=7), mark) == []
        for wrong in ({"version": 8}, {"version": 7, "exists": True}, {"version": 7, "changed": True}):
            assert await log.broken(told(number, **wrong), mark) == [(Rule.TRANSACTION, "gone", None)]
        assert await log.broken(told(number, version=7)) == [(Rule.TRANSACTION, "gone", None)]
