"""Calls: what the client does on its own part, and what it means that there is no answer. On a service in memory."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from support.loopback import Gate, Loopback, answer_lost, answered, held, refused, vanished
from support.loops import leaping, settle

import holdfast
from holdfast import Client, Save
from holdfast.events import (
    ClosedError,
    ConflictError,
    ExpiredError,
    IdReusedError,
    InvalidError,
    OutcomeUnknown,
    TooLargeError,
    Unavailable,
)
from holdfast.events.limits import MAX_MESSAGE_BYTES


@leaping
async def test_commands_say_only_what_is_not_the_default() -> None:
    """A plain save sends op, key, value, version, id and times; options appear as they are used."""
    service = Loopback()
    async with service.connect(store="default") as client:
        saved = await client.save("k", 1)
        await client.save("k", 2, etag=saved.etag, metadata={"by": "ada"}, return_current=True, id="mine")
        with pytest.raises(ConflictError):
            await client.save("k", 3, first_write=True)
        await client.read("k", consistency="eventual")

    plain, full, first, read = service.commands
    assert plain.keys() == {"op", "key", "value", "v", "id", "sent_at", "deadline"}
    assert full.keys() - plain.keys() == {"etag", "metadata", "return_current"}
    assert full["id"] == "mine"
    assert first["concurrency"] == "first-write"
    assert read["consistency"] == "eventual"
    assert plain["deadline"] - plain["sent_at"] == 15_000


@leaping
async def test_deadlines_are_in_service_time() -> None:
    """Whatever the client's own clock says, sent_at and deadline count on the service's, as last seen in a reply."""
    service = Loopback()
    async with service.connect(timeout=5) as client:
        await asyncio.sleep(100)
        before = service.service_time()
        await client.save("k", 1)

    assert service.commands[0]["sent_at"] == before
    assert service.commands[0]["deadline"] == before + 5_000


@leaping
async def test_deadlines_follow_a_clock_that_jumps() -> None:
    """When service time moves against the client's clock, as after a sleep of the machine, the next reply mends it."""
    service = Loopback()
    async with service.connect(timeout=5) as client:
        clock = service.service_time
        service.service_time = lambda: clock() + 3_600_000  # type: ignore[method-assign]
        assert await client.read("k", timeout=5000) is None
        await client.save("k", 1)

    assert service.commands[1]["sent_at"] == service.service_time()


@leaping
async def test_a_late_answer_does_not_bring_deadlines_forward() -> None:
    """An answer that was long on its way shows an old service time, and later commands hardly expire any earlier."""
    service = Loopback()
    gate = Gate()
    async with service.connect(timeout=60) as client:
        await client.save("k", 1)
        service.script(gate)
        late = asyncio.create_task(client.save("k", 2))
        await asyncio.sleep(3)
        gate.open()
        await late

        await client.save("k", 3)

    assert 0 <= service.service_time() - service.commands[-1]["sent_at"] <= 0.05 * 3_000


@leaping
async def test_another_epoch_leads_to_another_description_and_new_partitions() -> None:
    """When a reply shows another epoch the client asks again by itself, and sends by the new partitions then."""
    service = Loopback(partitions=1)
    async with service.connect() as client:
        service.partitions, service.epoch = 64, 2
        await client.save("k", 1)
        await settle()

        await asyncio.gather(*(client.save(f"key-{number}", 1) for number in range(200)))

        assert {message.partition for message in service.messages[:1]} == {0}
        assert len({message.partition for message in service.messages[1:]}) > 32


@leaping
async def test_a_description_that_fails_is_asked_for_again() -> None:
    """If nobody answers the question for the topology, a later reply with the new epoch asks it again."""
    service = Loopback(partitions=1)
    async with service.connect(timeout=1) as client:
        service.partitions, service.epoch = 64, 2
        take, questions = service.take, []

        def without_descriptions(message: Any) -> None:
            if any(command["op"] == "describe" for command in message.commands):
                questions.append(message)
                message.confirmed()
            else:
                take(message)

        service.take = without_descriptions  # type: ignore[method-assign]
        await client.save("k", 1)
        await asyncio.sleep(5)
        assert questions
        service.take = take  # type: ignore[method-assign]

        await client.save("k", 2)
        await settle()
        await asyncio.gather(*(client.save(f"key-{number}", 1) for number in range(200)))

        assert len({message.partition for message in service.messages}) > 32


