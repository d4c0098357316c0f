"""Transactions through an engine: what was lost, what others did meanwhile, and who waits how long for what."""

import asyncio

import pytest
from support.commands import NOW, apply, brief, checks, delete, drops, one, request, save, sets, transact, wire
from support.engines import Clock, another_worker, engine_on
from support.scripted import (
    ScriptedStore,
    away,
    lost_after,
    meanwhile,
    thereafter,
    transaction_blocked,
    transaction_lost_after,
    transaction_lost_before,
)

from holdfast.events import OutboxMessage, Receipt, Refusal, StoreUnavailable
from holdfast.worker import Batch
from holdfast.worker.transactor import ANSWER_MARGIN, CONTENTION_PATIENCE

CARRIED = (OutboxMessage(exchange="orders", body={"n": 1}),)


@pytest.fixture
async def store() -> ScriptedStore:
    return await ScriptedStore.opened()


async def test_it_is_committed_in_one_step_and_remembered(store: ScriptedStore) -> None:
    """What it wrote is known afterwards without asking the store."""
    engine = engine_on(store)
    answer = await one(engine, transact(sets("a", 1), sets("b", 2), checks("c", exists=False)))
    assert [result["version"] for result in answer["results"]] == [1, 1, 0]
    assert store.guarded == [{("c", 1)}]
    store.calls.clear()
    saved, read = await apply(engine, save("a", 3, etag=answer["results"][0]["etag"]), save("b", 4))
    assert (brief(saved), brief(read)) == ("ok v2", "ok v2")
    assert store.calls["heads"] == 0
    again = await one(engine, transact(sets("a", 5), sets("b", 6)))
    assert [result["version"] for result in again["results"]] == [3, 3]
    assert store.calls["heads"] == 0


async def test_knowledge_that_is_behind_costs_a_second_attempt(store: ScriptedStore) -> None:
    """Another worker has written a key meanwhile: the log refuses what rests on the old version. It is done anew."""
    engine = engine_on(store)
    await apply(engine, save("a", 1), save("b", 1))
    await another_worker(store, save("b", 2))()
    answer = await one(engine, transact(sets("a", 2), sets("b", 3)))
    assert [result["version"] for result in answer["results"]] == [2, 3]
    assert store.calls["transact"] == 2
    assert await store.versions_of("a") == [1, 2]


async def test_no_conflict_on_knowledge_that_is_behind(store: ScriptedStore) -> None:
    """The etag is right, but this worker does not know it yet: it looks behind a fence before it refuses."""
    engine = engine_on(store)
    await apply(engine, save("a", 1), save("b", 1))
    moved = save("b", 2)
    await another_worker(store, moved)()
    etag = (await store.inner.events([("b", 2)]))["b", 2].etag
    await store.fall_behind()
    answer = await one(engine, transact(sets("a", 2), checks("b", etag=etag)))
    assert answer["status"] == "ok"


async def test_a_check_that_was_skewed_is_decided_again(store: ScriptedStore) -> None:
    """Between the look and the commit somebody writes what was only checked: nothing is committed on it."""
    engine = engine_on(store)
    store.script("transact", meanwhile(another_worker(store, save("b", 1))))
    answer = await one(engine, transact(sets("a", 1), checks("b", exists=False)))
    assert (brief(answer), answer["error"]["operation"]) == ("conflict exists", 1)
    assert await store.versions_of("a") == []


async def test_a_delete_of_nothing_is_a_check_as_well(store: ScriptedStore) -> None:
    """It says that the key was absent at that moment, so that it has to have been."""
    engine = engine_on(store)
    store.script("transact", meanwhile(another_worker(store, save("b", 1))))
    answer = await one(engine, transact(sets("a", 1), drops("b")))
    assert [(result["changed"], result["version"]) for result in answer["results"]] == [(True, 1), (True, 2)]


