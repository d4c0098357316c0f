"""A restore: the value of an earlier version becomes the next one, once, on the conditions of every write."""

from typing import Any

import pytest
from store_records import saved
from support.commands import NOW, apply, brief, delete, one, read, request, restore, save
from support.desk import desk
from support.engines import Clock, another_worker, engine_on
from support.scripted import ScriptedStore

from holdfast.events import Event, Refusal, RestoreCommand, digest_of, make_etag
from holdfast.stores import Head
from holdfast.worker.decide import NEVER, Rejection, decide

LIVE = Head(version=3, exists=True, id="writer", time=NOW - 5000)
DELETED = Head(version=4, exists=False, id="deleter", time=NOW - 5000)
SOURCE = saved("k", 2, value={"n": [1]}, time=NOW - 9000)


def outcome(command: RestoreCommand, head: Head, source: Event | None = SOURCE) -> Event | Rejection:
    return decide(command, head, now=NOW, author="ada", digest=b"digest", source=source)


@pytest.mark.parametrize("head", [LIVE, DELETED], ids=["live", "deleted"])
def test_it_is_a_save_of_an_old_value(head: Head) -> None:
    """Given a key, there or not, when an old version is restored, then the next one has its value, and says so."""
    event = outcome(restore("k", 2, metadata={"why": "oops"}, correlation_id="c", causation_id="d"), head)
    assert isinstance(event, Event)
    assert (event.type, event.version, event.value, event.restored) == ("saved", head.version + 1, {"n": [1]}, 2)
    assert (event.metadata, event.correlation_id, event.causation_id) == ({"why": "oops"}, "c", "d")


@pytest.mark.parametrize(
    ("command", "head", "source", "code", "recorded"),
    [
        (restore("k", 2, etag=make_etag(3, "other")), LIVE, SOURCE, "etag_mismatch", False),
        (restore("k", 2, etag=make_etag(3, "writer")), DELETED, SOURCE, "absent", False),
        (restore("k", 2, etag=""), LIVE, None, "etag_mismatch", False),
        (restore("k", 2, max_version=2), LIVE, SOURCE, "newer", False),
        (restore("k", 2), LIVE, None, "no_value", True),
        (restore("k", 2, etag=make_etag(3, "writer")), LIVE, None, "no_value", False),
        (restore("k", 2), NEVER, None, "no_value", True),
        (restore("k", 2), DELETED, SOURCE.model_copy(update={"type": "deleted", "value": None}), "no_value", True),
        (restore("k", 2), LIVE, SOURCE.model_copy(update={"value": None, "stripped": True}), "stripped", True),
    ],
)  # fmt: skip
def test_what_is_refused(command: RestoreCommand, head: Head, source: Event | None, code: str, recorded: bool) -> None:
    """Given a condition that does not hold, or nothing to restore, then it is a conflict that says so."""
    refused = outcome(command, head, source)
    assert isinstance(refused, Rejection)
    assert (refused.answer["status"], refused.answer["error"]["code"]) == ("conflict", code)
    assert refused.answer["error"]["actual"] == (make_etag(3, "writer") if head.exists else None)
    assert (refused.recorded, refused.about_key) == (recorded, True)


def test_the_version_is_a_part_of_what_an_id_stands_for() -> None:
    """Given restores that differ in one thing, then their digests are the same only if that is allowed."""
    command = restore("k", 2, id="x")
    for same in ({"max_version": 9}, {"deadline": 9}, {"correlation_id": "c"}, {"causation_id": "d"}):
        assert digest_of(command.model_copy(update=same)) == digest_of(command)
    changes: list[dict[str, Any]] = [
        {"at_version": 3},
        {"etag": "1-0"},
        {"metadata": {}},
        {"key": "l"},
        {"store": "other"},
    ]
    for other in changes:
        assert digest_of(command.model_copy(update=other)) != digest_of(command)


