"""What expires is absent from its time on, for everybody and for good, and the log says so before anybody is told."""

from typing import Any

import pytest
from support.commands import Answer, apply, brief, delete, first, increment, one, patch, read, request, save
from support.engines import Clock, another_worker, engine_on
from support.scripted import InFlight, ScriptedStore, lost_after, lost_before, meanwhile

from holdfast.events import Event, ReadCommand, Refusal, StoreUnavailable, make_etag
from holdfast.stores import Head
from holdfast.worker import Batch, Engine, Request
from holdfast.worker.lapse import lapse

TTL = 60


async def expiring(store: ScriptedStore, clock: Clock, key: str = "k") -> Engine:
    """An engine that has saved a key for a minute."""
    engine = engine_on(store, clock)
    answer = await one(engine, save(key, "short", id=f"short-{key}", ttl_seconds=TTL))
    assert answer["expires"] == clock.millis + TTL * 1000
    return engine


async def kinds(store: ScriptedStore, key: str = "k") -> list[str]:
    return [record.type for record in await store.log() if record.key == key]


def sweep(key: str) -> Request:
    return Request(ReadCommand(op="read", id="sweep", key=key), sweep=True)


#: What is asked of a key that has just expired, and what is then told and put into the log.
CASES: dict[str, tuple[Any, str | None, list[str]]] = {
    "read": (lambda _: read("k"), "absent", ["saved", "expired"]),
    "save": (lambda _: save("k", 1), "ok v3", ["saved", "expired", "saved"]),
    "first-write": (lambda _: first("k", 1), "ok v3", ["saved", "expired", "saved"]),
    "save with its etag": (lambda etag: save("k", 1, etag=etag), "conflict absent", ["saved", "expired"]),
    "save after version 1": (lambda _: save("k", 1, max_version=1), "conflict newer", ["saved", "expired"]),
    "delete": (lambda _: delete("k"), "unchanged", ["saved", "expired", "refused"]),
    "delete with its etag": (lambda etag: delete("k", etag=etag), "conflict absent", ["saved", "expired"]),
    "merge": (lambda _: patch("k", "merge", {"a": 1}), "ok v3", ["saved", "expired", "saved"]),
    "increment": (lambda _: increment("k"), "ok v3", ["saved", "expired", "saved"]),
    "json-patch": (lambda _: patch("k", "json-patch", []), "conflict absent", ["saved", "expired", "refused"]),
    "merge with its etag": (lambda etag: patch("k", "merge", 1, etag=etag), "conflict absent", ["saved", "expired"]),
    "sweep": (lambda _: sweep("k"), None, ["saved", "expired"]),
}


@pytest.mark.parametrize("remembers", [True, False], ids=["remembered", "looked up"])
@pytest.mark.parametrize("case", CASES)
async def test_what_meets_an_expired_key(case: str, remembers: bool) -> None:
    """Given a key whose time has come, when anything is asked of it, then it is absent, and the log says so first."""
    make, told, log = CASES[case]
    store, clock = await ScriptedStore.opened(), Clock()
    engine = await expiring(store, clock)
    expires = clock.millis + TTL * 1000
    clock.millis = expires
    if not remembers:
        engine = engine_on(store, clock)
    etag = make_etag(1, "short-k")
    store.asked.clear()
    answer = await one(engine, make(etag))
    if told is None:
        assert answer == {"status": "ok"}
    else:
        assert brief(answer) == told
    assert await kinds(store) == log
    # In one insert with whatever follows from it.
    assert len(store.asked) == 1
    event = (await store.log())[1]
    assert isinstance(event, Event)
    assert (event.version, event.time, event.author, event.exists) == (2, expires, None, False)
    assert brief(await one(engine, read("k"))) == ("absent" if "saved" not in log[1:] else "ok v3")


@pytest.mark.parametrize("remembers", [True, False], ids=["remembered", "looked up"])
@pytest.mark.parametrize("case", [case for case in CASES if case not in ("sweep", "json-patch")])
async def test_until_then_it_is_there(case: str, remembers: bool) -> None:
    """Given a key a millisecond before its time, when anything is asked of it, then it is there."""
    store, clock = await ScriptedStore.opened(), Clock()
    engine = await expiring(store, clock)
    clock.millis += TTL * 1000 - 1
    if not remembers:
        engine = engine_on(store, clock)
    answer = await one(engine, CASES[case][0](make_etag(1, "short-k")))
    assert "expired" not in await kinds(store)
    assert brief(answer) not in ("absent", "conflict absent", "unchanged", "ok v3")


