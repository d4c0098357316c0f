"""Patches are writes like others: at most once, in order, decided on the newest value, and the event holds a value."""

from collections.abc import Sequence
from typing import Any

import pytest
from support.commands import Operation, apply, brief, delete, increment, one, patch, read, request, save, wire
from support.engines import another_worker, engine_on
from support.scripted import ScriptedStore, lost_after, lost_before, meanwhile, raising

from holdfast.events import Event, StoreUnavailable, make_etag
from holdfast.stores import MemoryStore
from holdfast.worker import Batch
from holdfast.worker.patching import MAX_WORK
from holdfast.worker.plan import MAX_PATCH_EFFORT, make_plan

FAILING = [{"op": "test", "path": "/n", "value": "other"}]


async def values(store: ScriptedStore, key: str = "k") -> list[Any]:
    return [record.value for record in await store.log() if isinstance(record, Event) and record.key == key]


async def test_the_event_holds_the_value_that_came_of_it() -> None:
    """Given a value, when it is patched, then the event is a saved one with the whole value, and so is the read."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", {"a": 1, "b": [1, 2]}))
    answer = await one(engine, patch("k", "merge", {"a": None, "c": 3}, metadata={"who": "ada"}))
    assert brief(answer) == "ok v2"
    assert "value" not in answer
    event = (await store.log())[1]
    assert isinstance(event, Event)
    assert (event.type, event.value, event.metadata) == ("saved", {"b": [1, 2], "c": 3}, {"who": "ada"})
    assert (await one(engine_on(store), read("k")))["value"] == {"b": [1, 2], "c": 3}


@pytest.mark.parametrize("remembers", [True, False], ids=["remembered", "looked up"])
async def test_a_patch_is_decided_on_the_newest_value(remembers: bool) -> None:
    """Given a value that another worker has written, when it is patched, then it is that value that is."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    if remembers:
        await one(engine, save("k", {"n": 1}))
    await another_worker(store, save("k", {"n": 10}))()
    answer = await one(engine, increment("k", pointer="/n", return_value=True))
    assert answer["value"] == {"n": 11}


async def test_patches_of_one_batch_build_on_each_other() -> None:
    """Given many commands on one key in one batch, when it is applied, then each meets what the last one left."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    commands: list[Operation] = [
        increment("k"),
        increment("k", 2),
        save("k", {"n": 1}),
        increment("k", pointer="/n", return_value=True),
        delete("k"),
        patch("k", "json-patch", []),
        increment("k", 5),
        read("k"),
    ]
    answers = await apply(engine, *commands)
    assert [brief(answer) for answer in answers] == [
        "ok v1", "ok v2", "ok v3", "ok v4", "ok v5", "conflict absent", "ok v6", "ok v6",
    ]  # fmt: skip
    assert await values(store) == [1, 3, {"n": 1}, {"n": 2}, None, 5]
    assert answers[3]["value"] == {"n": 2}
    # One append, however many there are.
    assert store.calls["append"] == 1


async def test_a_batch_of_increments_loses_none() -> None:
    """Given hundreds of increments of one counter, when they come in one batch, then each counts once, in order."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", {"n": 0, "name": "x" * 200}))
    answers = await apply(engine, *(increment("k", pointer="/n", return_value=True) for _ in range(512)))
    assert [answer["value"]["n"] for answer in answers] == list(range(1, 513))
    assert store.calls["append"] == 2


@pytest.mark.parametrize("fault", [lost_before, lost_after])
async def test_an_increment_counts_once_whatever_becomes_of_its_append(fault: Any) -> None:
    """Given an append that is lost on its way, or its answer, when it is tried again, then it has counted once."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    store.script("append", fault)
    command = request(increment("k", return_value=True))
    batch = Batch.of([command])
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    await engine.apply(batch)
    assert await values(store) == [1]
    assert wire(command.answer)["value"] == 1


async def test_a_repeat_is_told_the_value_of_then() -> None:
    """Given a counter that went on, when an increment comes again under its id, then it is told its own result."""
    store = await ScriptedStore.opened()
    command = increment("k", return_value=True)
    told = await one(engine_on(store), command)
    await apply(engine_on(store), increment("k"), increment("k"))
    for redelivered in (True, False):
        assert await one(engine_on(store), request(command, redelivered=redelivered)) == told
    again = request(command), request(command), request(command.model_copy(update={"return_value": False}))
    answers = await apply(engine_on(store), *again)
    assert answers[:2] == [told, told]
    assert "value" not in answers[2]
    assert await values(store) == [1, 2, 3]
    other = increment("k", 2, id=command.id)
    assert brief(await one(engine_on(store), other)) == "invalid id_reused"
    assert brief(await one(engine_on(store), save("k", 1, id=command.id))) == "invalid id_reused"


async def test_another_worker_was_quicker() -> None:
    """Given an increment that another worker's got in front of, when it is appended, then it counts on top of that."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, increment("k"))
    store.script("append", meanwhile(another_worker(store, increment("k", 10))))
    answer = await one(engine, increment("k", return_value=True))
    assert answer["value"] == 12
    assert await values(store) == [1, 11, 12]


