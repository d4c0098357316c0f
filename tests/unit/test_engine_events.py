"""What a command has put into the log is told to others: once it is there, whole, and again with every repeat."""

import pytest
from support.commands import apply, brief, delete, first, increment, one, read, request, save
from support.engines import another_worker, engine_on
from support.scripted import ScriptedStore, lost_after, meanwhile

from holdfast.events import Event, OutboxMessage, StoreUnavailable
from holdfast.rules import Rule
from holdfast.stores import MemoryStore
from holdfast.verify import verify
from holdfast.worker import Batch, Request

CARRIED = (OutboxMessage(exchange="orders", body={"n": 1}),)


def told(*made: Request) -> list[list[tuple[str, int, str, object]]]:
    return [[(event.key, event.version, event.type, event.value) for event in each.events] for each in made]


async def test_events_of_a_batch() -> None:
    """Given a batch, when it is applied, then each write that made an event has it, and nothing else has one."""
    store = await ScriptedStore.opened()
    engine = engine_on(store, tells_values=True)
    made = [
        request(command)
        for command in (
            save("a", 1),
            read("a"),
            first("a", 2),
            save("a", 3, etag="1-00000000"),
            delete("none"),
            delete("a"),
            save("b", None, messages=CARRIED),
        )
    ]
    await apply(engine, *made)
    assert told(*made) == [
        [("a", 1, "saved", 1)],
        [],
        [],
        [],
        [],
        [("a", 2, "deleted", None)],
        [("b", 1, "saved", None)],
    ]
    assert made[-1].events[0].messages == CARRIED


@pytest.mark.parametrize("redelivered", [True, False])
async def test_a_repeat_is_told_again(redelivered: bool) -> None:
    """Given a write that is in the log, when it comes again, then its event is told again, with value and messages."""
    store = await ScriptedStore.opened()
    early = save("k", {"v": 1}, messages=CARRIED)
    await another_worker(store, early, save("k", 2))()
    again = request(early, redelivered=redelivered)
    assert (await one(engine_on(store, tells_values=True), again))["version"] == 1
    assert told(again) == [[("k", 1, "saved", {"v": 1})]]
    assert again.events[0].messages == CARRIED


async def test_what_is_refused_again_is_not_told() -> None:
    """Given a recorded refusal, and the id of another command, when they come again, then nothing is told."""
    store = await ScriptedStore.opened()
    engine = engine_on(store, tells_values=True)
    await one(engine, save("k", 1, id="used"))
    refused = first("k", 2)
    await one(engine, refused)
    made = [request(refused, redelivered=True), request(save("k", 9, id="used"), redelivered=True)]
    await apply(engine, *made)
    assert told(*made) == [[], []]


async def test_what_another_worker_has_appended_meanwhile() -> None:
    """Given an old owner whose append lands at the last moment, when ours meets it, then its event is told by us."""
    store = await ScriptedStore.opened()
    command = save("k", 1, messages=CARRIED)
    store.script("append", meanwhile(another_worker(store, command)))
    made, behind = request(command, redelivered=True), request(save("k", 2))
    await apply(engine_on(store, tells_values=True), made, behind)
    assert told(made, behind) == [[("k", 1, "saved", 1)], [("k", 2, "saved", 2)]]
    assert made.events[0].messages == CARRIED


async def test_an_append_whose_answer_was_lost() -> None:
    """Given an append that landed without our knowing, when the batch is applied again, then its events are told."""
    store = await ScriptedStore.opened()
    engine = engine_on(store, tells_values=True)
    store.script("append", lost_after)
    made = [request(save("k", 1)), request(save("k", 2))]
    batch = Batch.of(made)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    assert told(*made) == [[], []]
    await engine.apply(batch)
    assert told(*made) == [[("k", 1, "saved", 1)], [("k", 2, "saved", 2)]]


async def test_without_a_feed_no_values_are_looked_up() -> None:
    """Given a store whose feed is off, when a repeat comes, then its messages are known, and its value is not."""
    store = await ScriptedStore.opened()
    command = save("k", "large", messages=CARRIED)
    await another_worker(store, command)()
    again = request(command, redelivered=True)
    await one(engine_on(store), again)
    (event,) = again.events
    assert isinstance(event, Event)
    assert (event.value, event.messages) == (None, CARRIED)


async def test_what_an_event_carries_is_verified() -> None:
    """Given events with messages, when the log is checked, then it is sound; and not if one of them is another."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await apply(
        engine, save("k", 1, messages=CARRIED), first("new", 1, messages=CARRIED), delete("k", messages=CARRIED)
    )
    assert (await verify(store.inner, "default")).sound
    forged = MemoryStore()
    await forged.open()
    other = (OutboxMessage(exchange="orders", body={"n": 2}),)
    await forged.append(
        [record.model_copy(update={"messages": other}) for record in await store.log() if isinstance(record, Event)]
    )
    assert (await verify(forged, "default")).broken == {Rule.DIGEST: 3}


async def test_a_patch_carries_messages_too() -> None:
    """Given a patch with messages, when it is applied and comes again, then they are told, and the log is sound."""
    store = await ScriptedStore.opened()
    engine = engine_on(store, tells_values=True)
    command = increment("k", 2, messages=CARRIED)
    made, again = request(command), request(command, redelivered=True)
    await apply(engine, made)
    await apply(engine_on(store, tells_values=True), again)
    assert told(made) == told(again) == [[("k", 1, "saved", 2)]]
    assert made.events[0].messages == again.events[0].messages == CARRIED
    assert (await verify(store.inner, "default")).sound
    other = increment("k", 2, id=command.id)
    assert brief(await one(engine, other)) == "invalid id_reused"
