"""An append that stops in the middle: what precedes the failure is answered, and all the rest is decided again."""

from collections.abc import Sequence

import pytest
from support.commands import Operation, apply, brief, delete, first, one, read, request, save, wire
from support.engines import Clock, another_worker, engine_on
from support.scripted import Proceed, ScriptedStore, away, meanwhile, raising

from holdfast.events import Record, StoreError, StoreUnavailable
from holdfast.stores import Appended, Outcome
from holdfast.worker import Batch


async def test_what_stands_behind_a_taken_version_is_decided_again() -> None:
    """Given three saves of a key, when another worker takes the first one's version, then no version is left out."""
    store = await ScriptedStore.opened()
    store.script("append", meanwhile(another_worker(store, save("k", "theirs"))))
    answers = await apply(engine_on(store), save("k", 1), save("k", 2), save("k", 3))
    assert [brief(answer) for answer in answers] == ["ok v2", "ok v3", "ok v4"]
    assert await store.versions_of("k") == [1, 2, 3, 4]


async def test_what_stands_behind_a_repeat_is_decided_again() -> None:
    """A repeat that nobody announced stands in front of saves of its key: their versions were counted with it."""
    store = await ScriptedStore.opened()
    repeat = save("k", 1)
    await one(engine_on(store), repeat)
    answers = await apply(engine_on(store), save("a", 1), repeat, save("k", 2), save("b", 1), save("k", 3))
    assert [brief(answer) for answer in answers] == ["ok v1", "ok v1", "ok v2", "ok v1", "ok v3"]
    assert await store.versions_of("k") == [1, 2, 3]


async def test_a_conflict_with_a_command_that_did_not_happen_is_decided_again() -> None:
    """Two saves have the same etag, so that the second conflicts with the first. But the first one's id is taken.

    The first changes nothing, so the second one's etag still matches, and it has to apply.
    """
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    etag = (await apply(engine, save("k", 1), save("other", 1, id="x")))[0]["etag"]
    answers = await apply(engine, save("k", 2, id="x", etag=etag), save("k", 3, etag=etag), read("k"))
    assert [brief(answer) for answer in answers] == ["invalid id_reused", "ok v2", "ok v2"]
    assert answers[2]["value"] == 3


async def test_a_read_of_a_version_that_did_not_land_is_read_again() -> None:
    """Given a read behind a save, when another worker's save comes in between, then the read shows what is there."""
    store = await ScriptedStore.opened()
    store.script("append", meanwhile(another_worker(store, save("k", "theirs"))))
    answers = await apply(engine_on(store), read("k"), save("k", "ours"), read("k"), delete("k"), read("k"))
    assert [brief(answer) for answer in answers] == ["ok v1", "ok v2", "ok v2", "ok v3", "absent"]
    assert [answers[0]["value"], answers[2]["value"]] == ["theirs", "ours"]


async def test_a_first_write_behind_a_save_that_lost_is_decided_again() -> None:
    """Given a delete of a remembered key and a first-write, when another worker deletes it first, then both hold."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", 1))
    store.script("append", meanwhile(another_worker(store, delete("k"), save("k", "theirs"))))
    answers = await apply(engine, delete("k"), first("k", "ours"), first("k", "too late"))
    assert [brief(answer) for answer in answers] == ["ok v4", "ok v5", "conflict exists"]
    assert await store.versions_of("k") == [1, 2, 3, 4, 5]


async def test_what_precedes_the_failure_is_answered_and_not_appended_again() -> None:
    """Given a batch that stops at its third record, when the rest is decided again, then the first two stay."""
    store = await ScriptedStore.opened()
    store.script("append", meanwhile(another_worker(store, save("c", "theirs"))))
    commands = [save("a", 1), save("b", 1), save("c", 1), save("d", 1)]
    answers = await apply(engine_on(store), *commands)
    assert [brief(answer) for answer in answers] == ["ok v1", "ok v1", "ok v2", "ok v1"]
    assert [[record.key for record in asked] for asked in store.asked] == [["a", "b", "c", "d"], ["c", "d"]]


async def test_the_rest_is_looked_up_in_one_query_of_a_kind() -> None:
    """Given a batch of 300 that stops at its first record, when the rest is decided again, then two queries do."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    commands = [save(f"k{number}", number) for number in range(300)]
    await apply(engine, *commands)
    store.calls.clear()
    again = [save(f"k{number}", number) for number in range(300)]
    store.script("append", meanwhile(another_worker(store, save("k0", "theirs"))))
    answers = await apply(engine, *again)
    assert [brief(answer) for answer in answers] == ["ok v3"] + ["ok v2"] * 299
    assert store.calls == {"append": 2, "fence": 1, "find": 1, "heads": 1}


