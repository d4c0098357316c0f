"""Places for calls: bounded in number and bytes, given out in the order in which they were asked for."""

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.loops import leaping, settle

from holdfast.client.places import AHEAD, Places


class Caller:
    """A call that takes a place, holds bytes, and frees it when it is told to."""

    def __init__(self, places: Places, size: int, started: list["Caller"]) -> None:
        self.size = size
        self.may_end = asyncio.Event()
        self.task = asyncio.create_task(self._run(places, started))

    async def _run(self, places: Places, started: list["Caller"]) -> None:
        await places.take()
        started.append(self)
        places.hold(self.size)
        try:
            await self.may_end.wait()
        finally:
            places.free(self.size)


async def gone(*callers: Caller) -> None:
    for caller in callers:
        caller.task.cancel()
    await asyncio.gather(*(caller.task for caller in callers), return_exceptions=True)


@leaping
async def test_places_are_bounded_and_given_in_order() -> None:
    """Of ten callers three get a place at once, and each that ends lets the one in that has waited longest."""
    places = Places(3, 1000)
    started: list[Caller] = []
    callers = [Caller(places, 1, started) for _ in range(10)]
    await settle()
    assert started == callers[:3]

    for number in (1, 0, 2):
        callers[number].may_end.set()
        await settle()

    assert started == callers[:6]
    assert not places.take_at_once()
    await gone(*callers)


@leaping
async def test_who_comes_later_does_not_overtake() -> None:
    """A place that is free is not taken at once while somebody waits, however little he needs."""
    places = Places(5, 10)
    started: list[Caller] = []
    large = Caller(places, 10, started)
    await settle()
    waiting = Caller(places, 1, started)
    await settle()
    assert started == [large]
    assert not places.take_at_once()

    large.may_end.set()
    await settle()
    assert started == [large, waiting]
    assert places.take_at_once()
    places.free(None)
    await gone(large, waiting)


@leaping
async def test_bytes_are_bounded_but_for_the_last_ones() -> None:
    """When the bytes are used up, nobody gets a place until some are free again."""
    places = Places(100, 10)
    started: list[Caller] = []
    callers = [Caller(places, 6, started) for _ in range(5)]
    await settle()
    first = len(started)
    assert sum(caller.size for caller in started) <= 10 + AHEAD * 6

    more = [Caller(places, 6, started) for _ in range(5)]
    await settle()
    assert len(started) == first

    for caller in callers:
        caller.may_end.set()
    await settle()
    assert set(started) >= {*callers, *more[:2]}
    await gone(*callers, *more)


@leaping
async def test_many_large_ones_at_once_do_not_all_slip_in() -> None:
    """Places whose sizes are not known yet are few, so that what goes beyond the bytes is bounded."""
    places = Places(10_000, 1)
    started: list[Caller] = []
    callers = [Caller(places, 100, started) for _ in range(1000)]
    await settle(100)
    assert len(started) <= AHEAD
    for number in itertools.count():
        if len(started) == len(callers):
            break
        started[number].may_end.set()
        await settle()
    assert started == callers
    await gone(*callers)


@leaping
async def test_a_cancelled_caller_leaves_its_place_to_the_next() -> None:
    """Cancelled while it waits, and cancelled in the moment in which it gets its place: the next one has it."""
    places = Places(1, 1000)
    assert places.take_at_once()
    impatient, unlucky, last = (asyncio.create_task(places.take()) for _ in range(3))
    await settle()
    impatient.cancel()
    await settle()

    places.free(None)
    unlucky.cancel()
    await settle()

    assert (impatient.cancelled(), unlucky.cancelled()) == (True, True)
    assert last.done()
    await last
    places.free(None)
    assert places.take_at_once()


@given(
    st.integers(1, 5),
    st.integers(1, 30),
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["end", "cancel", "wait"]), st.integers(0, 5))),
)
def test_nothing_is_lost_whatever_happens(calls: int, size: int, story: list[tuple[int, str, int]]) -> None:
    """Callers of any size that come, end and are cancelled in any order: in the end all places and bytes are there."""

    async def run() -> None:
        places = Places(calls, size)
        started: list[Caller] = []
        callers: list[Caller] = []
        for bytes_, what, which in story:
            callers.append(Caller(places, bytes_, started))
            if what != "wait":
                await asyncio.sleep(0)
            target = callers[-1 - which % len(callers)]
            if what == "end":
                target.may_end.set()
            elif what == "cancel":
                target.task.cancel()
            running = [caller for caller in started if not caller.task.done()]
            assert len(running) <= calls + len(callers)
        await gone(*callers)
        assert (places._calls, places._size, places._unknown) == (calls, size, 0)

    asyncio.run(run())


def test_order_is_kept_among_thousands() -> None:
    """Ten thousand callers for a hundred places get them strictly in turn."""

    async def run() -> list[Any]:
        places = Places(100, 10**9)
        order: list[int] = []

        async def call(number: int) -> None:
            await places.take()
            order.append(number)
            places.hold(1)
            await asyncio.sleep(0)
            places.free(1)

        await asyncio.gather(*map(call, range(10_000)))
        return order

    assert asyncio.run(run()) == list(range(10_000))


@pytest.mark.parametrize("held", [True, False])
def test_a_place_can_be_freed_with_or_without_having_been_held(held: bool) -> None:
    """A command that could not be encoded never held any bytes; its place is free again all the same."""
    places = Places(1, 10)
    for _ in range(3):
        assert places.take_at_once()
        assert not places.take_at_once()
        if held:
            places.hold(10)
        places.free(10 if held else None)