async def test_every_delivery_gets_the_same_answer() -> None:
    """Given restores that were done or refused, when they come again, then nothing changes, the answer included."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await apply(engine, save("k", "one"), save("k", "two"), delete("k"))
    good, bad = restore("k", 1), restore("k", 5)
    first = [await one(engine, good), await one(engine, bad)]
    assert [brief(answer) for answer in first] == ["ok v4", "conflict no_value"]
    # Version 5 comes to be, and all of it is told to a worker that knows nothing.
    await apply(engine, save("k", "five"))
    for again in (engine, engine_on(store.inner)):
        for redelivered in (False, True):
            requests = [request(good, redelivered=redelivered), request(bad, redelivered=redelivered)]
            assert await apply(again, *requests) == first
    assert await store.versions_of("k") == [1, 2, 3, 4, 5]
    reused = await one(engine, good.model_copy(update={"at_version": 2}))
    assert brief(reused) == "invalid id_reused"
    assert sum(isinstance(record, Refusal) for record in await store.log()) == 1


async def test_a_version_of_the_same_batch() -> None:
    """Given a batch that saves, restores and saves, when it is applied, then each sees those before it."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    answers = await apply(
        engine, restore("k", 1), save("k", "one"), save("k", "two"), restore("k", 1), read("k"), save("k", "four"),
        restore("k", 3), restore("k", 6), read("k"),
    )  # fmt: skip
    assert [brief(answer) for answer in answers] == [
        "conflict no_value", "ok v1", "ok v2", "ok v3", "ok v3", "ok v4", "ok v5", "conflict no_value", "ok v5",
    ]  # fmt: skip
    assert [event.value for event in await store.history("k")] == ["one", "two", "one", "four", "one"]
    assert answers[-1]["value"] == "one"


async def test_a_worker_that_is_behind_looks_again_before_it_refuses() -> None:
    """A version that a deposed primary does not show yet is there: the refusal has to be proved, and is not."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", "one"))
    await store.fall_behind()
    await another_worker(store, save("k", "two"))()
    assert brief(await one(engine, restore("k", 2))) == "ok v3"
    assert [event.value for event in await store.inner.history("k")] == ["one", "two", "two"]


@pytest.mark.parametrize("conditional", [False, True])
async def test_what_it_knows_to_be_there_is_not_missed(conditional: bool) -> None:
    """A worker has made version 2 itself, and a deposed primary does not show it: its value comes back all the same."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await one(engine, save("k", "one"))
    await store.fall_behind()
    entry = await one(engine, save("k", "two"))
    etag = entry["etag"] if conditional else None
    assert brief(await one(engine, restore("k", 2, etag=etag))) == "ok v3"
    assert [event.value for event in await store.inner.history("k")] == ["one", "two", "two"]


async def test_nothing_is_looked_up_for_batches_without_one() -> None:
    """Given plain saves, when a batch is applied, then the store is not asked for any value; with restores once."""
    store = await ScriptedStore.opened()
    engine = engine_on(store)
    await apply(engine, *(save(f"k{number}", number) for number in range(20)))
    assert store.calls["events"] == 0
    await apply(engine, *(restore(f"k{number}", 1) for number in range(20)), save("k0"))
    assert store.calls["events"] == 1


async def test_many_large_ones_make_many_batches() -> None:
    """Given restores, whose values nobody knows the size of, when they are gathered, then as if these were large."""
    async with desk() as it:
        await it.ask({"op": "save", "id": "s", "key": "k", "value": 7}, None)
        batches: list[int] = []
        inner = it.engine.apply

        async def counted(batch: Any) -> None:
            batches.append(len(batch.pending))
            await inner(batch)

        it.engine.apply = counted  # type: ignore[method-assign]
        many = [{"op": "restore", "id": f"r{number}", "key": "k", "at_version": 1} for number in range(10)]
        replies = await it.ask(many, None)
        assert [reply["version"] for reply in replies] == list(range(2, 12))
        assert max(batches) <= 4


async def test_correlation_and_causation_are_kept_with_the_event() -> None:
    """Given writes that say what they belong to, then the history tells it, and a repeat may say another thing."""
    engine = engine_on(await ScriptedStore.opened(), Clock())
    told = {"correlation_id": "order-7", "causation_id": "c0"}
    command = save("k", 1, **told)
    answer = await one(engine, command)
    await one(engine, delete("k", **told))
    await one(engine, save("k", 2))
    assert await one(engine, command.model_copy(update={"correlation_id": "another"})) == answer
    entries, _ = await engine.history("k")
    assert [(entry.correlation_id, entry.causation_id) for entry in entries] == [("order-7", "c0")] * 2 + [(None, None)]
