"""PersistentState: updates, and what they meet."""

import asyncio
from typing import Any

import pytest
from support.carts import Cart, cart_on, ops, stored
from support.loopback import Loopback, Message
from support.loops import leaping

from holdfast.client.operations import MAX_ATTEMPTS
from holdfast.events import (
    AbsentError,
    ConflictError,
    DeniedError,
    ErrorInfo,
    Reply,
)


@leaping
async def test_update_takes_plain_and_async_functions_that_change_or_return() -> None:
    """A change works in place and returns None, or returns a new value; both kinds of functions do."""
    async with cart_on() as (_, client, state):

        async def add_later(cart: Cart) -> None:
            await asyncio.sleep(1)
            cart.items.append("later")

        async def replace(cart: Cart) -> Cart:
            return Cart([*cart.items, "replaced"])

        await state.update(lambda cart: cart.items.append("plain"))
        await state.update(add_later)
        await state.update(replace)
        result = await state.update(lambda cart: Cart([*cart.items, "new"]))

        assert result == Cart(["apple", "plain", "later", "replaced", "new"])
        assert state.value is result
        assert await stored(client) == result.items


@leaping
async def test_update_meets_conflicts_with_the_state_that_won() -> None:
    """On a conflict the change runs again on what the conflict brought, without a read, until it holds."""
    async with cart_on() as (service, client, state):
        await client.save("cart", {"items": ["theirs"]})
        service.messages.clear()
        seen: list[list[str]] = []

        def change(cart: Cart) -> None:
            seen.append(list(cart.items))
            cart.items.append("ours")

        await state.update(change)

        assert seen == [["apple"], ["theirs"]]
        assert ops(service) == ["save", "save"]
        assert len({command["id"] for command in service.commands}) == 2
        assert await stored(client) == ["theirs", "ours"]


@leaping
async def test_update_takes_a_stored_null_for_what_it_is() -> None:
    """A conflict that brings null means that null is stored; nothing has to be read, and no default comes in."""
    service = Loopback()
    async with service.connect() as client:
        nullable: Any = int | None
        state = client.state("k", nullable, default=lambda: 7)
        await state.read()
        await client.save("k", None)
        service.messages.clear()
        seen: list[int | None] = []

        def change(value: int | None) -> int:
            seen.append(value)
            return 1

        await state.update(change)

        assert seen == [7, None]
        assert ops(service) == ["save", "save"]


async def untold(message: Message) -> None:
    """The usual, but for conflicts that do not bring the value that they met."""
    message.confirmed()
    replies = []
    for reply in await message.apply():
        if reply.error is not None:
            told = reply.error.model_dump(exclude_unset=True, exclude={"current"})
            reply = reply.model_copy(update={"error": ErrorInfo(**told)})
        replies.append(reply)
    message.link.on_replies(replies)


async def hidden(message: Message) -> None:
    """As a worker answers somebody who may write and not read."""
    message.confirmed()
    told = ErrorInfo(code="hidden", message="no", expected=None)
    denied = ErrorInfo(code="denied", message="this user may not read it")
    message.link.on_replies(
        [
            Reply(id=command["id"], status="denied", error=denied)
            if command["op"] == "read"
            else Reply(id=command["id"], status="conflict", error=told)
            for command in message.commands
        ]
    )


@leaping
async def test_update_reads_what_a_conflict_did_not_tell() -> None:
    """A conflict that does not tell the value is no conflict with null: it is read before the change runs again."""
    async with cart_on() as (service, client, state):
        await client.save("cart", {"items": ["theirs"]})
        service.messages.clear()
        service.script(untold)

        await state.update(lambda cart: cart.items.append("ours"))

        assert ops(service) == ["save", "read", "save"]
        assert await stored(client) == ["theirs", "ours"]


@leaping
async def test_update_of_a_key_that_may_not_be_read_is_denied() -> None:
    """Where a user may write and not read, an update ends with DeniedError instead of beginning with the default."""
    async with cart_on(absent=True) as (service, _, state):
        with service.usually(hidden), pytest.raises(DeniedError):
            await state.update(lambda cart: cart.items.append("ours"))
        assert ops(service) == ["save", "read"]


@leaping
async def test_update_follows_the_key_through_deletion_and_creation() -> None:
    """If the key was deleted meanwhile the change begins with the default; if it was created, with what is there."""
    async with cart_on() as (_, client, state):
        await client.delete("cart")
        assert await state.update(lambda cart: cart.items.append("after delete")) == Cart(["after delete"])

        other = client.state("cart", Cart, default=Cart)
        await state.clear()
        await other.read()
        await state.update(lambda cart: cart.items.append("created"))
        assert await other.update(lambda cart: cart.items.append("second")) == Cart(["created", "second"])


