"""PersistentState: what follows a write whose outcome is not known."""

import asyncio
from typing import Any

import pytest
from aio_pika.exceptions import ConnectionClosed
from support.carts import Cart, cart_on, ops, stored
from support.loopback import Message, answer_lost, held, refused, vanished
from support.loops import leaping, settle

from holdfast.events import (
    ClosedError,
    ConflictError,
    Event,
    OutcomeUnknown,
    RemoteError,
    Reply,
    Unavailable,
)


@pytest.mark.parametrize("applied", [True, False])
def test_the_operation_after_an_unknown_outcome_finds_out_first(applied: bool) -> None:
    """After OutcomeUnknown the same command goes again under its id, applied before or not, and then the next one."""

    @leaping
    async def test() -> None:
        async with cart_on() as (service, client, state):
            state.value.items.append("pear")
            before = state.etag
            with service.usually(answer_lost if applied else vanished), pytest.raises(OutcomeUnknown) as unknown:
                await state.write()
            assert (state.etag, state.value) == (before, Cart(["apple", "pear"]))
            service.messages.clear()

            state.value.items.append("plum")
            await state.write()

            again, following = service.commands
            assert (again["id"], again["value"]["items"]) == (unknown.value.id, ["apple", "pear"])
            assert following["value"]["items"] == ["apple", "pear", "plum"]
            assert state.version == 3
            assert await stored(client) == ["apple", "pear", "plum"]
            assert [record.version for record in await service.log() if isinstance(record, Event)] == [1, 2, 3]

    test()


@leaping
async def test_a_pending_write_that_had_expired_counts_as_not_applied() -> None:
    """If a worker says that the pending command came too late, the operation at hand goes on as if it never was."""
    async with cart_on(timeout=3) as (service, client, state):
        late: list[Message] = []

        def delayed(message: Message) -> None:
            message.confirmed()
            late.append(message)

        service.script(delayed)
        with pytest.raises(OutcomeUnknown):
            await state.write()
        await asyncio.sleep(5)
        await late[0].apply()

        state.value.items.append("pear")
        await state.write()

        assert (state.version, await stored(client)) == (2, ["apple", "pear"])


@leaping
async def test_a_pending_write_that_conflicts_leaves_the_operation_to_see_for_itself() -> None:
    """If somebody else came first, the pending command is a conflict that nobody hears of, and a read brings theirs."""
    async with cart_on() as (service, client, state):
        with service.usually(vanished), pytest.raises(OutcomeUnknown):
            await state.write()
        await client.save("cart", {"items": ["theirs"]})

        await state.read()

        assert state.value == Cart(["theirs"])
        assert ops(service)[-2:] == ["save", "read"]


@leaping
async def test_a_pending_write_stays_pending_until_its_outcome_is_known() -> None:
    """A repeat that is refused, or not even sent, says nothing of the first attempt: the id is kept and tried again."""
    async with cart_on() as (service, client, state):
        state.value.items.append("pear")
        with service.usually(answer_lost), pytest.raises(OutcomeUnknown) as unknown:
            await state.write()

        service.script(refused)
        with pytest.raises(Unavailable):
            await state.write()
        service.link.up = False
        with pytest.raises(Unavailable):
            await state.write()
        service.link.restore()
        with service.usually(answer_lost), pytest.raises(OutcomeUnknown) as still:
            await state.read()
        await state.write()

        assert still.value.id == unknown.value.id
        assert state.version == 3
        assert await stored(client) == ["apple", "pear"]


@leaping
async def test_a_pending_clear_takes_away_only_its_own_value() -> None:
    """A value that was set after a clear with an unknown outcome is the one that is written, and stays."""
    async with cart_on() as (service, client, state):
        with service.usually(answer_lost), pytest.raises(OutcomeUnknown):
            await state.clear()
        state.value = Cart(["new"])

        await state.write()

        assert state.value == Cart(["new"])
        assert (state.version, await stored(client)) == (3, ["new"])


@leaping
async def test_an_update_with_an_unknown_outcome_is_never_repeated_under_another_id() -> None:
    """Update raises OutcomeUnknown at once; the next update finds out, and so every change is there exactly once."""
    async with cart_on() as (service, client, state):

        def add(name: str) -> Any:
            return state.update(lambda cart: cart.items.append(name))

        with service.usually(answer_lost), pytest.raises(OutcomeUnknown):
            await add("pear")
        assert state.value == Cart(["apple"])
        assert len({command["id"] for command in service.commands}) == 1

        assert await add("plum") == Cart(["apple", "pear", "plum"])
        assert await stored(client) == ["apple", "pear", "plum"]


@leaping
async def test_a_write_does_not_wipe_out_an_update_whose_outcome_was_unknown() -> None:
    """The value in memory has nothing of the update, so if that was applied, writing it is a conflict."""
    async with cart_on() as (service, _, state):
        with service.usually(answer_lost), pytest.raises(OutcomeUnknown):
            await state.update(lambda cart: cart.items.append("from the update"))
        state.value.items.append("from memory")

        with pytest.raises(ConflictError):
            await state.write()
        with pytest.raises(ConflictError):
            await state.write()

        assert state.value == Cart(["apple", "from memory"])
        await state.read()
        assert state.value == Cart(["apple", "from the update"])


@leaping
async def test_a_worker_that_failed_may_have_applied_the_write() -> None:
    """An answer without a type of its own leaves the outcome open once; it does not block the handle for ever."""
    async with cart_on() as (service, _, state):

        async def failed(message: Message) -> None:
            message.confirmed()
            await message.apply()
            message.link.on_replies([Reply(id=command["id"], status="internal") for command in message.commands])

        state.value.items.append("pear")
        service.script(failed)
        with pytest.raises(RemoteError):
            await state.write()
        await state.write()
        assert state.version == 3

        service.script(failed, failed)
        with pytest.raises(RemoteError):
            await state.write()
        await state.read()
        assert state.version == 4


@leaping
async def test_a_broken_connection_is_no_ones_business() -> None:
    """A write in flight when the connection breaks is repeated below the handle, and applied once."""
    async with cart_on() as (service, _, state):
        service.script(held)
        writing = asyncio.create_task(state.write())
        await settle()
        service.link.lose(ConnectionClosed(320, "scripted"))
        await settle()
        service.link.restore()

        await writing

        assert state.version == 2
        assert len(await service.log()) == 2


@leaping
async def test_a_handle_survives_its_client() -> None:
    """Operations that wait when the client is closed end with errors, and the handle works when it is opened again."""
    async with cart_on() as (service, client, state):
        service.script(vanished)
        tasks = [asyncio.create_task(operation()) for operation in (state.read, state.clear, state.write)]
        await settle()

        await client.close()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {ClosedError}

        await client.open()
        await state.write()
        assert state.version == 2
