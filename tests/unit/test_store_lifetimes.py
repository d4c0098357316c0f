"""A lifetime for all of a store: what is written without one of its own gets it, once, and what says otherwise not."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.commands import (
    Answer,
    apply,
    brief,
    first,
    increment,
    one,
    patch,
    read,
    request,
    restore,
    save,
    sets,
    transact,
)
from support.engines import Clock, engine_on
from support.logs import KEYS, events_of, write_log
from support.scripted import ScriptedStore, lost_after

from holdfast.events import Event, StoreUnavailable
from holdfast.events.limits import FOREVER, MAX_TTL_SECONDS
from holdfast.settings import load_settings
from holdfast.stores import MemoryStore, StoreConfig
from holdfast.testing import MemoryService
from holdfast.verify import verify
from holdfast.worker import Batch, Worker

#: Seconds of the store's lifetime.
STORE = 60


@pytest.fixture
async def store() -> ScriptedStore:
    return await ScriptedStore.opened()


def left(answer: Answer) -> float | None:
    """Seconds from the answer's event on; None if the value stays."""
    return (answer["expires"] - answer["updated_at"]) / 1000 if "expires" in answer else None


#: What is asked of an absent key.
CREATES: dict[str, Any] = {
    "save": lambda **ttl: save("k", 1, **ttl),
    "first-write": lambda **ttl: first("k", 1, **ttl),
    "merge": lambda **ttl: patch("k", "merge", {"a": 1}, **ttl),
    "increment": lambda **ttl: increment("k", **ttl),
    "transaction": lambda **ttl: transact(sets("k", 1, **ttl), sets("l", 1)),
}


async def outcome(store: ScriptedStore, clock: Clock, command: Any, lifetime: int | None) -> Answer:
    """The answer to a command, or to the first operation of a transaction."""
    answer = await one(engine_on(store, clock, lifetime=lifetime), command)
    return answer["results"][0] if "results" in answer else answer


@pytest.mark.parametrize("create", CREATES)
@pytest.mark.parametrize(
    ("own", "lifetime", "lives"),
    [(None, STORE, STORE), (5, STORE, 5), (600, STORE, 600), (FOREVER, STORE, None), (FOREVER, None, None)],
)
async def test_what_says_nothing_lives_as_long_as_the_store_says(
    store: ScriptedStore, create: str, own: int | None, lifetime: int | None, lives: int | None
) -> None:
    """Given a store with a lifetime, when a key begins, then it has that one, unless the command says another."""
    clock = Clock()
    command = CREATES[create](**({} if own is None else {"ttl_seconds": own}))
    assert left(await outcome(store, clock, command, lifetime)) == lives
    clock.millis += STORE * 1000
    there = (await one(engine_on(store, clock), read("k")))["exists"]
    assert there is (lives is None or lives > STORE)


async def test_each_save_begins_anew(store: ScriptedStore) -> None:
    """Given a store with a lifetime, when a key is saved or restored again, then it has all of that time again."""
    clock = Clock()
    engine = engine_on(store, clock, lifetime=STORE)
    assert left(await one(engine, save("k", 1, ttl_seconds=5))) == 5
    for command in (save("k", 2), restore("k", 1), save("k", 2, etag=None), restore("k", 2)):
        clock.millis += 4000
        assert left(await one(engine, command)) == STORE
    assert left(await one(engine, restore("k", 1, ttl_seconds=5))) == 5
    assert left(await one(engine, restore("k", 1, ttl_seconds=FOREVER))) is None
    clock.millis += 2 * STORE * 1000
    assert brief(await one(engine, read("k"))) == "ok v7"


async def test_a_patch_leaves_it_as_it_is(store: ScriptedStore) -> None:
    """Given keys that expire, and one that stays, when they are patched, then so they do, unless the patch says it."""
    clock = Clock()
    engine = engine_on(store, clock, lifetime=STORE)
    began = clock.millis
    await apply(engine, save("store's", 1), save("own", 1, ttl_seconds=300), save("stays", 1, ttl_seconds=FOREVER))
    clock.millis += 10_000
    by_key = {key: await one(engine, increment(key)) for key in ("store's", "own", "stays")}
    assert {key: answer.get("expires", began) - began for key, answer in by_key.items()} == {
        "store's": STORE * 1000,
        "own": 300_000,
        "stays": 0,
    }
    for key in by_key:
        assert left(await one(engine, increment(key, ttl_seconds=FOREVER))) is None
        assert left(await one(engine, increment(key))) is None
        assert left(await one(engine, increment(key, ttl_seconds=5))) == 5
    # Then they are absent, and what comes of a patch is a new value.
    clock.millis += 5000
    answers = [await one(engine, increment(key, return_value=True)) for key in by_key]
    assert [(answer["value"], left(answer)) for answer in answers] == [(1, STORE)] * 3


