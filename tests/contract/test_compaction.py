"""Compaction on a real log: engines write, time passes, and the log stays sound and answers as it did."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from support.commands import (
    apply,
    brief,
    checks,
    delete,
    drops,
    first,
    one,
    purge,
    read,
    request,
    restore,
    save,
    sets,
    transact,
)  # fmt: skip
from support.engines import Clock, engine_on
from support.logs import write_log

from holdfast.events import Event, OutboxMessage, Receipt, make_etag
from holdfast.stores import CompactableStore, EventStore, RetentionConfig
from holdfast.verify import verify
from holdfast.worker import Engine
from holdfast.worker import compaction as module
from holdfast.worker.compaction import LEASE, Compactor
from holdfast.worker.retention import CLOSED_FOR, DAY, NOTICE

DAYS = 24 * 3600.0


@pytest.fixture
def compactable(store: EventStore) -> CompactableStore:
    """An empty store that can be compacted."""
    assert isinstance(store, CompactableStore)
    return store


async def no_pause(_: float) -> None:
    """Compaction without its pauses."""


class Stage:
    """A store, engines on it, a compactor, and a clock that moves only when it is told to."""

    def __init__(self, store: CompactableStore, **config: Any) -> None:
        self.store = store
        self.clock = Clock()
        self.config = RetentionConfig(interval_seconds=1, **config)
        self.engine = self.worker()
        self.compactor = self.another_compactor()

    def worker(self) -> Engine:
        """A worker that knows nothing yet."""
        return engine_on(self.store, self.clock)

    def another_compactor(self, pause: Callable[[float], Awaitable[None]] = no_pause) -> Compactor:
        return Compactor("default", self.store, self.config, service_time=self.clock.now, pause=pause)

    async def sweep(self, seconds: float = 0) -> None:
        """Let time pass, and then a sweep be made. The log is sound before and after."""
        self.clock.pass_(seconds)
        await self.check()
        assert await self.compactor.sweep_if_due()
        await self.check()

    async def check(self) -> None:
        assert (await verify(self.store, "default")).faults == []  # type: ignore[arg-type]

    async def versions(self, key: str = "k") -> dict[int, Any]:
        """What there is of a key: values, or ``stub``."""
        return {event.version: "stub" if event.stripped else event.value for event in await self.store.history(key)}


@pytest.fixture
def stage(compactable: CompactableStore) -> Stage:
    """Two versions are kept, and stubs for ten days."""
    return Stage(compactable, versions=2, forget_days=10)


async def test_the_last_versions_stay_and_the_others_go_by_and_by(stage: Stage) -> None:
    """Values go after a minute, stubs after ten days, and the newest versions never."""
    for number in range(1, 6):
        await one(stage.engine, save("k", number))
    await one(stage.engine, save("other", 1))
    await stage.sweep(59)
    assert await stage.versions() == {1: 1, 2: 2, 3: 3, 4: 4, 5: 5}
    await stage.sweep(600)
    assert await stage.versions() == {1: "stub", 2: "stub", 3: "stub", 4: 4, 5: 5}
    await one(stage.engine, save("k", 6))
    await stage.sweep(9 * DAYS)
    assert await stage.versions() == {1: "stub", 2: "stub", 3: "stub", 4: "stub", 5: 5, 6: 6}
    # The fifth came with the first four, so that these go; the fourth's successor is as old.
    await stage.sweep(1 * DAYS)
    assert await stage.versions() == {5: 5, 6: 6}
    await stage.sweep(1000 * DAYS)
    assert await stage.versions() == {5: 5, 6: 6}
    assert await stage.versions("other") == {1: 1}


async def test_what_was_the_state_lately_stays(compactable: CompactableStore) -> None:
    """With a time, every state of that time can still be read."""
    stage = Stage(compactable, days=3)
    for number in range(1, 6):
        await one(stage.engine, save("k", number))
        stage.clock.pass_(DAYS)
    await stage.sweep()
    # The second was replaced three days ago, and the first one four.
    assert await stage.versions() == {1: "stub", 2: 2, 3: 3, 4: 4, 5: 5}


@pytest.mark.parametrize("operations", [[sets("k", 1), sets("o", 1)], [checks("k", exists=True), sets("o", 1)]])
async def test_what_a_transaction_carries_goes_with_its_key(stage: Stage, operations: list[dict[str, Any]]) -> None:
    """Its messages may have to be published out of the log for a day; then they go, as the value beside them does."""
    whole = transact(*operations, messages=(OutboxMessage(exchange="orders"),))
    await one(stage.engine, save("k", 0))
    answer = await one(stage.engine, request(whole))
    version = answer["results"][0]["version"]
    for number in range(3):
        await one(stage.engine, save("k", f"later {number}"))

    async def carries() -> bool:
        receipt = (await stage.store.find([whole.id]))[whole.id]
        assert isinstance(receipt, Receipt)
        return receipt.messages is not None

    await stage.sweep(DAYS - 60)
    assert await carries()
    assert (await stage.versions())[version] != "stub"
    await stage.sweep(61)
    assert not await carries()
    assert (await stage.versions())[version] == "stub"
    again = request(whole, redelivered=True)
    assert await apply(stage.worker(), again) == [answer]
    assert again.receipt is None


async def test_stubs_answer_as_the_events_did(stage: Stage) -> None:
    """Stale etags and repeats meet their answers when the values are gone; and no version is used twice."""
    commands = [save("k", number) for number in range(1, 5)]
    refused = first("k", 9)
    answers = await apply(stage.engine, *commands, refused)
    await stage.sweep(3600)
    assert await stage.versions() == {1: "stub", 2: "stub", 3: 3, 4: 4}
    for engine in (stage.engine, stage.worker()):
        for redelivered in (False, True):
            again = [request(command, redelivered=redelivered) for command in [*commands, refused]]
            assert await apply(engine, *again) == answers
        stale = await apply(engine, *(save("k", 0, etag=answer["etag"]) for answer in answers[:3]))
        assert [brief(answer) for answer in stale] == ["conflict etag_mismatch"] * 3
        assert brief(await one(engine, restore("k", 1))) == "conflict stripped"
    assert brief(await one(stage.engine, save("k", 5))) == "ok v5"


async def test_an_owner_that_was_paused_finds_no_gap_to_write_into(stage: Stage) -> None:
    """A worker knows version 3, is paused, and others write 4 to 10, whose values go: it cannot write a second 4."""
    paused = stage.worker()
    last = (await apply(paused, *(save("k", number) for number in range(1, 4))))[-1]
    other = stage.worker()
    await apply(other, *(save("k", number) for number in range(4, 11)))
    await stage.sweep(3600)
    assert set((await stage.versions()).values()) == {"stub", 9, 10}
    assert brief(await one(paused, save("k", "stale", etag=last["etag"]))) == "conflict etag_mismatch"
    assert brief(await one(paused, save("k", 11))) == "ok v11"


async def test_refusals_are_dropped(stage: Stage) -> None:
    """Recorded refusals stay as long as stubs, and no longer."""
    await apply(stage.engine, save("k", 1), first("k", 2), delete("nothing"))
    await stage.sweep(9 * DAYS)
    assert len([record async for record in stage.store.scan()]) == 3
    await stage.sweep(2 * DAYS)
    assert len([record async for record in stage.store.scan()]) == 1


async def forget(stage: Stage) -> None:
    """Let so much time pass, with sweeps, that a key which is absent now is gone."""
    for seconds in (3600, 11 * DAYS, DAYS, CLOSED_FOR / 1000 - 2 * DAYS + 10, 2 * DAYS):
        await stage.sweep(seconds)


async def test_keys_that_are_absent_for_long_are_dropped(stage: Stage) -> None:
    """Nothing is left of keys that were deleted or purged long ago; what is there stays; new ones begin higher."""
    await apply(stage.engine, save("k", 1), save("k", 2), delete("k"), save("p", 1), purge("p"), save("there", 1))
    await forget(stage)
    assert (await stage.store.keys()).keys == ["there"]
    assert [record async for record in stage.store.scan()] == await stage.store.history("there")
    mark = await stage.store.mark()
    assert mark.floor == 3
    assert mark.horizon > 0
    answers = await apply(stage.worker(), read("k"), save("k", 4), first("new", 1), delete("never"), restore("k", 1))
    assert [brief(answer) for answer in answers] == ["absent", "ok v4", "ok v4", "unchanged", "conflict no_value"]
    assert [event.first for event in [*await stage.store.history("k"), *await stage.store.history("there")]] == [
        True,
        False,
    ]
    assert brief(await one(stage.worker(), save("k", 5))) == "ok v5"
    await stage.check()


async def test_a_key_is_closed_before_it_is_dropped(stage: Stage) -> None:
    """For two days a deleted key is there, and says that whoever writes it begins it anew."""
    await apply(stage.engine, save("k", 1), delete("k"))
    for seconds in (3600, 11 * DAYS, DAYS):
        await stage.sweep(seconds)
    (tombstone,) = await stage.store.history("k")
    assert tombstone.version == 2
    assert (await stage.store.heads(["k"]))["k"].opens
    assert brief(await one(stage.worker(), save("k", 3))) == "ok v3"
    await stage.sweep(3 * DAYS)
    assert list(await stage.versions()) == [2, 3]
    await apply(stage.engine, save("k", 4), save("k", 5))
    await stage.sweep(11 * DAYS)
    assert list(await stage.versions()) == [4, 5]
    await stage.check()


async def raise_floor(stage: Stage, floor: int) -> None:
    """As other keys do that are closed."""
    mark = await stage.store.mark()
    assert await stage.store.set_mark(mark, replace(mark, floor=floor))


async def test_two_workers_that_know_different_floors_make_one_beginning(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that knows a floor of a while ago cannot make a second beginning below the one that another made."""
    await stage.sweep()
    stage.clock.pass_(3600)
    behind = stage.worker()
    await one(behind, save("x", 1))
    assert behind.floor.head.opens
    await raise_floor(stage, 6)
    append = stage.store.append

    async def overtaken(records: Any) -> Any:
        monkeypatch.setattr(stage.store, "append", append)
        assert [(record.version, record.first) for record in records] == [(1, True)]
        assert brief(await one(stage.worker(), save("new", "one"))) == "ok v7"
        return await append(records)

    # It has looked, and found nothing, when the other one is quicker. Under version 7 nobody would ever see its own.
    monkeypatch.setattr(stage.store, "append", overtaken)
    assert brief(await one(behind, save("new", "two"))) == "ok v8"
    assert brief(await one(behind, first("new", "three"))) == "conflict exists"
    assert await stage.versions("new") == {7: "one", 8: "two"}
    await stage.check()