async def test_an_eventual_read_of_what_has_expired_is_absent_and_leaves_nothing_behind() -> None:
    """Given a key whose time has come, when it is read eventually, then it is absent, and the log is as before."""
    store, clock = await ScriptedStore.opened(), Clock()
    engine = await expiring(store, clock)
    clock.millis += TTL * 1000
    for reader in (engine, engine_on(store, clock)):
        answer = await one(reader, read("k", consistency="eventual"))
        assert (answer["exists"], answer["etag"], answer["version"], "value" in answer) == (False, None, 1, False)
    assert await kinds(store) == ["saved"]


async def test_reads_and_history_tell_when() -> None:
    """Given a key that expires, when it is read, then with its time; without one, there is none to be told."""
    store, clock = await ScriptedStore.opened(), Clock()
    engine = await expiring(store, clock)
    for reader in (engine, engine_on(store, clock)):
        for consistency in ("strong", "eventual"):
            answer = await one(reader, read("k", consistency=consistency))
            assert answer["expires"] == clock.millis + TTL * 1000
    entries, _ = await engine.history("k", after_version=0, limit=10)
    assert [entry.expires for entry in entries] == [clock.millis + TTL * 1000]
    assert "expires" not in await one(engine, save("k", 2))
    assert "expires" not in await one(engine, read("k"))


async def test_a_save_without_it_lets_the_value_stay() -> None:
    """Given a key that expires, when it is saved without a time, then it is there after that time."""
    store, clock = await ScriptedStore.opened(), Clock()
    engine = await expiring(store, clock)
    await one(engine, save("k", "stays"))
    clock.millis += 10 * TTL * 1000
    assert (await one(engine_on(store, clock), read("k")))["value"] == "stays"
    assert await kinds(store) == ["saved", "saved"]


async def test_a_patch_leaves_it_or_sets_it() -> None:
    """Given a key that expires, when it is patched, then it still does, unless the patch gives another time."""
    store, clock = await ScriptedStore.opened(), Clock()
    engine = engine_on(store, clock)
    first_answer = await one(engine, increment("k", ttl_seconds=10))
    clock.millis += 5000
    second = await one(engine, increment("k"))
    third = await one(engine, increment("k", ttl_seconds=10))
    assert first_answer["expires"] == second["expires"] == third["expires"] - 5000
    clock.millis += 10_000
    assert (await one(engine, increment("k", return_value=True)))["value"] == 1
    assert "expires" not in await one(engine, read("k"))


async def test_a_repeat_is_told_what_the_first_was_told() -> None:
    """Given a save that has expired, when it comes again under its id, then it is told the same, and stays expired."""
    store, clock = await ScriptedStore.opened(), Clock()
    engine = engine_on(store, clock)
    command = save("k", 1, ttl_seconds=1)
    told = await one(engine, command)
    clock.millis += 1000
    assert brief(await one(engine, read("k"))) == "absent"
    assert await one(engine_on(store, clock), request(command, redelivered=True)) == told
    assert await one(engine_on(store, clock), command) == told
    assert brief(await one(engine, save("k", 1, id=command.id, ttl_seconds=2))) == "invalid id_reused"
    assert await kinds(store) == ["saved", "expired"]


async def test_a_batch_in_which_a_key_expires() -> None:
    """Given commands on an expired key in one batch, when it is applied, then it expires once, in front of them all."""
    store, clock = await ScriptedStore.opened(), Clock()
    engine = await expiring(store, clock)
    clock.millis += TTL * 1000
    commands: list[Any] = [
        read("k"),
        read("k"),
        delete("k"),
        first("k", 1, ttl_seconds=1),
        first("k", 2),
        read("k"),
        sweep("k"),
    ]
    answers: list[Answer] = await apply(engine, *commands)
    assert [brief(answer) for answer in answers[:-1]] == [
        "absent", "absent", "unchanged", "ok v3", "conflict exists", "ok v3",
    ]  # fmt: skip
    assert await kinds(store) == ["saved", "expired", "refused", "saved", "refused"]


