"""Calls in flight: how many there may be, and how the others get their places."""

import asyncio

import pytest
from support.loopback import Gate, Loopback, vanished
from support.loops import leaping, settle

from holdfast.client import caller as caller_module
from holdfast.client.places import AHEAD
from holdfast.events import (
    TooLargeError,
    Unavailable,
)
from holdfast.events.limits import MAX_MESSAGE_BYTES


@leaping
async def test_calls_in_flight_are_bounded() -> None:
    """Beyond the bound calls wait for a place, and get it as others end; nothing is sent before."""
    service = Loopback(partitions=1)
    gate = Gate()
    service.script(gate)
    async with service.connect(max_in_flight=2) as client:
        calls = [asyncio.create_task(client.save(f"key-{number}", number)) for number in range(5)]
        await gate.reached.wait()
        await settle()
        assert len(service.commands) == 2

        gate.open()
        await asyncio.gather(*calls)

        assert len(service.commands) == 5
        assert max(len(message.commands) for message in service.messages) == 2


@leaping
async def test_a_call_that_finds_no_place_in_time_was_not_sent() -> None:
    """Waiting for a place takes from the call's timeout; when it is over the call is Unavailable."""
    service = Loopback()
    service.script(vanished)
    async with service.connect(max_in_flight=1) as client:
        stuck = asyncio.create_task(client.save("k", 1, timeout=60))
        await settle()

        with pytest.raises(Unavailable, match="too many calls in flight"):
            await client.save("k", 2, timeout=2)

        assert len(service.commands) == 1
        stuck.cancel()
        await asyncio.gather(stuck, return_exceptions=True)
        assert (await client.save("k", 3)).version == 1


@leaping
async def test_what_a_watch_asks_does_not_wait_in_line() -> None:
    """However many calls wait for a place, a watch goes on; and the places are as many as before afterwards."""
    service = Loopback()
    gate = Gate()
    service.script(gate)
    async with service.connect(max_in_flight=1) as client:
        calls = [asyncio.create_task(client.save("k", number, timeout=60)) for number in range(3)]
        await settle()
        assert await client.feed_mode("default") == "off"
        page = await client.ask({"op": "read", "key": "other"}, "default", "other")
        assert page.exists is False
        assert [call.done() for call in calls] == [False] * 3
        assert [command["op"] for command in service.commands].count("save") == 1

        gate.open()
        await asyncio.gather(*calls)
        blocked = [asyncio.create_task(client.save("k", number)) for number in range(2)]
        service.script(vanished)
        await settle()
        assert [command["op"] for command in service.commands].count("save") == 4
        await asyncio.gather(*blocked)


@leaping
async def test_calls_beyond_the_bound_get_their_places_in_order() -> None:
    """Saves of one key of which only some have a place at a time are applied in the order in which they were made."""
    service = Loopback()
    async with service.connect(max_in_flight=3) as client:
        entries = await asyncio.gather(*(client.save("k", number) for number in range(50)))

        assert [entry.version for entry in entries] == list(range(1, 51))
        assert [event.value async for event in client.iter_history("k")] == list(range(50))


@leaping
async def test_bytes_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large commands wait for one another, too, and those that cannot be sent at all give their room back."""
    monkeypatch.setattr(caller_module, "MAX_IN_FLIGHT_BYTES", 100_000)
    service = Loopback(partitions=1)
    gate = Gate()
    service.script(gate)
    async with service.connect() as client:
        calls = [asyncio.create_task(client.save(f"key-{number}", "x" * 99_000)) for number in range(300)]
        await gate.reached.wait()
        await settle()
        # The first ones get their places before it is known how large they are.
        assert len(service.commands) <= AHEAD + 2
        waiting = asyncio.create_task(client.save("small", 1))
        with pytest.raises(Unavailable, match="too many calls in flight"):
            await client.save("small", 2, timeout=1)

        gate.open()
        await asyncio.gather(*calls)
        assert (await waiting).version == 1
        with pytest.raises(TooLargeError):
            await client.save("k", "x" * MAX_MESSAGE_BYTES)
        await asyncio.gather(*(client.save(f"key-{number}", "x" * 99_000) for number in range(10)))


@leaping
async def test_cancelling_a_caller_frees_its_place_and_nothing_else() -> None:
    """A cancelled call is forgotten; the ones beside it in the same message get their answers."""
    service = Loopback(partitions=1)
    gate = Gate()
    service.script(gate)
    async with service.connect() as client:
        gone, living = asyncio.create_task(client.save("a", 1)), asyncio.create_task(client.save("b", 1))
        await gate.reached.wait()
        gone.cancel()
        gate.open()

        assert (await living).version == 1
        with pytest.raises(asyncio.CancelledError):
            await gone
