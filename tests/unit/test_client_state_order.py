"""PersistentState: operations run one at a time, in order, and those that have not started become one."""

import asyncio
from typing import Any

import pytest
from support.carts import Cart, cart_on, ops, stored
from support.loopback import Gate, answered, refused
from support.loops import leaping, settle

from holdfast.events import ConflictError, Unavailable


@leaping
async def test_operations_run_one_at_a_time_in_the_order_of_the_calls() -> None:
    """However many tasks use a handle at once, its operations are sent one after the other, first come first served."""
    async with cart_on() as (service, client, state):
        order: list[str] = []

        async def use(name: str, operation: Any) -> None:
            await operation
            order.append(name)

        def append(name: str) -> Any:
            def change(cart: Cart) -> None:
                cart.items.append(name)

            return state.update(change)

        await asyncio.gather(
            use("one", append("one")),
            use("clear", state.clear()),
            use("two", append("two")),
            use("three", append("three")),
            use("read", state.read()),
        )

        assert order == ["one", "clear", "two", "three", "read"]
        assert all(len(message.commands) == 1 for message in service.messages)
        assert await stored(client) == ["two", "three"]
        assert state.value == Cart(["two", "three"])


@leaping
async def test_writes_that_have_not_started_become_one() -> None:
    """While one write is under way the next ones become one of the latest value, and all their callers get its end."""
    async with cart_on() as (service, _, state):
        gate = Gate()
        service.script(gate)
        writes = [asyncio.create_task(state.write())]
        await gate.reached.wait()
        for name in ("pear", "plum", "fig"):
            state.value.items.append(name)
            writes.append(asyncio.create_task(state.write()))
            await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(*writes)

        assert ops(service) == ["save", "save"]
        assert [command["value"]["items"] for command in service.commands] == [
            ["apple"],
            ["apple", "pear", "plum", "fig"],
        ]
        assert state.version == 3


@leaping
async def test_writes_on_two_sides_of_something_else_stay_two() -> None:
    """Only neighbours in the queue become one: a clear between two writes happens between them."""
    async with cart_on() as (service, _, state):
        calls = []
        for operation in (state.write, state.clear, state.clear, state.write, state.write):
            state.value = Cart(["new"])
            calls.append(asyncio.create_task(operation()))
            await asyncio.sleep(0)
        await asyncio.gather(*calls)

        assert ops(service) == ["save", "delete", "save"]


@leaping
async def test_write_takes_the_value_of_the_moment_of_the_call() -> None:
    """What is done to the value after the call, before the write starts or while it runs, is not written."""
    async with cart_on() as (_, client, state):
        writing = asyncio.create_task(state.write())
        await asyncio.sleep(0)
        state.value.items.append("too late")
        await writing

        assert await stored(client) == ["apple"]
        assert state.value == Cart(["apple", "too late"])


@leaping
async def test_a_read_behind_an_operation_that_succeeds_is_answered_by_it() -> None:
    """A read that waits behind what has not started either makes no call, and has the value that was stored."""
    async with cart_on() as (service, _, state):
        writing = asyncio.create_task(state.write())
        reading = [asyncio.create_task(state.read()) for _ in range(3)]
        await asyncio.sleep(0)
        state.value.items.append("not stored")
        await asyncio.gather(writing, *reading)

        assert ops(service) == ["save"]
        assert state.value == Cart(["apple"])


@leaping
async def test_a_read_behind_a_failure_asks_for_itself() -> None:
    """If what a read waits behind fails, the read is sent."""
    async with cart_on() as (service, client, state):
        await client.save("cart", {"items": ["from elsewhere"]})
        outcomes = await asyncio.gather(state.write(), state.read(), return_exceptions=True)

        assert isinstance(outcomes[0], ConflictError)
        assert ops(service)[-2:] == ["save", "read"]
        assert state.value == Cart(["from elsewhere"])


@leaping
async def test_a_read_behind_a_failure_is_not_answered_by_a_success_before_that() -> None:
    """Given a write that succeeds and a clear that fails, when a read waits behind both, then it is sent."""
    async with cart_on() as (service, _, state):
        service.script(answered, refused)
        outcomes = await asyncio.gather(state.write(), state.clear(), state.read(), return_exceptions=True)

        assert [type(outcome) for outcome in outcomes] == [type(None), Unavailable, type(None)]
        assert ops(service) == ["save", "delete", "read"]
        assert state.value == Cart(["apple"])


@leaping
async def test_a_read_is_never_answered_by_what_was_sent_before_it_was_called() -> None:
    """A read sees what was acknowledged before its call, also if an earlier operation of the handle ends after it."""
    async with cart_on() as (service, client, state):
        gate = Gate()
        service.script(gate)
        earlier = asyncio.create_task(state.read())
        await gate.reached.wait()
        await client.save("cart", {"items": ["acknowledged"]})

        reading = [asyncio.create_task(state.read()) for _ in range(2)]
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(earlier, *reading)

        assert state.value == Cart(["acknowledged"])


@leaping
async def test_a_read_behind_a_clear_that_had_nothing_to_do_asks_for_itself() -> None:
    """A clear of what the handle takes for absent looks at nothing, so it cannot answer a read."""
    async with cart_on(absent=True) as (_, client, state):
        await client.save("cart", {"items": ["from elsewhere"]})

        await asyncio.gather(state.clear(), state.read())

        assert state.value == Cart(["from elsewhere"])


@leaping
async def test_cancelling_a_caller_does_not_cancel_the_operation() -> None:
    """A cancelled caller leaves its write running and the queue behind it intact; the handle knows what happened."""
    async with cart_on() as (service, _, state):
        gate = Gate()
        service.script(gate)
        state.value.items.append("pear")
        writing = asyncio.create_task(state.write())
        await gate.reached.wait()
        waiting = asyncio.create_task(state.update(lambda cart: cart.items.append("plum")))
        unwanted = asyncio.create_task(state.clear())
        await settle()
        for task in (writing, unwanted):
            task.cancel()
        await settle()
        gate.open()

        assert await waiting == Cart(["apple", "pear", "plum"])
        await state.read()

        assert ops(service)[:3] == ["save", "save", "delete"]
        assert state.exists is False
        with pytest.raises(asyncio.CancelledError):
            await writing
        with pytest.raises(asyncio.CancelledError):
            await unwanted


@leaping
async def test_an_error_that_nobody_waits_for_is_no_ones() -> None:
    """If the caller of an operation that fails has gone, nothing is reported and the queue goes on."""
    async with cart_on() as (service, _, state):
        service.script(refused)
        gone = asyncio.create_task(state.write())
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)

        await state.write()

        assert state.version == 2
