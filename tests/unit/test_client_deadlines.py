"""Deadlines: calls that share a timer are told of each at its own time."""

import asyncio

from support.loops import leaping

from holdfast.client.calls import Call
from holdfast.client.deadlines import Deadlines


class Told:
    """Deadlines, and what they tell: which call, its timeout, and when."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.begin = self.loop.time()
        self.told: list[tuple[str, float, float]] = []
        self.deadlines = Deadlines(self._over)

    def _over(self, call: Call, timeout: float) -> None:
        self.told.append((call.id, timeout, round(self.loop.time() - self.begin, 3)))

    def add(self, name: str, timeout: float) -> Call:
        call = Call(name, "default", "key", b"{}", True, self.loop.create_future())
        self.deadlines.add(call, timeout)
        return call


@leaping
async def test_each_is_told_of_at_its_own_time() -> None:
    """Given calls of two timeouts, begun one after another, then each has the whole of its own."""
    one = Told()
    one.add("a", 10)
    one.add("b", 3)
    await asyncio.sleep(1)
    one.add("c", 10)
    one.add("d", 3)
    await asyncio.sleep(20)
    assert one.told == [("b", 3, 3.0), ("d", 3, 4.0), ("a", 10, 10.0), ("c", 10, 11.0)]


@leaping
async def test_what_is_dropped_is_not_told_of_and_holds_up_no_other() -> None:
    """Given calls of one timeout, when the first and a later one are dropped, then the others keep their times."""
    one = Told()
    first = one.add("a", 5)
    await asyncio.sleep(1)
    one.add("b", 5)
    await asyncio.sleep(1)
    later = one.add("c", 5)
    one.add("d", 5)
    for call in (first, later, later):
        one.deadlines.drop(call)
    await asyncio.sleep(10)
    assert one.told == [("b", 5, 6.0), ("d", 5, 7.0)]


@leaping
async def test_a_timeout_is_used_again_after_all_of_its_calls_have_gone() -> None:
    """Given a timer that was begun for a call which has gone, then a later call has its own time still."""
    one = Told()
    one.deadlines.drop(one.add("a", 5))
    await asyncio.sleep(3)
    one.add("b", 5)
    await asyncio.sleep(10)
    one.add("c", 5)
    await asyncio.sleep(10)
    assert one.told == [("b", 5, 8.0), ("c", 5, 18.0)]


@leaping
async def test_many_timeouts_leave_few_timers_behind() -> None:
    """Given calls that each have a timeout like no other's, when they have gone, then so have their timers."""
    one = Told()
    for number in range(100):
        one.deadlines.drop(one.add(str(number), 30 + number / 100))
    assert len(one.deadlines._lines) < 10
    one.add("last", 5)
    one.deadlines.close()
    await asyncio.sleep(100)
    assert one.told == []