async def test_a_lost_answer(store: ScriptedStore) -> None:
    """It was committed: the next attempt finds it by its id, and no other one is made."""
    engine = engine_on(store)
    batch = Batch.of([request(transact(sets("a", 1), sets("b", 1)))])
    made = batch.pending[0]
    store.script("transact", transaction_lost_after)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    assert made.answer is None
    await another_worker(store, save("a", 2))()
    await engine.apply(batch)
    assert [result["version"] for result in wire(made.answer)["results"]] == [1, 1]
    assert store.calls["transact"] == 1


async def test_a_lost_transaction(store: ScriptedStore) -> None:
    """It never arrived: it is decided anew, on what is there by then."""
    engine = engine_on(store)
    batch = Batch.of([request(transact(sets("a", 1), sets("b", 1)))])
    made = batch.pending[0]
    store.script("transact", transaction_lost_before)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    await another_worker(store, save("a", 2))()
    await engine.apply(batch)
    assert [result["version"] for result in wire(made.answer)["results"]] == [2, 1]


async def test_a_store_that_is_away(store: ScriptedStore) -> None:
    """Nothing is answered; later all is as if it had come later."""
    engine = engine_on(store)
    batch = Batch.of([request(transact(sets("a", 1)))])
    made = batch.pending[0]
    store.script("heads", away)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    await engine.apply(batch)
    assert wire(made.answer)["status"] == "ok"


async def test_every_delivery_gets_the_same_answer(store: ScriptedStore) -> None:
    """Committed, changing nothing, refused for a reason that could pass, refused as too late: all stand in the log."""
    clock = Clock()
    await one(engine_on(store), save("there", 1))
    commands = [
        transact(sets("a", 1), drops("b")),
        transact(drops("never"), checks("never", exists=False)),
        transact(sets("a", 2), checks("there", exists=False)),
        transact(sets("a", 2), checks("b", exists=True)),
        transact(sets("a", 2), sets("there", 1, concurrency="first-write")),
        transact(sets("a", 2), deadline=NOW - 1),
    ]
    first = [await one(engine_on(store, clock), command) for command in commands]
    assert [brief(answer) if answer["status"] != "ok" else "ok" for answer in first] == [
        "ok",
        "ok",
        "conflict exists",
        "conflict absent",
        "conflict exists",
        "expired deadline",
    ]
    # Everything becomes its opposite.
    await apply(engine_on(store), delete("there"), save("b", 1), save("never", 1), save("a", 9))
    clock.pass_(1000)
    for redelivered in (False, True):
        again = [await one(engine_on(store, clock), request(command, redelivered=redelivered)) for command in commands]
        assert again == first
    kinds = [type(record) for record in await store.log() if record.id in {command.id for command in commands}]
    assert kinds.count(Receipt) == 2
    assert kinds.count(Refusal) == 4


async def test_an_etag_that_does_not_match_leaves_no_record(store: ScriptedStore) -> None:
    """It can never become right."""
    command = transact(sets("a", 1), sets("b", 1, etag="1-00000000"))
    assert brief(await one(engine_on(store), command)) == "conflict absent"
    assert await store.log() == []


async def test_a_repeat_of_what_was_committed_is_no_conflict(store: ScriptedStore) -> None:
    """Its own etags do not match any more. That it was itself who changed them is found by the id."""
    engine = engine_on(store)
    saved = await one(engine, save("a", 1))
    command = transact(sets("a", 2, etag=saved["etag"]), sets("b", 1, concurrency="first-write"))
    first = await one(engine, command)
    assert await one(engine, command) == first
    assert await one(engine_on(store), request(command, redelivered=True)) == first


async def test_an_id_of_another_command(store: ScriptedStore) -> None:
    """Whatever it is: another transaction, a single command, or the same one of another author."""
    engine = engine_on(store)
    command = transact(sets("a", 1), id="t")
    await one(engine, command)
    await one(engine, save("s", 1, id="s"))
    for other in (
        request(transact(sets("a", 2), id="t")),
        request(command, author="eve"),
        request(save("a", 1, id="t")),
        request(transact(sets("s", 1), id="s")),
    ):
        assert brief(await one(engine, other)) == "invalid id_reused"
    assert await store.versions_of("a") == [1]


