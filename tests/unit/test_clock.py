"""Service time follows the database's clock, whatever the worker's own clock says."""

import asyncio

import pytest
from support.engines import Clock
from support.scripted import Proceed, ScriptedStore, Step, away, raising

from holdfast.events import StoreError, StoreUnavailable
from holdfast.stores import MemoryStore
from holdfast.worker import clock as clock_module
from holdfast.worker.clock import ServiceClock


async def on_time(here: Clock, *, ahead: float = 0.0) -> tuple[ScriptedStore, ServiceClock]:
    """A database whose clock goes with the worker's, so many seconds ahead, and a service clock that measured it."""
    store = ScriptedStore(MemoryStore(clock=lambda: here.millis + round(ahead * 1000)))
    await store.open()
    clock = ServiceClock(store, uptime=here.uptime)
    await clock.measure()
    return store, clock


def slowly(here: Clock, going: float, coming: float) -> Step:
    """A call that is so many seconds under way."""

    async def step(proceed: Proceed, argument: object) -> object:
        here.pass_(going)
        result = await proceed()
        here.pass_(coming)
        return result

    return step


async def test_service_time_is_the_databases() -> None:
    """Given a database whose clock is an hour ahead, when it was measured, then service time is its time."""
    here = Clock()
    _, clock = await on_time(here, ahead=3600)
    assert clock.now() == here.millis + 3_600_000


async def test_service_time_goes_on_between_measurements() -> None:
    """Given a measured clock, when time passes, then it goes on without being measured again."""
    here = Clock()
    store, clock = await on_time(here)
    here.pass_(12.5)
    assert clock.now() == here.millis
    assert store.calls["service_time"] == 1


async def test_no_service_time_before_the_first_measurement() -> None:
    """Given a clock that was never measured, when it is asked, then it says so rather than something wrong."""
    clock = ServiceClock(await ScriptedStore.opened())
    with pytest.raises(RuntimeError, match="not been measured"):
        clock.now()


@pytest.mark.parametrize(("going", "coming", "wrong"), [(0.1, 0.1, 0), (0.3, 0.1, 100), (0.0, 0.4, -200)])
async def test_the_answer_is_taken_to_be_from_the_middle(going: float, coming: float, wrong: int) -> None:
    """Given a round trip, when its two ways differ, then service time is wrong by half the difference at most."""
    here = Clock()
    store, clock = await on_time(here)
    store.script("service_time", slowly(here, going, coming))
    await clock.measure()
    assert clock.now() - here.millis == pytest.approx(wrong, abs=1)


async def test_a_slow_answer_does_not_spoil_the_clock() -> None:
    """Given a measured clock, when an answer comes after four seconds, then the last measurement is the better one."""
    here = Clock()
    store, clock = await on_time(here)
    store.script("service_time", slowly(here, 0.0, 4.0))
    await clock.measure()
    assert clock.now() == here.millis


async def test_a_slow_answer_is_better_than_none() -> None:
    """Given a clock that was never measured, when the first answer is slow, then it is taken."""
    here = Clock()
    store = ScriptedStore(MemoryStore(clock=lambda: here.millis))
    await store.open()
    store.script("service_time", slowly(here, 2.0, 2.0))
    clock = ServiceClock(store, uptime=here.uptime)
    await clock.measure()
    assert clock.now() == here.millis


async def test_it_measures_on_whatever_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a database that is away and then refuses, when it is back, then the clock is measured again."""
    here = Clock()
    store, clock = await on_time(here)
    monkeypatch.setattr(clock_module, "INTERVAL", 0)
    back = asyncio.Event()

    async def answers(proceed: Proceed, argument: object) -> object:
        back.set()
        return await proceed()

    store.script("service_time", away, raising(StoreError("scripted: refused for good")), answers)
    running = asyncio.create_task(clock.run())
    try:
        async with asyncio.timeout(10):
            await back.wait()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()


async def test_a_measurement_that_fails_says_so() -> None:
    """Given a database that is away, when a measurement is asked for, then it fails, and the clock goes on."""
    here = Clock()
    store, clock = await on_time(here)
    store.script("service_time", away)
    with pytest.raises(StoreUnavailable):
        await clock.measure()
    here.pass_(1)
    assert clock.now() == here.millis
