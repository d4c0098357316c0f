"""Expiry and patches beside history, reads of the past, restores, lists of keys, purges and retention."""

import pytest
from support.commands import apply, brief, first, increment, one, purge, read, request, restore, save
from support.engines import Clock, engine_on
from support.scripted import ScriptedStore, meanwhile

from holdfast.events import Event, StoreUnavailable
from holdfast.stores import KeyScope
from holdfast.verify import verify
from holdfast.worker import Batch
from holdfast.worker.listing import list_keys
from holdfast.worker.past import read_past

TTL = 60
EVERYTHING = KeyScope.of(prefixes=[""])


@pytest.fixture
async def store() -> ScriptedStore:
    return await ScriptedStore.opened()


async def test_a_history_tells_when_and_that(store: ScriptedStore) -> None:
    """Given a key that has expired, when its history is asked for, then it tells when it was to, and that it did."""
    clock = Clock()
    engine = engine_on(store, clock)
    await one(engine, save("k", 1, ttl_seconds=TTL))
    expires = clock.millis + TTL * 1000
    clock.millis = expires + 5
    await one(engine, read("k"))
    told, _ = await engine.history("k")
    assert [(entry.type, entry.time, entry.expires) for entry in told] == [
        ("saved", expires - TTL * 1000, expires),
        ("expired", expires, None),
    ]
    assert ["value" in entry.model_fields_set for entry in told] == [True, False]


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "not yet recorded"])
async def test_the_state_at_a_time_goes_by_the_clock(store: ScriptedStore, recorded: bool) -> None:
    """Given a value that has expired, when the past is read, then it was there until its time, and not from then on.

    What a version made it made, whatever became of it.
    """
    clock = Clock()
    engine = engine_on(store, clock)
    await one(engine, save("k", 1, ttl_seconds=TTL))
    expires = clock.millis + TTL * 1000
    clock.millis = expires + 5
    if recorded:
        await one(engine, read("k"))
    there = [
        await read_past(store, read("k", at_time=time), engine.purges) for time in (expires - 1, expires, expires + 5)
    ]
    assert [answer["exists"] for answer in there] == [True, False, False]
    assert there[0]["expires"] == expires
    assert brief(await read_past(store, read("k", at_version=1), engine.purges)) == "ok v1"


async def test_lists_of_keys_go_by_the_clock(store: ScriptedStore) -> None:
    """Given keys of which some have expired, and the log does not say so, when they are listed, then those are not."""
    clock = Clock()
    engine = engine_on(store, clock)
    await apply(engine, save("goes", 1, ttl_seconds=TTL), save("later", 1, ttl_seconds=2 * TTL), save("stays", 1))
    later = clock.millis + 2 * TTL * 1000
    clock.millis += TTL * 1000
    page = await list_keys(store, EVERYTHING, after=None, limit=10, now=clock.millis)
    assert [(entry["key"], entry.get("expires")) for entry in page["keys"]] == [("later", later), ("stays", None)]
    assert (await list_keys(store, EVERYTHING, after=None, limit=10, now=clock.millis, count_only=True))["count"] == 2


@pytest.mark.parametrize("late", [True, False], ids=["expired", "not yet expired"])
async def test_a_purge_of_what_expires(store: ScriptedStore, late: bool) -> None:
    """Given a value with a time, when its key is purged, then nothing of it is left, and nothing expires any more."""
    clock = Clock()
    engine = engine_on(store, clock)
    await one(engine, save("k", "secret", ttl_seconds=TTL))
    await one(engine, increment("n", 7, ttl_seconds=TTL))
    clock.millis += TTL * 1000 - (0 if late else 1)
    answer = await one(engine, purge("k"))
    await one(engine, purge("n"))
    assert (answer["exists"], answer["changed"], answer["version"]) == (False, True, 3 if late else 2)
    # As those do who have it in hand.
    assert await store.inner.strip([("k", 1, 1), ("n", 1, 1)]) == 2
    clock.millis += TTL * 1000
    assert (await store.inner.expired(until=clock.millis)).keys == []
    assert brief(await one(engine, read("k"))) == "absent"
    kinds = [event.type for event in await store.inner.history("k")]
    assert kinds == (["saved", "expired", "purged"] if late else ["saved", "purged"])
    stubs = [(await store.inner.history(key))[0] for key in ("k", "n")]
    # When it expired is no secret; what it came of may be guessed from the mark.
    assert [(stub.value, stub.patch, stub.expires is None) for stub in stubs] == [(None, None, False)] * 2
    assert (await verify(store.inner, "default")).faults == []


async def test_what_is_restored_stays_unless_it_is_given_a_time(store: ScriptedStore) -> None:
    """Given an expired value, when it is restored, then it stays; with a time of its own it goes again."""
    clock = Clock()
    engine = engine_on(store, clock)
    await apply(engine, save("k", 1, ttl_seconds=TTL), save("t", 1, ttl_seconds=TTL))
    clock.millis += TTL * 1000
    stays, goes = await apply(engine, restore("k", 1), restore("t", 1, ttl_seconds=TTL, id="r"))
    assert ("expires" in stays, goes["expires"]) == (False, clock.millis + TTL * 1000)
    assert brief(await one(engine, restore("t", 1, ttl_seconds=TTL + 1, id="r"))) == "invalid id_reused"
    clock.millis += TTL * 1000
    assert [brief(answer) for answer in await apply(engine, read("k"), read("t"))] == ["ok v3", "absent"]
    assert (await verify(store.inner, "default")).faults == []


async def test_a_patch_is_never_applied_to_a_stub(store: ScriptedStore) -> None:
    """Given a worker that is behind, when the version it knows has been erased meanwhile, then it looks again."""
    engine = engine_on(store, state_bytes=0)
    await one(engine, save("k", 1))
    await one(engine_on(store.inner), save("k", 5))
    await store.inner.strip([("k", 1, 1)])
    made = request(increment("k", 2, return_value=True))
    batch = Batch.of([made])
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    await engine.apply(batch)
    (event,) = await store.inner.history("k", after_version=2)
    assert (event.value, event.version) == (7, 3)


async def test_a_restore_is_refused_on_what_is_known_for_sure(store: ScriptedStore) -> None:
    """Given that what is to be restored is erased while another key is looked at, then its own key is looked at too.

    Else it would be refused, for good, by what this worker knew of the key before.
    """
    engine = engine_on(store)
    await apply(engine, save("a", 1), save("b", 1))

    async def another() -> None:
        await apply(engine_on(store.inner), purge("a"), first("a", 2))
        await store.inner.strip([("a", 1, 1)])

    refused, restored = request(first("b", 2)), request(restore("a", 1))
    # The restore looks for its source behind a fence, too.
    store.script("fence", lambda proceed, _: proceed(), meanwhile(another))
    await apply(engine, refused, restored)
    assert restored.answer is not None
    assert (brief(restored.answer), restored.answer["version"]) == ("conflict stripped", 3)
    assert isinstance((await store.inner.history("a"))[-1], Event)


async def test_patches_say_what_they_belong_to(store: ScriptedStore) -> None:
    """Given a patch with the ids of what it belongs to and what led to it, then its event keeps them."""
    engine = engine_on(store)
    await one(engine, increment("k", correlation_id="c", causation_id="d"))
    (event,) = await store.inner.history("k")
    assert (event.correlation_id, event.causation_id) == ("c", "d")