@leaping
async def test_update_of_an_absent_key_needs_a_default() -> None:
    """On an absent key the change begins with the default; without one update is AbsentError and nothing is written."""
    service = Loopback()
    async with service.connect() as client:
        with pytest.raises(AbsentError):
            await client.state("cart", Cart).update(lambda _: None)
        assert ops(service) == ["read"]

        shared = Cart(["of all"])
        await client.state("cart", Cart, default=lambda: shared).update(lambda cart: cart.items.append("mine"))

        assert shared == Cart(["of all"])
        assert await stored(client) == ["of all", "mine"]


@leaping
async def test_update_gives_up_after_its_attempts_and_pauses_between_them() -> None:
    """When somebody else always wins, update ends with the conflict after its attempts, with short growing pauses."""
    async with cart_on() as (service, client, state):
        loop = asyncio.get_running_loop()
        before = (state.value, state.etag)

        async def lose(cart: Cart) -> None:
            await client.save("cart", {"items": ["theirs"]})

        for attempts, expected in ((3, 3), (1, 1), (None, MAX_ATTEMPTS)):
            service.messages.clear()
            began = loop.time()
            with pytest.raises(ConflictError):
                await (state.update(lose) if attempts is None else state.update(lose, attempts=attempts))
            mine = [command for command in service.commands if "etag" in command]
            assert len(mine) == expected
            assert loop.time() - began <= expected * 0.25

        assert (state.value, state.etag) == before


@leaping
async def test_handles_that_update_one_key_at_once_all_succeed() -> None:
    """Sixteen handles that count up one key lose no step: conflicts are met with jittered retries."""
    service = Loopback()
    async with service.connect() as client:
        handles = [client.state("counter", int, default=int) for _ in range(16)]

        await asyncio.gather(*(handle.update(lambda number: number + 1) for handle in handles for _ in range(4)))

        entry = await client.read("counter")
        assert entry is not None
        assert (entry.value, entry.version) == (64, 64)


@leaping
async def test_update_begins_with_the_stored_value_whatever_was_done_to_the_one_in_memory() -> None:
    """Unwritten changes play no part, with or without a conflict, so that the outcome does not depend on one."""
    async with cart_on() as (_, client, state):
        state.value.items.append("unwritten")

        await state.update(lambda cart: cart.items.append("pear"))

        assert state.value == Cart(["apple", "pear"])
        assert await stored(client) == ["apple", "pear"]


@leaping
async def test_a_change_works_on_a_copy() -> None:
    """While a change runs, and if it fails, the handle's value stays what it was; its error goes to the caller."""
    async with cart_on() as (_, client, state):

        async def spoil(cart: Cart) -> None:
            cart.items.clear()
            await asyncio.sleep(1)
            assert state.value == Cart(["apple"])
            raise LookupError("of the change")

        with pytest.raises(LookupError, match="of the change"):
            await state.update(spoil)

        assert state.value == Cart(["apple"])
        assert await stored(client) == ["apple"]


@pytest.mark.parametrize("result", ["apple", 5, ["apple"], {"items": []}, False])
def test_a_change_that_returns_something_else_is_a_type_error(result: Any) -> None:
    """What is neither None nor an instance of the type is refused, and nothing is written."""

    @leaping
    async def test() -> None:
        async with cart_on() as (service, _, state):
            with pytest.raises(TypeError, match="returned"):
                await state.update(lambda _: result)
            assert service.commands == []

    test()


@leaping
async def test_an_update_of_a_handle_that_has_not_read_leaves_it_unread_if_it_fails() -> None:
    """What an update reads for itself becomes the handle's only when the update succeeds."""
    service = Loopback()
    async with service.connect() as client:
        await client.save("cart", {"items": ["apple"]})
        state = client.state("cart", Cart)
        state.value = Cart(["mine"])

        with pytest.raises(TypeError):
            await state.update(lambda _: "wrong")  # type: ignore[arg-type, return-value]

        assert (state.value, state.etag) == (Cart(["mine"]), None)
        assert await state.update(lambda cart: cart.items.append("pear")) == Cart(["apple", "pear"])


@leaping
async def test_a_change_cannot_wait_for_its_own_handle() -> None:
    """Using the handle inside the function given to update would wait for ever, and is a RuntimeError instead."""
    async with cart_on() as (_, _, state):

        async def change(cart: Cart) -> None:
            await state.write()

        with pytest.raises(RuntimeError, match="function given to update"):
            await state.update(change)

        await state.write()
