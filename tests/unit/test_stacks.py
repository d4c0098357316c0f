"""Where tasks are, as a worker tells it."""

import asyncio

from holdfast.worker.stacks import waits


async def inner(event: asyncio.Event) -> None:
    await event.wait()


async def outer(event: asyncio.Event) -> None:
    await inner(event)


async def test_a_task_is_told_from_the_innermost_place_outwards() -> None:
    event = asyncio.Event()
    task = asyncio.create_task(outer(event))
    await asyncio.sleep(0)
    places = waits(task)
    event.set()
    await task
    assert [place.split(" (")[0] for place in places] == ["Event.wait", "inner", "outer"]
    assert "(test_stacks.py:" in places[1]
    assert waits(task) == []