@leaping
async def test_a_lost_answer_is_asked_for_again_and_nothing_happens_twice() -> None:
    """When the reply is lost the client repeats the command under its id, and gets the answer of the first time."""
    service = Loopback()
    service.script(answer_lost)
    async with service.connect() as client:
        entry = await client.save("k", 1)

        assert entry.version == 1
        assert len(service.commands) == 2
        assert len({command["id"] for command in service.commands}) == 1
        assert len(await service.log()) == 1


@leaping
async def test_a_lost_connection_is_not_seen_by_callers() -> None:
    """Calls in flight when the connection breaks are repeated on the next one, whether they had been applied or not."""
    service = Loopback(partitions=1)
    service.script(answer_lost, held)
    async with service.connect() as client:
        applied = asyncio.create_task(client.save("k", 1))
        await settle()
        unsent = asyncio.create_task(client.save("k", 2))
        await settle()
        service.link.lose()
        await settle()
        meanwhile = asyncio.create_task(client.save("k", 3))
        await settle()

        service.link.restore()

        assert [(await call).version for call in (applied, unsent, meanwhile)] == [1, 2, 3]


@leaping
async def test_a_refused_call_was_not_applied() -> None:
    """A full queue is Unavailable at once, and the next call is tried afresh."""
    service = Loopback()
    service.script(refused)
    async with service.connect() as client:
        with pytest.raises(Unavailable, match="queue is full"):
            await client.save("k", 1)

        assert (await client.save("k", 1)).version == 1


@leaping
async def test_an_unknown_outcome_can_be_asked_for() -> None:
    """A write without an answer raises OutcomeUnknown with its id, and the same call under it tells what happened."""
    service = Loopback()
    service.script(answer_lost, answer_lost, answer_lost)
    async with service.connect() as client:
        with pytest.raises(OutcomeUnknown) as unknown:
            await client.save("k", "once")

        entry = await client.save("k", "once", id=unknown.value.id)

        assert entry.version == 1
        assert len(await service.log()) == 1


@leaping
async def test_what_comes_after_its_deadline_is_not_applied() -> None:
    """A command that reaches a worker after its caller has left is refused there, and its repeat says so."""
    service = Loopback()
    late: list[Any] = []
    service.script(late.append)
    async with service.connect() as client:
        with pytest.raises(OutcomeUnknown) as unknown:
            await client.save("k", 1, timeout=3)
        await asyncio.sleep(1)

        late[0].confirmed()
        await late[0].apply()

        with pytest.raises(ExpiredError, match="deadline"):
            await client.save("k", 1, id=unknown.value.id)
        assert await client.read("k") is None


@leaping
async def test_too_large_commands_are_not_sent() -> None:
    """A command above the limit of a message is refused at once: no worker reads it, and the broker might hang up."""
    service = Loopback()
    async with service.connect() as client:
        with pytest.raises(TooLargeError):
            await client.save("k", "x" * MAX_MESSAGE_BYTES)

        assert service.commands == []


@pytest.mark.parametrize("key", ["", "nul\0", "x" * 513, "ü" * 257, "\ud800"])
def test_bad_keys_are_refused_before_anything_is_sent(key: str) -> None:
    """A key that cannot be kept is an InvalidError, also a ValueError."""

    @leaping
    async def test() -> None:
        service = Loopback()
        async with service.connect() as client:
            for call in (client.save(key, 1), client.read(key), client.delete(key), client.history(key)):
                with pytest.raises(InvalidError) as invalid:
                    await call
                assert isinstance(invalid.value, ValueError)
            assert service.commands == []

    test()