async def test_a_worker_that_knows_a_dropped_tombstone_does_not_write_on_it(stage: Stage) -> None:
    """All that a worker can remember of a key that was dropped is that it was closed: so the beginnings collide."""
    await apply(stage.engine, save("k", 1), delete("k"))
    for seconds in (3600, 11 * DAYS, DAYS, CLOSED_FOR / 1000 - 0.5 * DAYS):
        await stage.sweep(seconds)
    behind = stage.worker()
    assert brief(await one(behind, delete("k"))) == "unchanged"
    assert behind.knowledge.head("k") is not None
    await stage.sweep(0.6 * DAYS)
    assert await stage.store.heads(["k"]) == {}
    await raise_floor(stage, 9)
    assert brief(await one(stage.worker(), save("k", "new"))) == "ok v10"
    assert brief(await one(behind, save("k", "newer"))) == "ok v11"
    assert await stage.versions() == {10: "new", 11: "newer"}
    await stage.check()


async def test_transactions_on_keys_that_were_compacted(stage: Stage) -> None:
    """Versions go on, what stays of a key can be demanded, and repeats are answered when their events are gone."""
    made = [transact(sets("k", number), sets(f"alone{number}", number)) for number in range(5)]
    answers = [await one(stage.engine, command) for command in made]
    refused = transact(sets("k", 9), checks("other", exists=True))
    refusal = await one(stage.engine, refused)
    await stage.sweep(600)
    assert await stage.versions() == {1: "stub", 2: "stub", 3: "stub", 4: 3, 5: 4}
    etag = answers[-1]["results"][0]["etag"]
    later = await one(stage.worker(), transact(sets("k", 5, etag=etag), checks("alone0", exists=True)))
    assert later["results"][0]["version"] == 6
    for engine in (stage.engine, stage.worker()):
        again = [await one(engine, request(command, redelivered=True)) for command in (*made, refused)]
        assert again == [*answers, refusal]
    await stage.sweep(11 * DAYS)
    assert await stage.versions() == {5: 4, 6: 5}
    # Receipts stay, also where the events that they tell of were dropped.
    again = [await one(stage.worker(), request(command, redelivered=True)) for command in made]
    assert again == answers
    await stage.check()