async def test_a_key_that_moves_at_every_attempt() -> None:
    """Given another worker that is faster three times, when it rests, then the save applies behind it."""
    store = await ScriptedStore.opened()
    store.script("append", *(meanwhile(another_worker(store, save("k", number))) for number in range(3)))
    assert brief(await one(engine_on(store), save("k", "ours"))) == "ok v4"
    assert await store.versions_of("k") == [1, 2, 3, 4]


async def test_a_key_that_keeps_moving_until_the_deadline() -> None:
    """Given a save that loses its race until its deadline passes, then it is refused for good, and not left open."""
    store = await ScriptedStore.opened()
    clock = Clock()

    async def faster() -> None:
        await another_worker(store, save("k", "theirs"))()
        clock.pass_(1)

    store.script("append", *[meanwhile(faster)] * 3)
    command = save("k", "ours", deadline=clock.now() + 2500)
    engine = engine_on(store, clock)
    late = await one(engine, command)
    assert brief(late) == "expired deadline"
    assert await one(engine, request(command, redelivered=True)) == late
    assert await store.versions_of("k") == [1, 2, 3]


async def test_reads_and_conflicts_in_front_of_the_failure_are_answered_at_once() -> None:
    """Given a batch that stops in the middle, when its rest cannot be looked up, then what precedes is answered."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await apply(engine, save("k", 1), save("other", "here"))
    commands: list[Operation] = [read("other"), save("other", 2, etag="1-00000000"), save("k", 2), read("other")]
    batch = Batch.of([request(command) for command in commands])
    made = list(batch.pending)
    store.script("append", meanwhile(another_worker(store, save("k", "theirs"))))
    store.script("heads", away)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    assert [each.answer is not None for each in made] == [True, True, False, False]
    await engine.apply(batch)
    assert [brief(wire(each.answer)) for each in made] == ["ok v1", "conflict etag_mismatch", "ok v3", "ok v1"]


async def test_a_record_that_the_store_refuses_for_good_stops_the_batch() -> None:
    """Given a record that cannot be kept, when it is appended, then the fault comes out, and nothing is made up."""
    store = await ScriptedStore.opened()
    batch = Batch.of([request(save("a", 1)), request(save("b", 1))])
    made = list(batch.pending)
    store.script("append", raising(StoreError("scripted: it cannot be kept")))
    engine = engine_on(store)
    with pytest.raises(StoreError, match="cannot be kept"):
        await engine.apply(batch)
    assert [each.answer for each in made] == [None, None]
    assert batch.uncertain


# -- the order of one key


async def test_reads_between_writes_show_each_state() -> None:
    """Given reads between the writes of one batch, when it is applied, then each shows the state at its place."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", 0))
    answers = await apply(
        engine,
        read("k"),
        save("k", 1),
        read("k"),
        save("k", 2),
        read("k"),
        delete("k"),
        read("k"),
        save("k", 3),
        read("k"),
    )
    seen = [answer.get("value", "absent") for answer in answers[::2]]
    assert seen == [0, 1, 2, "absent", 3]
    assert store.calls["append"] == 2