@pytest.mark.parametrize("value", [float("nan"), 2**63, {1: 2}, object(), {"a\0": 1}, "\ud800", [[object()]]])
def test_bad_values_are_refused_before_anything_is_sent(value: Any) -> None:
    """A value that would not come back as it is raises an InvalidError that names the place where it can."""

    @leaping
    async def test() -> None:
        service = Loopback()
        async with service.connect() as client:
            with pytest.raises(InvalidError):
                await client.save("k", value)
            assert service.commands == []

    test()


@leaping
async def test_save_many_tells_each_outcome() -> None:
    """Of many saves each one succeeds or fails for itself, in the order in which they were given."""
    service = Loopback()
    async with service.connect() as client:
        await client.save("taken", 0)

        outcomes = await client.save_many(
            [Save("new", 1), Save("taken", 2, first_write=True), Save("bad\0", 3), Save("old", 4, etag="9-x")]
        )
        plain = await client.save_many({"new": 5, "other": 6})

        assert list(outcomes) == ["new", "taken", "bad\0", "old"]
        new, taken, bad, old = outcomes.values()
        assert isinstance(new, holdfast.Entry)
        assert isinstance(taken, ConflictError)
        assert isinstance(bad, InvalidError)
        assert isinstance(old, ConflictError)
        assert [getattr(entry, "version", None) for entry in plain.values()] == [2, 1]
        with pytest.raises(InvalidError, match="twice"):
            await client.save_many([Save("k", 1), Save("k", 2)])


@leaping
async def test_read_many_keeps_the_order_of_the_keys() -> None:
    """Many keys come back in the order asked for, each once, with None for those that are absent."""
    service = Loopback()
    async with service.connect() as client:
        await client.save_many({"a": 1, "b": None})

        found = await client.read_many(["b", "nothing", "a", "b"])

        assert [(key, entry and entry.value) for key, entry in found.items()] == [
            ("b", None),
            ("nothing", None),
            ("a", 1),
        ]
        assert found["b"] is not None
        assert found["nothing"] is None


@leaping
async def test_a_closed_client_says_so() -> None:
    """Before it is opened and after it was closed every call is a ClosedError; opening and closing twice is settled."""
    service = Loopback()
    async with service.connect() as client:
        await client.save("k", 1)
        with pytest.raises(ClosedError, match="open already"):
            await client.open()
        await client.close()
        await client.close()
        with pytest.raises(ClosedError):
            await client.read("k")

        await client.open()
        assert (await client.save("k", 2)).version == 2

    with pytest.raises(ClosedError, match="async with"):
        await holdfast.connect("amqp://nowhere/").read("k")


@leaping
async def test_closing_the_client_ends_calls_in_flight() -> None:
    """Callers that wait when the client is closed are told, each what it may count on."""
    service = Loopback()
    service.script(vanished, vanished, vanished, vanished)
    async with service.connect(max_in_flight=2) as client:
        calls: list[asyncio.Task[Any]] = [
            asyncio.create_task(client.save("k", 1)),
            asyncio.create_task(client.read("k")),
            asyncio.create_task(client.save("k", 2)),
        ]
        await settle()

        await client.close()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)

        assert [type(outcome) for outcome in outcomes] == [OutcomeUnknown, ClosedError, ClosedError]


@pytest.mark.parametrize(
    "make",
    [
        lambda: holdfast.connect(timeout=0),
        lambda: holdfast.connect(max_in_flight=0),
        lambda: holdfast.connect("http://localhost/"),
        lambda: holdfast.connect("localhost"),
        lambda: holdfast.connect("amqp://user:se/cret@localhost/"),
        lambda: holdfast.connect("amqp://user:cret@localhost:port/"),
        lambda: holdfast.connect("amqp://user:cret[@localhost/"),
    ],
)
def test_unusable_settings_are_refused_without_showing_the_password(make: Callable[[], Client]) -> None:
    """What cannot work is a ValueError when the client is made, and its message does not quote the password."""
    with pytest.raises(ValueError, match=r".+") as refused:
        make()

    assert "cret" not in str(refused.value)
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@leaping
async def test_history_collects_its_pages() -> None:
    """A history that a worker gives in several pages comes back whole, up to the limit asked for."""
    service = Loopback()
    async with service.connect() as client:
        for number in range(5):
            await client.save("k", "x" * 300_000 + str(number))

        everything = await client.history("k")
        part = await client.history("k", after_version=1, limit=3)

        assert [event.version for event in everything] == [1, 2, 3, 4, 5]
        assert [event.version for event in part] == [2, 3, 4]
        assert len([command for command in service.commands if command["op"] == "history"]) > 2


