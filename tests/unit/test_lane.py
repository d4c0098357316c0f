"""A lane gathers what waits, applies it, survives a store that is away for a while, and finds what cannot be done."""

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import Operation, apply, brief, delete, one, read, request, requests, save
from support.engines import another_worker, engine_on
from support.lanes import running
from support.loops import leaping
from support.scripted import Proceed, ScriptedStore, as_it_is, away, lost_after, meanwhile, poisoned_by, raising

from holdfast.events import Record, StoreError
from holdfast.stores import Appended
from holdfast.worker import Request
from holdfast.worker.engine import SLICE_BYTES
from holdfast.worker.lane import HANDED_OUT, MAX_BATCH_BYTES, MAX_BATCH_COMMANDS, StoreLostError, gather

# -- gathering


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 1000, MAX_BATCH_BYTES // 2, MAX_BATCH_BYTES, 2 * MAX_BATCH_BYTES]), st.booleans()
        )
    )
)
def test_batches_stay_within_their_bounds_and_in_order(waiting: list[tuple[int, bool]]) -> None:
    """Given whatever waits, when it is gathered, then in order, within the bounds, and suspects on their own."""
    made = [Request(read("k"), size=size, suspect=suspect) for size, suspect in waiting]
    queue = deque(made)
    batches = []
    while queue:
        batches.append(gather(queue))
    assert [each for batch in batches for each in batch] == made
    for batch in batches:
        assert sum(each.size for each in batch) <= MAX_BATCH_BYTES or len(batch) == 1
        assert len(batch) == 1 or not any(each.suspect for each in batch)
    # … and no batch is smaller than it has to be.
    for batch, following in pairwise(batches):
        full = sum(each.size for each in batch) + following[0].size > MAX_BATCH_BYTES
        assert full or batch[0].suspect or following[0].suspect


def test_a_batch_has_a_thousand_commands_at_most() -> None:
    """Given more small commands than an append takes, when they are gathered, then as many as it takes."""
    queue = deque(requests(*(read("k") for _ in range(MAX_BATCH_COMMANDS + 1))))
    assert len(gather(queue)) == MAX_BATCH_COMMANDS
    assert len(gather(queue)) == 1


# -- running


async def test_requests_are_answered_in_order_and_once() -> None:
    """Given requests of two deliveries, when the lane runs, then all are answered, in order, each once."""
    store = await ScriptedStore.opened()
    async with running(engine_on(store)) as lane:
        made = requests(save("a", 1), read("a"), delete("a"), read("a"))
        lane.lane.add(made[:1])
        lane.lane.add(made[1:])
        assert await lane.until(4) == ["ok v1", "ok v1", "ok v2", "absent"]
        assert lane.handed_out == made


async def test_answers_that_have_left_stay_with_nobody() -> None:
    """Given large values that are read at once, when a slice has left, then the lane waits for room, and keeps none."""
    store = await ScriptedStore.opened()
    await apply(engine_on(store.inner), *(save(f"k{number}", "x" * SLICE_BYTES) for number in range(4)))
    room = asyncio.Event()
    waits: list[int] = []
    async with running(engine_on(store)) as lane:

        async def wait_for_room() -> None:
            waits.append(len(lane.handed_out))
            await room.wait()

        lane.lane._room = wait_for_room
        lane.lane.add(requests(*(read(f"k{number}") for number in range(4))))
        await lane.until(1)
        for _ in range(100):
            await asyncio.sleep(0)
        assert waits == [1]
        assert [each.answer for each in lane.handed_out] == [HANDED_OUT]

        room.set()
        assert await lane.until(4) == ["ok v1"] * 4
        assert waits == [1, 2, 3, 4, 4]


@leaping
async def test_waiting_for_room_is_no_fault_of_the_store() -> None:
    """Given a wait that is longer than the patience, when the store then fails once, then the lane is still patient."""
    store = await ScriptedStore.opened()
    await apply(engine_on(store.inner), *(save(f"k{number}", "x" * SLICE_BYTES) for number in range(2)))
    store.script("events", only_the_first, away, as_it_is)
    async with running(engine_on(store), patience=0.3) as lane:

        async def wait_for_room() -> None:
            await asyncio.sleep(0.5)

        lane.lane._room = wait_for_room
        lane.lane.add(requests(*(read(f"k{number}") for number in range(2))))
        assert await lane.until(2) == ["ok v1"] * 2
        assert store.finished


async def only_the_first(proceed: Proceed, _: Any) -> Any:
    """Events of which one came."""
    return dict(list((await proceed()).items())[:1])


async def test_what_comes_during_an_append_is_the_next_batch() -> None:
    """Given an append under way, when more requests come, then one append takes all of them afterwards."""
    store = await ScriptedStore.opened()
    async with running(engine_on(store)) as lane:

        async def more() -> None:
            for number in range(10):
                lane.lane.add(requests(save(f"k{number}", number)))

        store.script("append", meanwhile(more))
        lane.lane.add(requests(save("k", 1)))
        await lane.until(11)
        assert [len(asked) for asked in store.asked] == [1, 10]


