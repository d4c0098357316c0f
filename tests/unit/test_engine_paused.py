"""A worker that was stopped for a while: what it had decided is decided again before it is sent."""

from collections.abc import Awaitable, Callable

import pytest
from support.commands import Operation, brief, delete, one, read, save
from support.engines import Clock, another_worker, engine_on
from support.scripted import ScriptedStore, meanwhile, thereafter

from holdfast.events.limits import FENCE_WINDOW_MS


def pausing(clock: Clock, seconds: float, then: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """The machine sleeps, and the world goes on."""

    async def pause() -> None:
        clock.pass_(seconds)
        await then()

    return pause


@pytest.mark.parametrize("asleep", ["before the answer", "after the answer"])
async def test_a_decision_older_than_a_minute_is_made_again(asleep: str) -> None:
    """A worker looks at a key and is stopped. Others write on, and purge takes what they superseded out of the log.

    When it wakes up, the version that it decided on is free. Appending it would reuse a version; it has to look again.
    """
    store = await ScriptedStore.opened()
    await another_worker(store, save("k", 1))()
    clock = Clock()
    purged = await ScriptedStore.opened()

    async def others() -> None:
        await another_worker(store, save("k", 2), save("k", 3), save("k", 4))()
        # What retention and purge leave after the fence window: the newest event, and nothing before it.
        newest = [record for record in await store.log() if record.id][-1:]
        await purged.inner.append(newest)
        store.inner = purged.inner

    pause = pausing(clock, 61, others)
    store.script("heads", (meanwhile if asleep == "before the answer" else thereafter)(pause))
    answer = await one(engine_on(store, clock), save("k", "late"))
    assert brief(answer) == "ok v5"
    assert await store.versions_of("k") == [4, 5]


async def test_what_is_remembered_for_a_day_is_looked_at_again() -> None:
    """A worker remembers a key and does nothing for days; others write on and purge follows. Then a save comes.

    What it remembers may name a version that is free by now.
    """
    store = await ScriptedStore.opened()
    clock = Clock()
    engine = engine_on(store, clock)
    await one(engine, save("k", 1))
    await another_worker(store, save("k", 2), save("k", 3), save("k", 4))()
    purged = await ScriptedStore.opened()
    await purged.inner.append((await store.log())[-1:])
    store.inner = purged.inner
    clock.pass_(FENCE_WINDOW_MS / 1000)
    assert brief(await one(engine, save("k", "late"))) == "ok v5"


async def test_a_short_pause_costs_nothing() -> None:
    """Given a pause of a few seconds, when the worker goes on, then it does not look a second time."""
    store = await ScriptedStore.opened()
    clock = Clock()

    async def nothing() -> None:
        pass

    store.script("heads", thereafter(pausing(clock, 5, nothing)))
    assert brief(await one(engine_on(store, clock), save("k", 1))) == "ok v1"
    assert store.calls["heads"] == 1


@pytest.mark.parametrize("command", [save, delete])
async def test_commands_from_before_the_fence_window_are_refused(command: Callable[..., Operation]) -> None:
    """Given a command that waited for more than seven days, when it is taken, then it is refused, for good."""
    store = await ScriptedStore.opened()
    clock = Clock()
    engine = engine_on(store, clock)
    await one(engine, save("k", 1))
    old = command("k", sent_at=clock.now() - FENCE_WINDOW_MS - 1)
    assert brief(await one(engine, old)) == "expired too_old"
    young = command("k", sent_at=clock.now() - FENCE_WINDOW_MS)
    assert brief(await one(engine, young)) == "ok v2"


async def test_reads_that_come_too_late_are_told_so_and_leave_no_trace() -> None:
    """Given a read past its deadline, when it is taken, then it is refused, and nothing is recorded of it."""
    store = await ScriptedStore.opened()
    clock = Clock()
    assert brief(await one(engine_on(store, clock), read("k", deadline=clock.now() - 1))) == "expired deadline"
    assert await store.log() == []


async def test_the_times_of_a_key_never_run_backwards() -> None:
    """Given an owner whose clock is behind the one before it, when it writes, then its event is not older."""
    store = await ScriptedStore.opened()
    ahead, behind = Clock(), Clock()
    ahead.pass_(100)
    times = [(await one(engine_on(store, clock), save("k", 1)))["updated_at"] for clock in (ahead, behind)]
    assert times == [ahead.now(), ahead.now()]