async def test_transactions_begin_keys_above_the_floor(stage: Stage) -> None:
    """What a transaction writes to a key that was dropped begins it, and what it deletes of one is guarded there."""
    await apply(stage.engine, save("k", 1), delete("k"))
    for seconds in (3600, 11 * DAYS, DAYS, 3 * DAYS):
        await stage.sweep(seconds)
    assert await stage.store.heads(["k"]) == {}
    command = transact(sets("k", 1), drops("gone"), checks("never", exists=False), sets("new", 1), drops("new"))
    engine = stage.worker()
    answer = await one(engine, command)
    assert [(result["version"], result["exists"]) for result in answer["results"]] == [
        (3, True), (2, False), (2, False), (3, True), (4, False),
    ]  # fmt: skip
    begun = [(it.key, it.version, it.first) for key in ("k", "new") for it in await stage.store.history(key)]
    assert begun == [("k", 3, True), ("new", 3, True), ("new", 4, False)]
    for worker in (engine, stage.worker()):
        assert await one(worker, request(command, redelivered=True)) == answer
    assert brief(await one(engine, save("never", 1))) == "ok v3"
    refused = transact(sets("k", 2), checks("gone", exists=True))
    told = await one(engine, refused)
    assert (told["error"]["code"], told["error"]["key"], told["version"]) == ("absent", "gone", 2)
    assert await one(stage.worker(), request(refused, redelivered=True)) == told
    await stage.check()