async def test_a_store_that_comes_back_in_time() -> None:
    """Given a store that is away and loses an answer, when it is back within the patience, then nothing is lost."""
    store = await ScriptedStore.opened()
    store.script("append", lost_after)
    store.script("fence", away, away)
    async with running(engine_on(store)) as lane:
        lane.lane.add(requests(save("k", 1), save("k", 2), read("k")))
        assert await lane.until(3) == ["ok v1", "ok v2", "ok v2"]
        assert store.finished
        assert lane.failed == []
    assert await store.versions_of("k") == [1, 2]


@leaping
async def test_a_store_that_stays_away_ends_the_patience() -> None:
    """Given a store that stays away, when the patience is over, then the lane gives up, and nobody is answered."""
    store = await ScriptedStore.opened()
    store.always("heads", away)
    async with running(engine_on(store), patience=0.05) as lane:
        made = requests(save("k", 1), read("k"))
        lane.lane.add(made)
        with pytest.raises(StoreLostError, match=r"0\.05 s"):
            await lane.until(1)
        assert [each.answer for each in made] == [None, None]
        assert lane.failed == []


@leaping
async def test_patience_ends_also_while_the_store_is_looked_for() -> None:
    """Given a store that is away, when the driver then looks for it without an end, then the lane gives up in time."""
    store = await ScriptedStore.opened()
    looked = asyncio.Event()

    async def look_for_ever(_: Proceed, __: Any) -> Any:
        looked.set()
        await asyncio.Event().wait()

    store.script("heads", away, look_for_ever)
    async with running(engine_on(store), patience=0.05) as lane:
        lane.lane.add(requests(save("k", 1)))
        with pytest.raises(StoreLostError, match="still away"):
            await lane.until(1)
        assert looked.is_set()


@leaping
async def test_a_wait_for_room_does_not_end_a_second_attempt() -> None:
    """Given a second attempt that has answers, when these wait for longer than the patience, then it goes on."""
    store = await ScriptedStore.opened()
    await apply(engine_on(store.inner), *(save(f"k{number}", "x" * SLICE_BYTES) for number in range(2)))
    store.script("fence", away)
    async with running(engine_on(store), patience=0.3) as lane:

        async def wait_for_room() -> None:
            await asyncio.sleep(0.5)

        lane.lane._room = wait_for_room
        lane.lane.add(requests(*(read(f"k{number}") for number in range(2))))
        assert await lane.until(2) == ["ok v1"] * 2
        assert store.finished


@leaping
async def test_what_a_lane_leaves_open_another_one_finishes() -> None:
    """Given a lane that gave up after its append had landed, when all comes again, then it is recognised."""
    store = await ScriptedStore.opened()

    async def land_and_vanish(proceed: Proceed, records: Sequence[Record]) -> Appended:
        store.always("fence", away)
        return await lost_after(proceed, records)

    store.script("append", land_and_vanish)
    commands: list[Operation] = [save("k", 1), delete("other"), save("k", 2)]
    async with running(engine_on(store), patience=0.05) as lane:
        lane.lane.add(requests(*commands))
        with pytest.raises(StoreLostError):
            await lane.until(1)
    store.always("fence", as_it_is)
    async with running(engine_on(store)) as lane:
        lane.lane.add([request(command, redelivered=True) for command in commands])
        assert await lane.until(3) == ["ok v1", "unchanged", "ok v2"]
    assert await store.versions_of("k") == [1, 2]


async def test_what_comes_behind_a_store_that_is_away_waits_in_order() -> None:
    """Given a store that is away for some calls, when more requests come meanwhile, then the order is kept."""
    store = await ScriptedStore.opened()
    async with running(engine_on(store)) as lane:

        async def more(proceed: Proceed, argument: object) -> object:
            lane.lane.add(requests(save("k", "second")))
            return await away(proceed, argument)

        store.script("heads", more)
        lane.lane.add(requests(save("k", "first")))
        assert await lane.until(2) == ["ok v1", "ok v2"]


async def test_poison_is_found_and_its_company_survives() -> None:
    """Given a batch with a record that nobody can keep, when it is applied, then it alone fails, and in its place."""
    store = await ScriptedStore.opened()
    store.always("append", poisoned_by("poison"))
    async with running(engine_on(store)) as lane:
        poison = save("poison", "x")
        lane.lane.add(requests(save("k", 1), poison, read("k"), save("k", 2), delete("k"), read("k")))
        assert await lane.until(6) == ["ok v1", "internal internal", "ok v1", "ok v2", "ok v3", "absent"]
        [(failed, fault)] = lane.failed
        assert failed.command is poison
        assert "poison" in fault
    assert await store.versions_of("k") == [1, 2, 3]


