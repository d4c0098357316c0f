"""PersistentState: a handle that knows nothing yet, and how it reads, writes and clears."""

import asyncio

import pytest
from pydantic import ValidationError
from support.carts import Cart, cart_on, ops, stored
from support.loopback import Gate, Loopback, refused
from support.loops import leaping

from holdfast.events import (
    AbsentError,
    ConflictError,
    NotReadError,
    Unavailable,
)

# Before anything is known.


@leaping
async def test_a_new_handle_knows_nothing_and_asks_nobody() -> None:
    """Making a handle makes no call; without a default its value is an error that says what to do."""
    service = Loopback()
    async with service.connect() as client:
        state = client.state("cart", Cart)

        assert (state.key, state.etag, state.version) == ("cart", None, 0)
        with pytest.raises(NotReadError, match="read"):
            _ = state.value
        with pytest.raises(NotReadError):
            _ = state.exists
        with pytest.raises(NotReadError):
            await state.write()
        assert service.commands == []


@leaping
async def test_an_absent_key_has_the_default_or_an_error() -> None:
    """After a read that found nothing, the value is a fresh default, or AbsentError if the handle has none."""
    service = Loopback()
    async with service.connect() as client:
        bare, full = client.state("cart", Cart), client.state("cart", Cart, default=Cart)
        await bare.read()
        await full.read()

        with pytest.raises(AbsentError):
            _ = bare.value
        assert full.value == Cart()
        assert full.value is full.value
        assert (full.exists, full.etag, full.version) == (False, None, 0)


@leaping
async def test_a_handle_that_has_not_read_creates_only() -> None:
    """A write without a read demands that the key is absent, so that nobody's state is overwritten by accident."""
    service = Loopback()
    async with service.connect() as client:
        first, second = client.state("cart", Cart, default=Cart), client.state("cart", Cart)
        await first.write()
        second.value = Cart(["pear"])

        with pytest.raises(ConflictError) as conflict:
            await second.write()

        assert conflict.value.actual == first.etag
        assert second.value == Cart(["pear"])
        assert second.etag is None
        assert await stored(client) == []


@leaping
async def test_a_handle_that_has_not_read_clears_whatever_is_there() -> None:
    """A clear without a read deletes without a condition; one that has read demands the version that it knows."""
    async with cart_on() as (_, client, reader):
        await client.save("cart", {"items": ["pear"]})
        with pytest.raises(ConflictError):
            await reader.clear()

        fresh = client.state("cart", Cart)
        await fresh.clear()

        assert await stored(client) is None
        assert (fresh.exists, fresh.etag) == (False, None)


# Read, write, clear.


@leaping
async def test_write_is_conditional_on_what_was_read() -> None:
    """A write demands the etag last known and moves it on; one that comes too late conflicts and changes nothing."""
    async with cart_on() as (_, client, state):
        other = client.state("cart", Cart)
        await other.read()
        state.value.items.append("pear")
        await state.write()
        state.value.items.append("plum")
        await state.write()

        other.value.items.append("fig")
        before = other.etag
        with pytest.raises(ConflictError):
            await other.write()

        assert (state.version, state.exists) == (3, True)
        assert (other.value, other.etag) == (Cart(["apple", "fig"]), before)
        await other.read()
        assert other.value == Cart(["apple", "pear", "plum"])


@leaping
async def test_clear_makes_absent_and_the_next_write_creates() -> None:
    """After a clear the handle has its default again, and a write demands that the key is still absent."""
    async with cart_on() as (service, client, state):
        await state.clear()
        assert (state.exists, state.etag, state.value) == (False, None, Cart())
        await state.clear()
        assert ops(service) == ["delete"]

        state.value.items.append("pear")
        await state.write()

        assert service.commands[-1]["concurrency"] == "first-write"
        assert (state.version, await stored(client)) == (3, ["pear"])


@leaping
async def test_a_value_set_while_a_clear_is_under_way_stays() -> None:
    """A clear takes away the value of its time, and not the one that the caller has set and written since."""
    async with cart_on() as (service, client, state):
        gate = Gate()
        service.script(gate)
        clearing = asyncio.create_task(state.clear())
        await gate.reached.wait()
        state.value = Cart(["pear"])
        writing = asyncio.create_task(state.write())
        gate.open()
        await asyncio.gather(clearing, writing)

        assert state.value == Cart(["pear"])
        assert await stored(client) == ["pear"]


@leaping
async def test_a_failed_operation_leaves_the_handle_as_it_was() -> None:
    """Refused, conflicting or misread: value, etag and version stay, for reads, writes, clears and updates."""
    async with cart_on() as (service, client, state):
        state.value.items.append("unsaved")
        before = (state.value, state.etag, state.version, state.exists)

        def change(cart: Cart) -> None:
            cart.items.append("from an update")

        for operation in (state.read, state.write, state.clear, lambda: state.update(change)):
            service.script(refused)
            with pytest.raises(Unavailable):
                await operation()
        await client.save("cart", "no cart at all")
        with pytest.raises(ValidationError):
            await state.read()
        with pytest.raises(ConflictError):
            await state.write()

        assert (state.value, state.etag, state.version, state.exists) == before
        assert state.value is before[0]