async def test_others_who_are_quicker_each_time(store: ScriptedStore) -> None:
    """It is tried for as long as there is time, and then it says that it was certainly not applied."""
    clock = Clock()
    engine = engine_on(store, clock)

    async def pass_() -> None:
        clock.pass_(1)

    async def save_hot() -> None:
        await one(engine_on(store.inner), save("hot", 0))

    store.always("transact", meanwhile(save_hot))
    store.always("fence", thereafter(pass_))
    answer = await one(engine, transact(sets("a", 1), sets("hot", 1)))
    assert brief(answer) == "unavailable contention"
    assert clock.millis - NOW >= CONTENTION_PATIENCE
    assert store.calls["transact"] == CONTENTION_PATIENCE // 1000 + 1
    # With a deadline it says so while somebody is there to hear it.
    clock.millis = NOW
    answer = await one(engine, transact(sets("a", 1), sets("hot", 1), deadline=NOW + 3000))
    assert brief(answer) == "unavailable contention"
    assert NOW + 3000 - ANSWER_MARGIN <= clock.millis <= NOW + 3000
    assert await store.versions_of("a") == []


async def test_a_repeat_that_finds_no_way_does_not_say_that_it_was_not_applied(store: ScriptedStore) -> None:
    """An earlier delivery may yet be committed, by a worker that is frozen in the middle of it."""
    clock = Clock()
    engine = engine_on(store, clock)

    async def pass_() -> None:
        clock.pass_(10)

    store.always("transact", transaction_blocked)
    store.always("fence", thereafter(pass_))
    answer = await one(engine, request(transact(sets("a", 1)), redelivered=True))
    assert brief(answer) == "unknown contention"


async def test_an_open_transaction_of_somebody_is_waited_for(store: ScriptedStore) -> None:
    engine = engine_on(store)
    store.script("transact", transaction_blocked, transaction_blocked, transaction_blocked)
    answer = await one(engine, transact(sets("a", 1)))
    assert answer["status"] == "ok"
    assert store.calls["transact"] == 4


async def test_a_recorded_refusal_whose_answer_was_lost(store: ScriptedStore) -> None:
    engine = engine_on(store)
    batch = Batch.of([request(transact(checks("a", exists=True)))])
    made = batch.pending[0]
    store.script("append", lost_after)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    await another_worker(store, save("a", 1))()
    await engine.apply(batch)
    assert brief(wire(made.answer)) == "conflict absent"
    assert len([record for record in await store.log() if isinstance(record, Refusal)]) == 1


async def test_a_decision_that_has_grown_old_is_made_again(store: ScriptedStore) -> None:
    """The machine slept between decision and commit: what was looked at then is nothing to rest on."""
    clock = Clock()
    engine = engine_on(store, clock)
    slept = False

    async def sleep() -> None:
        nonlocal slept
        if not slept:
            slept = True
            clock.pass_(61)

    store.script("heads", thereafter(sleep))
    answer = await one(engine, transact(sets("a", 1)))
    assert answer["status"] == "ok"
    assert (store.calls["heads"], store.calls["transact"]) == (2, 1)


@pytest.mark.parametrize("hidden", [False, True])
async def test_the_current_value_of_the_operation_in_question(store: ScriptedStore, hidden: bool) -> None:
    """It comes with the conflict if it was asked for, and if its sender may read it; also the second time."""
    engine = engine_on(store)
    await apply(engine, save("a", "not this"), save("b", {"n": 1}))
    command = transact(sets("a", 1), checks("b", exists=False), return_current=True)
    for _ in range(2):
        made = request(command, hidden=frozenset({1} if hidden else {0}))
        answer = await one(engine, made)
        assert ("current" in answer["error"]) is not hidden
        assert answer["error"].get("current") == (None if hidden else {"n": 1})
        await another_worker(store, save("b", 2))()
    # What its own operations would have made is nobody's state.
    own = await one(engine, transact(sets("c", 1), sets("c", 2, concurrency="first-write"), return_current=True))
    assert (brief(own), own["error"].get("current")) == ("conflict exists", None)