@pytest.mark.parametrize("create", CREATES)
@pytest.mark.parametrize(("before", "after"), [(STORE, None), (STORE, 5), (None, STORE)])
async def test_a_repeat_is_told_what_the_first_was_told(
    store: ScriptedStore, create: str, before: int | None, after: int | None
) -> None:
    """Given workers of another lifetime, when a command comes to them again, then its answer is the first one's."""
    clock = Clock()
    command = CREATES[create]()
    told = await outcome(store, clock, command, before)
    clock.millis += 1000
    assert left(told) == before
    assert await outcome(store, clock, request(command, redelivered=True), after) == told
    assert await outcome(store, clock, command, after) == told
    events = [record for record in await store.log() if isinstance(record, Event) and record.key == "k"]
    assert [event.expires for event in events] == [told.get("expires")]


async def test_an_append_whose_answer_is_lost_gives_one_lifetime(store: ScriptedStore) -> None:
    """Given an append that lands, and its answer is lost, when it is tried later, then the time is the first one's."""
    clock = Clock()
    engine = engine_on(store, clock, lifetime=STORE)
    expires = clock.millis + STORE * 1000
    store.script("append", lost_after)
    command = request(save("k", 1))
    batch = Batch.of([command])
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    clock.millis += 7000
    await engine.apply(batch)
    assert command.answer is not None
    assert command.answer["expires"] == expires


async def test_for_ever_and_unsaid_are_two_commands(store: ScriptedStore) -> None:
    """Given a save that said nothing, when its id comes with "for ever", then that is another command, and the same
    in a store without a lifetime.
    """
    for key, lifetime in (("k", STORE), ("l", None)):
        engine = engine_on(store, lifetime=lifetime)
        command = save(key, 1)
        await one(engine, command)
        other = save(key, 1, id=command.id, ttl_seconds=FOREVER)
        assert brief(await one(engine, other)) == "invalid id_reused"


async def test_such_a_log_is_sound() -> None:
    """Given logs of stores with and without a lifetime, one of which begins where the other ends, when they are
    verified, then they are sound: what a command did not say is no part of what it is told by.
    """
    store = MemoryStore()
    await store.open()
    for seed, lifetime in enumerate((None, 45, 7200, None)):
        await write_log(store, commands=150, seed=seed, lifetime=lifetime)
    report = await verify(store, "default")
    assert report.faults == []
    assert report.keys == len(KEYS)
    lives = {event.expires - event.time for event in await events_of(store) if event.expires is not None}
    assert {45_000, 7_200_000} <= lives


async def test_a_changed_time_is_found() -> None:
    """Given a log in which a time that a command has said is another one, when it is verified, then that is told."""
    store = MemoryStore()
    await store.open()
    await one(engine_on(store, lifetime=STORE), save("k", 1, ttl_seconds=30))
    (event,) = await events_of(store)
    changed = MemoryStore()
    await changed.open()
    assert event.expires is not None
    await changed.append([event.model_copy(update={"expires": event.expires + 1000})])
    assert [fault.rule for fault in (await verify(changed, "default")).faults] == ["digest"]


async def test_the_service_tells_it() -> None:
    """Given a service of which one store has a lifetime, when it describes itself, then it tells so."""
    with MemoryService(stores=("default", "sessions", "stays"), ttl={"sessions": STORE, "stays": "forever"}) as service:
        async with service.connect() as client:
            assert (await client.describe()).ttl_seconds == {"sessions": STORE}


def test_a_lifetime_is_of_a_store_that_is_there() -> None:
    """Given a lifetime for a store that the service has not, when it is made, then that is an error."""
    with pytest.raises(ValueError, match="a ttl for 'session', which is no store"):
        MemoryService(stores=("sessions",), ttl={"session": STORE})


def test_a_store_can_have_a_lifetime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a file with a lifetime for one of two stores, then the worker has it for that one."""
    file = tmp_path / "holdfast.toml"
    file.write_text('[stores.default]\ntype = "memory"\n[stores.sessions]\ntype = "memory"\nttl_seconds = 1800\n')
    monkeypatch.setenv("HOLDFAST_CONFIG_FILE", str(file))
    settings = load_settings()
    assert settings.worker_options().lifetimes == {"sessions": 1800}
    assert Worker(settings.worker_options(), settings.stores())


@pytest.mark.parametrize("seconds", [0, -1, MAX_TTL_SECONDS + 1, 1.5, 60.0, "60", True, float("inf")])
def test_no_lifetimes(seconds: Any) -> None:
    """Given what is no number of seconds that a value can live, when a table has it, then it is refused."""
    with pytest.raises(ValidationError, match="ttl_seconds"):
        StoreConfig(type="memory", ttl_seconds=seconds)
