"""Reads that are overtaken by compaction: between the look at a version and the look at its value, the value goes."""

from typing import Any

from support.commands import apply, brief, delete, one, read, save
from support.engines import engine_on
from support.scripted import ScriptedStore, meanwhile

from holdfast.events import StoreUnavailable, make_etag


async def test_a_read_is_not_told_the_nothing_of_a_stub() -> None:
    """The newest version was seen, then replaced and stripped: the read looks again, and finds what there is now."""
    store = await ScriptedStore.opened()
    await one(engine_on(store), save("k", "one"))
    engine = engine_on(store)

    async def overtake() -> None:
        await apply(engine_on(store.inner), save("k", "two"))
        await store.inner.strip([("k", 1, 1)])

    store.script("events", meanwhile(overtake))
    try:
        answer = await one(engine, read("k"))
    except StoreUnavailable:
        # As of everything that a store cannot answer at the moment, the batch is applied again.
        answer = await one(engine, read("k"))
    assert (brief(answer), answer["value"]) == ("ok v2", "two")


async def test_a_conflict_tells_no_value_of_a_stub() -> None:
    """Whoever asked for the value that stood in his way gets none, if it has been erased since."""
    store = await ScriptedStore.opened()
    await apply(engine_on(store), save("k", "one"))
    engine = engine_on(store)

    async def overtake() -> None:
        await apply(engine_on(store.inner), save("k", "two"))
        await store.inner.strip([("k", 1, 1)])

    store.script("events", meanwhile(overtake))
    answer = await one(engine, save("k", "mine", etag=make_etag(9, "x"), return_current=True))
    assert brief(answer) == "conflict etag_mismatch"
    assert "current" not in answer["error"]


async def test_a_key_that_is_dropped_reads_as_absent() -> None:
    """Its last event was seen, then dropped: the read looks again, and finds nothing, which is the same."""
    store = await ScriptedStore.opened()
    await apply(engine_on(store), save("k", "one"), delete("k"))
    engine = engine_on(store)

    async def overtake() -> None:
        await store.inner.drop([("k", 1), ("k", 2)])

    store.script("events", meanwhile(overtake))
    answers: list[Any] = []
    for _ in range(2):
        try:
            answers.append(await one(engine, read("k")))
        except StoreUnavailable:
            assert not answers
    assert {brief(answer) for answer in answers} == {"absent"}