async def test_many_at_a_time_on_keys_of_their_own(store: ScriptedStore) -> None:
    engine = engine_on(store)
    answers = await asyncio.gather(*(one(engine, transact(sets(f"a{n}"), sets(f"b{n}"))) for n in range(100)))
    assert all(answer["status"] == "ok" for answer in answers)


# -- messages that it carries


async def test_what_it_carries_is_told_once_it_is_committed(store: ScriptedStore) -> None:
    """The receipt with the messages comes out, also if nothing was changed; none where there are no messages."""
    carrying = request(transact(sets("a", 1), sets("b", 1), messages=CARRIED))
    checking = request(transact(checks("b", exists=True), messages=CARRIED))
    without = request(transact(sets("a", 2)))
    for made in (carrying, checking, without):
        assert (await one(engine_on(store), made))["status"] == "ok"
    assert carrying.receipt is not None
    assert (carrying.receipt.messages, carrying.receipt.key) == (CARRIED, "a")
    assert checking.receipt is not None
    assert (checking.receipt.messages, checking.events) == (CARRIED, ())
    assert without.receipt is None


@pytest.mark.parametrize("tells_values", [True, False])
@pytest.mark.parametrize("redelivered", [True, False])
async def test_a_repeat_tells_its_messages_again(store: ScriptedStore, tells_values: bool, redelivered: bool) -> None:
    """Whoever committed it may have died before they were published. The feed plays no part in that."""
    command = transact(sets("a", 1), sets("b", 1), messages=CARRIED)
    await another_worker(store, command)()
    again = request(command, redelivered=redelivered)
    assert (await one(engine_on(store, tells_values=tells_values), again))["status"] == "ok"
    assert again.receipt is not None
    assert again.receipt.messages == CARRIED
    assert [event.key for event in again.events] == (["a", "b"] if tells_values else [])


async def test_a_lost_answer_keeps_its_messages(store: ScriptedStore) -> None:
    """It was committed, and nobody here knew: they are told when that is found out."""
    made = request(transact(sets("a", 1), messages=CARRIED))
    store.script("transact", transaction_lost_after)
    engine, batch = engine_on(store), Batch.of([made])
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    assert made.receipt is None
    await engine.apply(batch)
    assert made.receipt is not None


@pytest.mark.parametrize("redelivered", [True, False])
async def test_what_is_refused_tells_nothing(store: ScriptedStore, redelivered: bool) -> None:
    """Neither at first, nor when it comes again; nor does another command under the id of one that was committed."""
    await one(engine_on(store), save("a", 1))
    refused = transact(sets("b", 1), sets("a", 2, concurrency="first-write"), messages=CARRIED)
    stale = transact(sets("b", 1), checks("a", etag="1-00000000"), messages=CARRIED)
    used = transact(sets("c", 1), id="used", messages=CARRIED)
    await one(engine_on(store), used)
    for command in (refused, refused, stale, transact(sets("c", 2), id="used", messages=CARRIED)):
        made = request(command, redelivered=redelivered)
        assert (await one(engine_on(store), made))["status"] in ("conflict", "invalid")
        assert (made.receipt, made.events) == (None, ())


async def test_messages_are_part_of_what_an_id_stands_for(store: ScriptedStore) -> None:
    """The same operations with another message are another command; so they are without any."""
    await one(engine_on(store), transact(sets("a", 1), id="t", messages=CARRIED))
    other = (OutboxMessage(exchange="orders", body={"n": 2}),)
    for messages in (other, CARRIED * 2, None, ()):
        assert brief(await one(engine_on(store), transact(sets("a", 1), id="t", messages=messages))) == (
            "invalid id_reused"
        )
    assert (await one(engine_on(store), transact(sets("a", 1), id="t", messages=list(CARRIED))))["status"] == "ok"