@leaping
async def test_all_of_a_history_is_read_page_by_page_as_it_is_wanted() -> None:
    """An iterated history asks for a page when the one before is used up, and for no more once it is broken off."""
    service = Loopback()
    async with service.connect() as client:
        for number in range(10):
            await client.save("k", "x" * 300_000 + str(number))
        service.messages.clear()

        events = client.iter_history("k", after_version=1)
        assert service.commands == []
        assert [(await anext(events)).version for _ in range(3)] == [2, 3, 4]
        assert [command["after_version"] for command in service.commands] == [1]
        assert (await anext(events)).version == 5
        assert [command["after_version"] for command in service.commands] == [1, 4]
        await events.aclose()
        assert len(service.commands) == 2

        assert [event.version async for event in client.iter_history("k")] == list(range(1, 11))
        assert [event async for event in client.iter_history("nothing")] == []


@leaping
async def test_describe_tells_the_service() -> None:
    """The description has partitions, epoch, stores, limits, protocol and service time."""
    service = Loopback(partitions=7)
    async with service.connect() as client:
        await asyncio.sleep(1)
        description = await client.describe()

        assert (description.partitions, description.epoch, description.stores) == (7, 1, ("default",))
        assert (description.protocol, description.max_value_bytes) == ((1, 1), 2**20)
        assert description.time.timestamp() * 1000 == service.service_time()
        # A service of before they were told.
        assert description.capabilities == {}


@leaping
async def test_no_worker_is_a_clear_error_within_the_timeout() -> None:
    """If nobody answers the first question the client does not open, and says what is missing."""
    service = Loopback()
    service.take = lambda message: message.confirmed()  # type: ignore[method-assign]
    loop = asyncio.get_running_loop()

    with pytest.raises(Unavailable, match="no Holdfast worker answered"):
        async with service.connect(timeout=3):
            pass

    assert loop.time() <= 4
    assert not service.link.up


@leaping
async def test_values_are_sent_as_they_were_at_the_call() -> None:
    """What the caller does to the value afterwards does not travel, not even while the message waits."""
    service = Loopback()
    async with service.connect() as client:
        value = {"items": [1]}
        call = asyncio.create_task(client.save("k", value))
        await asyncio.sleep(0)
        value["items"].append(2)
        await call

        entry = await client.read("k")
        assert entry is not None
        assert entry.value == {"items": [1]}


@leaping
async def test_two_calls_under_one_id_are_one_command() -> None:
    """Concurrent calls with the same id, as of a job that was handed out twice, both get the one answer."""
    service = Loopback()
    async with service.connect() as client:
        one, other = await asyncio.gather(client.save("k", 1, id="job"), client.save("k", 1, id="job"))
        with pytest.raises(IdReusedError):
            await asyncio.gather(client.save("k", 1, id="job"), client.save("k", 2, id="job"))

        assert one == other
        assert len(await service.log()) == 1


def test_the_answer_to_a_gate_is_only_an_answer() -> None:
    """The service in memory that these tests rest on applies commands as a worker does."""

    @leaping
    async def test() -> None:
        service = Loopback()
        service.script(answered)
        async with service.connect() as client:
            saved = await client.save("k", {"n": 1})
            assert await client.read("k") == saved
            assert await client.delete("k", etag=saved.etag)
            assert not await client.delete("k")
            assert await client.read("k") is None
            assert orjson.loads(service.messages[0].body)[0]["op"] == "save"

    test()