#: What does not fit, and what it is told.
MISFITS: dict[str, tuple[Any, str]] = {
    "test": (lambda **more: patch("k", "json-patch", FAILING, **more), "conflict test_failed"),
    "path": (lambda **more: patch("k", "json-patch", [{"op": "remove", "path": "/x"}], **more), "conflict unpatchable"),
    "number": (lambda **more: increment("k", **more), "conflict unpatchable"),
}


@pytest.mark.parametrize("case", MISFITS)
async def test_what_does_not_fit_is_a_recorded_conflict(case: str) -> None:
    """Given a value that a patch does not fit, when it is applied, then that is a conflict, for good under its id."""
    make, told = MISFITS[case]
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", {"n": 1}, id="first"))
    command = make(return_current=True)
    answer = await one(engine, command)
    assert brief(answer) == told
    error = answer["error"]
    assert error["message"]
    assert error["field"].startswith("patch")
    assert (error["actual"], error["winner"], error["current"]) == (make_etag(1, "first"), "first", {"n": 1})
    assert (answer["exists"], answer["version"]) == (True, 1)
    # The key moves on to where it would fit.
    await one(engine, save("k", {"n": "other", "x": 1}))
    await one(engine, save("k", 1))
    again = await one(engine_on(store), command)
    assert again == {**answer, "error": {**error, "current": {"n": 1}}}
    assert await values(store) == [{"n": 1}, {"n": "other", "x": 1}, 1]


@pytest.mark.parametrize("case", MISFITS)
async def test_a_conflict_does_not_rest_on_what_is_remembered(case: str) -> None:
    """Given a worker that remembers a value, when another one has changed it so that a patch fits, then it does."""
    make, _ = MISFITS[case]
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", {"n": 1}))
    await another_worker(store, save("k", 7 if case == "number" else {"n": "other", "x": 1}))()
    assert brief(await one(engine, make())) == "ok v3"


async def test_absence_does_not_rest_on_a_deposed_primary() -> None:
    """Given a primary that has not seen the key, when a JSON Patch comes for it, then it is applied all the same."""
    store = await ScriptedStore.opened()
    await store.fall_behind()
    await another_worker(store, save("k", {"n": "other"}))()
    assert brief(await one(engine_on(store), patch("k", "json-patch", FAILING))) == "ok v2"


async def test_an_etag_is_demanded_as_of_a_save() -> None:
    """Given a patch with an etag, when the key is at another one, then it is a conflict and nothing is recorded."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    saved = await one(engine, save("k", 1))
    assert brief(await one(engine, increment("k", etag="1-00000000"))) == "conflict etag_mismatch"
    assert brief(await one(engine, increment("absent", etag=saved["etag"]))) == "conflict absent"
    assert brief(await one(engine, increment("k", etag=saved["etag"]))) == "ok v2"
    assert brief(await one(engine, increment("k", etag=saved["etag"]))) == "conflict etag_mismatch"
    assert [record.type for record in await store.log()] == ["saved", "saved"]
    assert brief(await one(engine, increment("k", max_version=1))) == "conflict newer"


async def test_a_patch_that_comes_too_late_is_not_applied() -> None:
    """Given a deadline that has passed, when a patch comes, then it is refused for good, whether or not it fits."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    for late in (increment("k", deadline=1), patch("k", "json-patch", FAILING, deadline=1)):
        assert brief(await one(engine, late)) == "expired deadline"
    assert await values(store) == []