async def test_a_purge_of_what_was_only_carried(stage: Stage) -> None:
    """What transactions carried for a key that never was can be purged, below whatever floor they found it absent."""
    await stage.sweep()
    stage.clock.pass_(3600)
    made = []
    for floor in (0, 6, 9):
        if floor:
            await raise_floor(stage, floor)
        worker = stage.worker()
        made.append(transact(checks("k", exists=False), sets("o", 1), messages=(OutboxMessage(exchange="orders"),)))
        answer = await one(worker, made[-1])
        assert answer["results"][0]["version"] == floor
    purged = await one(worker, purge("k"))
    assert (purged["changed"], purged["version"]) == (True, 10)
    assert brief(await one(worker, purge("never"))) == "unchanged"
    await stage.store.strip([("k", 0, purged["version"] - 1)])
    receipts = await stage.store.find([command.id for command in made])
    assert [isinstance(one, Receipt) and one.messages for one in receipts.values()] == [None] * 3
    assert brief(await one(worker, save("k", 1))) == "ok v11"
    await stage.check()


@pytest.mark.parametrize("checked", [checks("new", exists=False), drops("new")], ids=["check", "delete"])
async def test_a_guard_that_rests_on_an_older_floor(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, checked: dict[str, Any]
) -> None:
    """A transaction that demands a key absent is not committed beside a worker who begins it above a later floor."""
    await stage.sweep()
    stage.clock.pass_(3600)
    behind = stage.worker()
    await one(behind, save("x", 1))
    await raise_floor(stage, 6)
    commit = stage.store.transact  # type: ignore[attr-defined]

    async def overtaken(records: Any, guards: Any, **more: Any) -> Any:
        monkeypatch.setattr(stage.store, "transact", commit)
        assert guards == [("new", 1)]
        assert brief(await one(stage.worker(), save("new", "one"))) == "ok v7"
        return await commit(records, guards, **more)

    monkeypatch.setattr(stage.store, "transact", overtaken)
    answer = await one(behind, transact(sets("y", 1), checked))
    if checked["op"] == "check":
        assert (answer["status"], answer["error"]["code"]) == ("conflict", "exists")
        assert await stage.store.heads(["y"]) == {}
    else:
        assert answer["results"][1]["version"] == 8
    await stage.check()


async def test_nothing_is_closed_before_every_worker_knows_what_it_means(stage: Stage) -> None:
    """Where compaction has just begun, the oldest tombstone waits."""
    await apply(stage.engine, save("k", 1), delete("k"))
    stage.clock.pass_(100 * DAYS)
    await stage.sweep()
    await stage.sweep(NOTICE / 1000 - 1)
    assert list(await stage.versions()) == [2]
    assert not (await stage.store.heads(["k"]))["k"].opens
    await stage.sweep(600)
    assert (await stage.store.heads(["k"]))["k"].opens


