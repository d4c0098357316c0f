"""PersistentState: what a handle does with its value, its etag and its queue, on a service in memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from aio_pika.exceptions import ConnectionClosed
from pydantic import BaseModel, ValidationError
from support.loopback import Gate, Loopback, Message, answer_lost, held, refused, vanished
from support.loops import leaping, settle

from holdfast import Client, PersistentState
from holdfast.client.state import MAX_ATTEMPTS
from holdfast.events import (
    AbsentError,
    ClosedError,
    ConflictError,
    DeniedError,
    ErrorInfo,
    Event,
    InvalidError,
    NotReadError,
    OutcomeUnknown,
    RemoteError,
    Reply,
    Unavailable,
)


@dataclass
class Cart:
    items: list[str] = field(default_factory=list)


class Profile(BaseModel):
    name: str
    born: datetime | None = None
    tags: set[str] = set()


@asynccontextmanager
async def cart_on(
    *, absent: bool = False, **options: Any
) -> AsyncIterator[tuple[Loopback, Client, PersistentState[Cart]]]:
    """A service, a client and a handle on a cart that has one apple and was read, or on an absent one."""
    service = Loopback()
    async with service.connect(**options) as client:
        state = client.state("cart", Cart, default=Cart)
        if not absent:
            await client.save("cart", {"items": ["apple"]})
        await state.read()
        service.messages.clear()
        yield service, client, state


async def stored(client: Client) -> Any:
    entry = await client.read("cart", timeout=60)
    return None if entry is None else entry.value["items"]


def ops(service: Loopback) -> list[str]:
    return [command["op"] for command in service.commands]


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


# Order and coalescing.


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


# Unknown outcomes.


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


# Update.


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


# Types.


@pytest.mark.parametrize(
    ("kind", "value", "other"),
    [
        (Cart, Cart(["a"]), Cart([])),
        (Profile, Profile(name="Ada", born=datetime(1815, 12, 10, tzinfo=UTC), tags={"x"}), Profile(name="Bob")),
        (dict[str, Any], {"a": {"b": [1, None, True, 1.5]}}, {}),
        (dict[str, int], {"a": 1}, {"b": 2}),
        (int, 5, -(2**63)),
        (float, 1.5, 2.0),
        (str, "Ω", ""),
        (bool, True, False),
        (list[int], [1, 2], []),
        (list[Profile], [Profile(name="Ada")], []),
        (tuple[int, str], (1, "a"), (2, "b")),
    ],
)
def test_values_of_many_types_come_back_as_they_were(kind: Any, value: Any, other: Any) -> None:
    """Dataclasses, pydantic models and plain JSON types are written, read and updated without loss."""

    @leaping
    async def test() -> None:
        service = Loopback()
        async with service.connect() as client:
            writer, reader = client.state("k", kind), client.state("k", kind)
            writer.value = value
            await writer.write()
            await reader.read()
            assert reader.value == value
            assert type(reader.value) is type(value)

            assert await writer.update(lambda _: other) == other
            await reader.read()
            assert reader.value == other
            assert writer.value == other

    test()


@leaping
async def test_values_are_isolated() -> None:
    """Two handles never share a value, and neither do a handle and what was given to it or stored."""
    async with cart_on() as (_, client, _):
        mine = ["pear"]
        plain = client.state("plain", dict[str, Any])
        plain.value = {"items": mine}
        await plain.write()
        mine.append("later")
        twin = client.state("plain", dict[str, Any])
        await twin.read()
        twin.value["items"].append("twin's")
        await asyncio.gather(plain.write(), plain.read())

        plain.value["items"].append("after")
        await asyncio.gather(plain.read(), plain.read())

        assert plain.value == {"items": ["pear", "later"]}
        assert twin.value == {"items": ["pear", "twin's"]}


@leaping
async def test_a_value_that_does_not_fit_is_refused_at_the_call() -> None:
    """Writing what is no instance of the type, or cannot be kept, fails before anything is sent or queued."""
    async with cart_on() as (service, client, state):
        numbers = client.state("numbers", float, default=float)
        for value in ("a text", 5, Cart([1])):  # type: ignore[list-item]
            state.value = value  # type: ignore[assignment]
            with pytest.raises(TypeError, match="does not fit"):
                await state.write()
        numbers.value = float("nan")
        with pytest.raises(InvalidError):
            await numbers.write()

        assert service.commands == []
        with pytest.raises(TypeError):
            await state.update(lambda cart: cart.items.append(5))  # type: ignore[arg-type]


@leaping
async def test_an_optional_null_is_a_value() -> None:
    """A stored null is there, unlike an absent key."""
    service = Loopback()
    async with service.connect() as client:
        state: PersistentState[Any] = client.state("k", object)
        state.value = None
        await state.write()
        await state.read()

        assert (state.value, state.exists, state.version) == (None, True, 1)