async def test_poison_is_told_once_however_often_it_was_delivered() -> None:
    """Given poison twice in one batch, when it is found, then both are answered, and the operator is told once."""
    store = await ScriptedStore.opened()
    store.always("append", poisoned_by("poison"))
    async with running(engine_on(store)) as lane:
        poison = save("poison", "x")
        lane.lane.add(requests(poison, save("k", 1), poison))
        assert sorted(await lane.until(3)) == ["internal internal", "internal internal", "ok v1"]
        assert len(lane.failed) == 1


async def test_a_lane_goes_on_behind_poison() -> None:
    """Given a lane that met poison, when the next requests come, then it works as before."""
    store = await ScriptedStore.opened()
    store.always("append", poisoned_by("poison"))
    async with running(engine_on(store)) as lane:
        lane.lane.add(requests(save("poison", "x")))
        await lane.until(1)
        lane.lane.add(requests(save("k", 1)))
        assert await lane.until(2) == ["internal internal", "ok v1"]


async def test_what_landed_is_not_called_a_failure() -> None:
    """Given a save that landed, when something breaks behind its append, then its answer is ``ok``."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("other", 1))
    engine.knowledge = engine_on(store).knowledge
    store.script("events", raising(StoreError("scripted: unreadable")), raising(StoreError("scripted: unreadable")))
    async with running(engine) as lane:
        lane.lane.add(requests(save("k", 1), read("other")))
        assert await lane.until(2) == ["ok v1", "internal internal"]
        assert [failed.command.op for failed, _ in lane.failed] == ["read"]


@leaping
async def test_an_outage_while_poison_is_looked_for() -> None:
    """Given a batch that is taken apart, when the store goes away in the middle for good, then the lane gives up."""
    store = await ScriptedStore.opened()

    async def poison_then_away(proceed: Proceed, records: Sequence[Record]) -> Appended:
        store.always("find", away)
        raise StoreError("scripted: no")

    store.script("append", poison_then_away)
    async with running(engine_on(store), patience=0.05) as lane:
        lane.lane.add(requests(save("a", 1), save("b", 1)))
        with pytest.raises(StoreLostError):
            await lane.until(1)
        assert lane.failed == []


def test_a_message_set_apart_shares_its_batch_with_no_other() -> None:
    """Given messages of which two are set apart, when they are gathered, then each of these is a batch of its own."""
    messages = {"a": (2, False), "b": (3, True), "c": (1, True), "d": (2, False), "e": (1, False)}
    waiting = deque(
        Request(read("k"), apart=apart, origin=name) for name, (count, apart) in messages.items() for _ in range(count)
    )

    batches = []
    while waiting:
        batches.append("".join(each.origin for each in gather(waiting)))

    assert batches == ["aa", "bbb", "c", "dde"]


async def test_suspects_are_appended_alone() -> None:
    """Given suspects among innocents, when they are applied, then each suspect has an append of its own."""
    store = await ScriptedStore.opened()
    async with running(engine_on(store)) as lane:
        made = requests(*(save("k", number) for number in range(6)))
        made[2].suspect = made[3].suspect = True
        lane.lane.add(made)
        assert await lane.until(6) == [f"ok v{number}" for number in range(1, 7)]
    assert [len(asked) for asked in store.asked] == [2, 1, 1, 2]


async def test_two_lanes_may_meet_at_a_key() -> None:
    """Given two lanes of one engine, when forwarding brings one key to both, then each version is there once."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)

    async def in_turns(proceed: Proceed, argument: object) -> object:
        await asyncio.sleep(0)
        return await proceed()

    for method in ("append", "heads", "find", "fence", "versions"):
        store.always(method, in_turns)
    async with running(engine) as one_lane, running(engine) as other_lane:
        for number in range(50):
            one_lane.lane.add(requests(save("k", number), read("k"), save("one", number)))
            other_lane.lane.add(requests(save("k", number), save("k", number, etag="1-00000000"), save("two", number)))
        await one_lane.until(150)
        await other_lane.until(150)
    for key, count in (("k", 100), ("one", 50), ("two", 50)):
        assert await store.versions_of(key) == list(range(1, count + 1))


async def test_a_lane_that_is_cancelled_leaves_nothing_half_done() -> None:
    """Given a lane that is cancelled in its append, when all comes again, then it is recognised."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    arrived = asyncio.Event()

    async def hang(proceed: Proceed, records: Sequence[Record]) -> Appended:
        appended: Appended = await proceed()
        arrived.set()
        await asyncio.Event().wait()
        return appended

    store.script("append", hang)
    command = save("k", 1)
    async with running(engine) as lane:
        lane.lane.add(requests(command))
        async with asyncio.timeout(10):
            await arrived.wait()
    await another_worker(store, save("k", 2))()
    answers = await apply(engine, request(command, redelivered=True), save("k", 3))
    assert [brief(answer) for answer in answers] == ["ok v1", "ok v3"]