async def test_reads_between_writes_of_a_worker_that_knows_nothing() -> None:
    """Given the same batch at a worker that has just started, when it is applied, then each read shows its place."""
    store = await ScriptedStore.opened()
    answers = await apply(engine_on(store), read("k"), save("k", 1), read("k"), save("k", 2), read("k"))
    assert [brief(answer) for answer in answers] == ["absent", "ok v1", "ok v1", "ok v2", "ok v2"]
    assert [answer.get("value") for answer in answers[::2]] == [None, 1, 2]


async def test_conditions_follow_the_order_of_the_batch() -> None:
    """Given conditions that hold only in the order of the batch, when it is applied, then each meets its state."""
    store = await ScriptedStore.opened()
    answers = await apply(
        engine_on(store),
        delete("k"),
        first("k", 1, id="a"),
        first("k", 2),
        delete("k"),
        save("k", 3, etag="1-00000000"),
        first("k", 4),
    )
    assert [brief(answer) for answer in answers] == [
        "unchanged",
        "ok v1",
        "conflict exists",
        "ok v2",
        "conflict absent",
        "ok v3",
    ]
    assert answers[2]["error"]["winner"] == "a"


async def test_a_conflict_with_an_earlier_command_of_the_batch_brings_its_value() -> None:
    """Given two saves of one etag in a batch, when the second asks for the current value, then it gets the first's."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    etag = (await one(engine, save("k", 0)))["etag"]
    answers = await apply(engine, save("k", 1, etag=etag), save("k", 2, etag=etag, return_current=True), save("k", 3))
    assert [brief(answer) for answer in answers] == ["ok v2", "conflict etag_mismatch", "ok v3"]
    assert answers[1]["error"]["current"] == 1
    assert answers[1]["error"]["actual"] == answers[0]["etag"]


async def test_a_read_in_front_of_a_save_that_landed_does_not_show_it() -> None:
    """Given a read in front of two saves, when another worker comes between the two, then the read shows neither.

    The first save has landed by then, so what the read saw in front of it is proved.
    """
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", "before"))
    commands = [save("k", 1), save("between", 1), save("k", 2)]

    async def in_between(proceed: Proceed, records: Sequence[Record]) -> Appended:
        await store.inner.append(records[:2])
        await another_worker(store, save("k", "theirs"))()
        appended = await store.inner.append(records[2:])
        return Appended([Outcome.APPENDED] * 2 + list(appended.outcomes), None)

    store.script("append", in_between)
    answers = await apply(engine, read("k"), save("k", "no", etag="1-00000000"), *commands, read("k"))
    assert [brief(answer) for answer in answers] == [
        "ok v1",
        "conflict etag_mismatch",
        "ok v2",
        "ok v1",
        "ok v4",
        "ok v4",
    ]
    assert answers[0]["value"] == "before"


async def test_reads_and_refusals_of_a_key_show_one_state() -> None:
    """Given a read, a conflict and a first-write of a key, when it moves after the look, then all show the same."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", 1))
    store.script("append", meanwhile(another_worker(store, save("k", "theirs"))))
    answers = await apply(engine, read("k"), save("k", 2, etag="1-00000000"), first("k", 3), read("k"))
    assert [answer["version"] for answer in answers] == [1, 1, 1, 1]


async def test_a_read_behind_a_save_needs_no_query_of_its_own() -> None:
    """Given a save and a read of the same key, when the save has landed, then the read is answered by it."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", 1))
    store.calls.clear()
    answers = await apply(engine, save("k", 2), read("k"))
    assert answers[1]["value"] == 2
    assert store.calls == {"append": 1}


async def test_a_mismatch_is_told_whether_the_deadline_has_passed_or_not() -> None:
    """Given a save with a stale etag, when it comes again past its deadline, then it is told the same: a conflict."""
    store = await ScriptedStore.opened()
    clock = Clock()
    engine = engine_on(store, clock)
    await one(engine, save("k", 1))
    command = save("k", 2, etag="1-00000000", deadline=clock.now() + 1000)
    before = await one(engine, command)
    clock.pass_(10)
    assert await one(engine, command) == before
    assert brief(before) == "conflict etag_mismatch"