async def test_one_at_a_time(stage: Stage) -> None:
    """While one compacts, another does not; when it falls silent, another goes on where it was."""
    monkey = pytest.MonkeyPatch()
    monkey.setattr(module, "PAGE", 2)
    for key in ("a", "b", "c", "d"):
        await apply(stage.engine, *(save(key, number) for number in range(4)))
    stage.clock.pass_(3600)
    other = stage.another_compactor()
    pauses = 0

    async def dies(_: float) -> None:
        nonlocal pauses
        pauses += 1
        assert not await other.sweep_if_due()
        if pauses == 5:
            raise RuntimeError("scripted")

    with pytest.raises(RuntimeError):
        await stage.another_compactor(dies).sweep_if_due()
    mark = await stage.store.mark()
    assert mark.swept == "a"
    assert not await other.sweep_if_due()
    stage.clock.pass_(LEASE / 1000)
    looked: list[tuple[str, int]] = []
    traces = stage.store.traces

    async def noted(places: Any) -> Any:
        looked.extend(places)
        return await traces(places)

    monkey.setattr(stage.store, "traces", noted)
    assert await other.sweep_if_due()
    monkey.undo()
    assert {key for key, _ in looked} == {"b", "c", "d"}
    for key in ("a", "b", "c", "d"):
        assert await stage.versions(key) == {1: "stub", 2: "stub", 3: 2, 4: 3}
    # The next one when it is time.
    assert not await other.sweep_if_due()
    stage.clock.pass_(1)
    assert await other.sweep_if_due()


@pytest.mark.parametrize("page", [1, 3, 500])
async def test_pages_of_any_length(stage: Stage, monkeypatch: pytest.MonkeyPatch, page: int) -> None:
    """Wherever a page ends, within a key or between two, the same comes of it."""
    monkeypatch.setattr(module, "PAGE", page)
    for key, count in (("a", 1), ("b", 2), ("c", 3), ("d", 9), ("e", 1), ("f", 4)):
        await apply(stage.engine, *(save(key, number) for number in range(count)))
    await apply(stage.engine, delete("b"), delete("d"), first("a", 1))
    await stage.sweep(3600)
    kept = {
        key: [version for version, value in (await stage.versions(key)).items() if value != "stub"] for key in "abcdef"
    }
    assert kept == {"a": [1], "b": [2, 3], "c": [2, 3], "d": [9, 10], "e": [1], "f": [3, 4]}
    await forget(stage)
    assert {key: list(await stage.versions(key)) for key in "abcdef"} == {
        "a": [1], "b": [], "c": [2, 3], "d": [], "e": [1], "f": [3, 4],
    }  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
async def test_any_log_stays_sound_and_current(compactable: CompactableStore, seed: int) -> None:
    """Whatever was written: before, between and after sweeps the log is sound, and what is current stays as it is."""
    stage = Stage(compactable, versions=1 + seed, forget_days=7 + seed)
    for part in range(3):
        await write_log(compactable, commands=60, seed=10 * seed + part)
        before = await current(compactable)
        for seconds in (120, 3 * DAYS, 9 * DAYS, 3 * DAYS):
            await stage.sweep(seconds)
            assert await current(compactable) == before


async def current(store: EventStore) -> dict[str, tuple[Any, str]]:
    """Values and etags of the keys that are there."""
    newest: dict[str, Event] = {}
    async for record in store.scan():
        if isinstance(record, Event) and record.version > (newest[record.key].version if record.key in newest else 0):
            newest[record.key] = record
    return {
        key: (event.value, make_etag(event.version, event.id)) for key, event in newest.items() if event.type == "saved"
    }


async def test_a_purge_that_was_cut_off_is_finished(stage: Stage) -> None:
    """What a purge left behind, because a worker died and its command was never delivered again, goes with a sweep."""
    await apply(stage.engine, save("k", 1), save("k", 2), purge("k"), save("k", 3))
    await stage.sweep(3600)
    assert await stage.versions() == {1: "stub", 2: "stub", 3: None, 4: 3}


async def test_pauses_are_many_times_as_long_as_the_work(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two pages there is a pause for what the first one took, which is longer when the store is busy."""
    monkeypatch.setattr(module, "PAGE", 2)
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += 0.5
        return now

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=monotonic))
    pauses: list[float] = []

    async def noted(seconds: float) -> None:
        pauses.append(seconds)

    await apply(stage.engine, *(save("k", number) for number in range(5)))
    assert await stage.another_compactor(noted).sweep_if_due()
    assert pauses
    assert set(pauses) == {0.5 * (1 / module.DUTY - 1)}
    assert module.DUTY <= 0.1
    assert DAY == DAYS * 1000
