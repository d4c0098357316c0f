"""Appends of which nobody can tell whether they landed: the log tells in the end, and nothing is answered before."""

import pytest
from support.commands import Operation, apply, brief, delete, first, one, read, request, save, wire
from support.engines import Clock, another_worker, engine_on
from support.scripted import InFlight, ScriptedStore, lost_after, lost_before, meanwhile

from holdfast.events import StoreUnavailable
from holdfast.worker import Batch


async def test_an_append_that_landed_after_its_deadline_is_not_called_expired() -> None:
    """A save was appended, the answer got lost, and its deadline passes before the worker can look.

    It must not be told that it expired, which means: certainly not applied.
    """
    store = await ScriptedStore.opened()
    clock = Clock()
    engine = engine_on(store, clock)
    batch = Batch.of([request(save("k", 1, deadline=clock.now() + 1000))])
    made = batch.pending[0]
    store.script("append", lost_after)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    clock.pass_(10)
    await engine.apply(batch)
    assert brief(wire(made.answer)) == "ok v1"


async def test_an_append_that_was_lost_before_its_deadline_is_called_expired_for_good() -> None:
    """Given a save whose append never arrived, when its deadline passes, then its refusal is in the log for ever."""
    store = await ScriptedStore.opened()
    clock = Clock()
    engine = engine_on(store, clock)
    command = save("k", 1, deadline=clock.now() + 1000)
    batch = Batch.of([request(command)])
    made = batch.pending[0]
    store.script("append", lost_before)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    clock.pass_(10)
    await engine.apply(batch)
    assert brief(wire(made.answer)) == "expired deadline"
    assert [record.id for record in await store.log()] == [command.id]


async def test_an_append_that_arrives_after_its_command_was_called_expired_is_shut_out() -> None:
    """A save's append is under way for long; meanwhile the command is refused as too late. Then the append arrives.

    The refusal took the id, so the late append cannot apply what its sender was told is not applied.
    """
    store = await ScriptedStore.opened()
    clock = Clock()
    engine = engine_on(store, clock)
    zombie = InFlight()
    batch = Batch.of([request(save("k", 1, deadline=clock.now() + 1000))])
    made = batch.pending[0]
    store.script("append", zombie)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    clock.pass_(10)
    await engine.apply(batch)
    assert brief(wire(made.answer)) == "expired deadline"
    await zombie.land()
    assert await store.versions_of("k") == []
    assert brief(await one(engine, read("k"))) == "absent"


async def test_an_append_that_arrives_between_the_look_and_the_refusal_wins() -> None:
    """Given an append under way, when it arrives after the id was looked up, then the refusal finds it in the log."""
    store = await ScriptedStore.opened()
    clock = Clock()
    engine = engine_on(store, clock)
    zombie = InFlight()
    batch = Batch.of([request(save("k", 1, deadline=clock.now() + 1000))])
    made = batch.pending[0]
    store.script("append", zombie, meanwhile(zombie.land))
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    clock.pass_(10)
    await engine.apply(batch)
    assert brief(wire(made.answer)) == "ok v1"
    assert await store.versions_of("k") == [1]


async def test_a_redelivered_copy_of_an_append_that_landed_is_not_called_expired() -> None:
    """A worker died after its append; the next one takes the message past its deadline, on a primary that is behind.

    Even if the look at the id misses, the log has it, and the refusal cannot be recorded.
    """
    store = await ScriptedStore.opened()
    clock = Clock()
    command = save("k", 1, deadline=clock.now() + 1000)
    await store.fall_behind()
    before = await one(engine_on(store.inner, clock), command)
    clock.pass_(10)
    assert await one(engine_on(store, clock), request(command, redelivered=True)) == before


@pytest.mark.parametrize("landed", [True, False])
async def test_everything_behind_an_unknown_append_waits_for_it(landed: bool) -> None:
    """Given writes, reads and conflicts in one batch, when its append is unknown, then nothing at all is answered."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", 0))
    commands: list[Operation] = [
        save("k", 1),
        read("k"),
        save("k", 2, etag="1-00000000"),
        delete("gone"),
        read("other"),
    ]
    batch = Batch.of([request(command) for command in commands])
    made = list(batch.pending)
    store.script("append", lost_after if landed else lost_before)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    assert [each.answer for each in made] == [None] * 5
    await engine.apply(batch)
    expected = ["ok v2", "ok v2", "conflict etag_mismatch", "unchanged", "absent"]
    assert [brief(wire(each.answer)) for each in made] == expected
    assert await store.versions_of("k") == [1, 2]


async def test_an_append_that_arrives_while_it_is_repeated_leaves_one_of_both() -> None:
    """Given an append of three under way, when it arrives in front of its repetition, then each applied once."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    zombie = InFlight()
    commands: list[Operation] = [save("k", 1), save("k", 2), delete("other")]
    batch = Batch.of([request(command) for command in commands])
    made = list(batch.pending)
    store.script("append", zombie, meanwhile(zombie.land))
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    await engine.apply(batch)
    assert [brief(wire(each.answer)) for each in made] == ["ok v1", "ok v2", "unchanged"]
    assert await store.versions_of("k") == [1, 2]


async def test_an_append_of_a_dead_worker_arrives_after_the_next_one_went_on() -> None:
    """A worker's append hangs; it is replaced; the next one applies the same commands and more. Then the first lands.

    What it carried is in the log already, under the same ids, so it changes nothing and leaves no hole.
    """
    store = await ScriptedStore.opened()
    zombie = InFlight()
    store.script("append", zombie)
    commands = [save("a", 1), save("k", 1), save("k", 2)]
    with pytest.raises(StoreUnavailable):
        await apply(engine_on(store), *commands)
    successor = engine_on(store)
    await another_worker(store, save("k", "theirs"))()
    answers = await apply(successor, *(request(command, redelivered=True) for command in commands))
    assert [brief(answer) for answer in answers] == ["ok v1", "ok v2", "ok v3"]
    await zombie.land()
    assert (await store.versions_of("a"), await store.versions_of("k")) == ([1], [1, 2, 3])


async def test_a_conditional_append_that_hangs_cannot_apply_after_its_conflict() -> None:
    """A save with an etag hangs on its way; another write comes first; the repeat of the save is a conflict.

    No record of that conflict is kept. The hanging append has to fail nevertheless: its version is taken.
    """
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    etag = (await one(engine, save("k", 1)))["etag"]
    zombie = InFlight()
    store.script("append", zombie)
    command = save("k", "conditional", etag=etag)
    with pytest.raises(StoreUnavailable):
        await one(engine, command)
    await another_worker(store, save("k", "theirs"))()
    assert brief(await one(engine_on(store), request(command, redelivered=True))) == "conflict etag_mismatch"
    await zombie.land()
    assert (await one(engine, read("k")))["value"] == "theirs"


async def test_a_first_write_that_hangs_cannot_apply_after_its_refusal() -> None:
    """Given a first-write that hangs, when its repeat is refused, then it cannot land even after the key is deleted."""
    store = await ScriptedStore.opened()
    zombie = InFlight()
    store.script("append", zombie)
    command = first("k", "ours")
    with pytest.raises(StoreUnavailable):
        await one(engine_on(store), command)
    await another_worker(store, save("k", "theirs"))()
    engine = engine_on(store)
    assert brief(await one(engine, request(command, redelivered=True))) == "conflict exists"
    await another_worker(store, delete("k"))()
    await zombie.land()
    assert brief(await one(engine, read("k"))) == "absent"
    assert await store.versions_of("k") == [1, 2]