async def test_two_workers_whose_clocks_differ_agree() -> None:
    """Given a worker whose clock is behind, when another one has told that a key is absent, then so does the first."""
    store, ahead, behind = await ScriptedStore.opened(), Clock(), Clock()
    engine = await expiring(store, behind)
    ahead.millis += TTL * 1000
    assert brief(await one(engine_on(store, ahead), read("k"))) == "absent"
    etag = make_etag(1, "short-k")
    assert brief(await one(engine, save("k", "stale", etag=etag))) == "conflict absent"
    assert brief(await one(engine, read("k"))) == "absent"
    assert brief(await one(engine, first("k", "new"))) == "ok v3"
    times = [record.time for record in await store.log() if isinstance(record, Event)]
    assert times == sorted(times)


@pytest.mark.parametrize(
    "command", [read("k"), save("k", "new"), first("k", "new"), sweep("k")], ids=["read", "save", "first", "sweep"]
)
async def test_another_worker_was_quicker(command: Any) -> None:
    """Given a key that is written on by another worker, when this one takes it for expired, then it finds out."""
    store, clock = await ScriptedStore.opened(), Clock()
    engine = await expiring(store, clock)
    store.script("append", meanwhile(another_worker(store, save("k", "rescued"))))
    clock.millis += TTL * 1000
    made = command if isinstance(command, Request) else request(command.model_copy(update={"id": f"x-{command.op}"}))
    await one(engine, Request(made.command, digest=made.digest, sweep=made.sweep))
    assert "expired" not in await kinds(store)
    assert (await one(engine_on(store, clock), read("k")))["exists"]


@pytest.mark.parametrize("fault", [lost_before, lost_after])
async def test_it_expires_once_whatever_becomes_of_the_append(fault: Any) -> None:
    """Given an append that is lost on its way, or its answer, when it is tried again, then there is one event."""
    store, clock = await ScriptedStore.opened(), Clock()
    engine = await expiring(store, clock)
    clock.millis += TTL * 1000
    store.script("append", fault)
    command = request(save("k", "new"))
    batch = Batch.of([request(read("k")), command])
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    await engine.apply(batch)
    assert await kinds(store) == ["saved", "expired", "saved"]
    assert brief(command.answer or {}) == "ok v3"


async def test_an_expiry_that_hangs_and_lands_late() -> None:
    """Given an append of an expiry that hangs, when the key expires by another one, then the late one does nothing."""
    store, clock = await ScriptedStore.opened(), Clock()
    engine = await expiring(store, clock)
    clock.millis += TTL * 1000
    hanging = InFlight()
    store.script("append", hanging)
    batch = Batch.of([request(read("k"))])
    with pytest.raises(StoreUnavailable):
        await engine.apply(batch)
    assert brief(await one(engine_on(store, clock), save("k", "new"))) == "ok v3"
    await hanging.land()
    await engine.apply(batch)
    assert await kinds(store) == ["saved", "expired", "saved"]
    assert brief(await one(engine, read("k"))) == "ok v3"


async def test_a_stale_look_does_not_hold_up_a_read_for_ever() -> None:
    """Given a deposed primary that has not seen the key, when it has expired, then a read still ends, as absent."""
    store, clock = await ScriptedStore.opened(), Clock()
    await store.fall_behind()
    await expiring(store, clock)
    clock.millis += TTL * 1000
    assert brief(await one(engine_on(store, clock), read("k"))) == "absent"
    assert await kinds(store) == ["saved", "expired"]


async def test_a_refusal_on_an_expired_key_rests_on_the_event() -> None:
    """Given a recorded refusal on an expired key, when it is in the log, then behind the event that it rests on."""
    store, clock = await ScriptedStore.opened(), Clock()
    engine = await expiring(store, clock)
    clock.millis += TTL * 1000
    store.calls.clear()
    await one(engine, delete("k"))
    expired, refusal = (await store.log())[1:]
    assert isinstance(expired, Event)
    assert isinstance(refusal, Refusal)
    assert refusal.answer["version"] == expired.version == 2
    # Nothing had to be looked up for it.
    assert store.calls["heads"] == store.calls["fence"] == 0


def test_only_what_expires_can() -> None:
    """Given a key that stays, when it is to expire, then that is a mistake."""
    with pytest.raises(ValueError, match="does not expire"):
        lapse("k", Head(1, exists=True, id="c", time=0))