async def test_what_comes_of_a_patch_is_bounded_like_a_value() -> None:
    """Given the worker's limit for values, when a patch would exceed it, then it does not fit."""
    store = await ScriptedStore.opened()
    engine = engine_on(store, max_value_bytes=100)
    await one(engine, save("k", {"a": "x" * 60}))
    assert brief(await one(engine, patch("k", "merge", {"b": "x" * 60}))) == "conflict unpatchable"
    assert brief(await one(engine, patch("k", "merge", {"a": "y" * 60}))) == "ok v2"


async def test_a_value_that_cannot_be_read_yet_is_waited_for() -> None:
    """Given a database that is away when the value is looked up, when it is back, then the patch is applied once."""
    store = await ScriptedStore.opened()
    await another_worker(store, save("k", 1))()
    engine = engine_on(store)
    store.script("events", raising(StoreUnavailable("away")))
    command = request(increment("k", return_value=True))
    batch = Batch.of([command])
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    await engine.apply(batch)
    assert wire(command.answer)["value"] == 2


async def test_a_value_that_is_missing_is_no_empty_one() -> None:
    """Given a lookup that is behind what was seen, when the value is not there yet, then nothing is decided."""
    store = await ScriptedStore.opened()
    await another_worker(store, save("k", 41))()

    async def nothing(proceed: Any, places: Any) -> dict[tuple[str, int], Event]:
        return {}

    store.script("events", nothing)
    command = request(increment("k", return_value=True))
    batch = Batch.of([command])
    engine = engine_on(store)
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    await engine.apply(batch)
    assert wire(command.answer)["value"] == 42


class Trickling(MemoryStore):
    """Gives one value at a time, and not the one that is wanted first."""

    async def events(self, places: Any, **options: Any) -> Any:
        found = await super().events(places, **options)
        last = list(found)[-1:]
        return {place: found[place] for place in last}


async def test_values_that_come_a_few_at_a_time() -> None:
    """Given a database that gives only some of the values, when many keys are patched, then all are, in order."""
    store = Trickling()
    await store.open()
    keys = [f"k{number}" for number in range(20)]
    await apply(engine_on(store), *(save(key, 0) for key in keys))
    engine = engine_on(store, state_bytes=0)
    commands = [increment(key, return_value=True) for key in keys * 2]
    answers = await apply(engine, *commands)
    assert [answer["value"] for answer in answers] == [1] * 20 + [2] * 20


async def test_large_results_are_made_a_few_at_a_time() -> None:
    """Given small patches of large values, when many come at once, then no more is made at a time than fits.

    And what is done is handed out before the rest.
    """
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    text = "x" * 1_000_000
    await apply(engine, *(save(f"k{number}", {"text": text}) for number in range(3)))
    store.asked.clear()
    released: list[int] = []

    async def release(batch: Batch) -> None:
        released.append(len(batch.take()))

    commands = [request(patch(f"k{number % 3}", "merge", {"n": number}, return_value=True)) for number in range(30)]
    batch = Batch.of(commands)
    batch.release = release
    await engine.apply(batch)
    assert all(brief(wire(command.answer)).startswith("ok") for command in commands)
    assert all(sum(_size(record) for record in records) < 2 * MAX_PATCH_EFFORT for records in store.asked)
    assert len(store.asked) > 5
    assert max(released) < 10


def _size(record: Any) -> int:
    return len(str(record.value))


def test_a_plan_ends_when_its_patches_have_done_enough() -> None:
    """Given patches that take much work, whether they fit or not, when they are planned, then only some of them are."""
    array = [0] * 200_000
    hard = [{"op": "add", "path": "/0", "value": 1}] * 9
    for operations in (hard, [*hard, {"op": "test", "path": "", "value": 1}]):
        requests = [request(save("k", array)), *(request(patch("k", "json-patch", operations)) for _ in range(20))]
        plan = make_plan(requests, {}, exact={"k"}, now=0, max_value_bytes=2**21)
        assert 2 <= len(plan.steps) <= 2 + MAX_PATCH_EFFORT // (9 * 200_000)
        assert MAX_WORK < MAX_PATCH_EFFORT


async def test_patches_are_folded_like_other_writes() -> None:
    """Given one patch that comes twice in a batch, when it is applied, then it counts once."""
    store = await ScriptedStore.opened()
    command = increment("k", return_value=True)
    answers: Sequence[Any] = await apply(engine_on(store), command, increment("k"), command)
    assert [answer["version"] for answer in answers] == [1, 2, 1]
    assert await values(store) == [1, 2]
