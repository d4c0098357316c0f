"""Reads of a handle that may be behind: what they bring, and whom they answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.loopback import Gate, Loopback, Message
from support.loops import leaping

from holdfast import Client, PersistentState
from holdfast.events import ConflictError, Reply


@asynccontextmanager
async def handle_on(*values: str) -> AsyncIterator[tuple[Loopback, Client, PersistentState[str]]]:
    """A service, a client, and a handle that has read a key after it was saved so often."""
    service = Loopback()
    async with service.connect() as client:
        for value in values:
            await client.save("k", value)
        state = client.state("k", str, default=str)
        await state.read()
        service.messages.clear()
        yield service, client, state


def asked(service: Loopback) -> list[str]:
    return [
        command["op"] if command["op"] != "read" else command.get("consistency", "strong")
        for command in service.commands
    ]


def behind(**state: Any) -> Callable[[Message], None]:
    """What a worker answers that has not seen the latest of the key."""

    def answer(message: Message) -> None:
        message.confirmed()
        (command,) = message.commands
        now = message.link.service.service_time()
        message.link.on_replies([Reply(id=command["id"], status="ok", epoch=1, time=now, updated_at=now, **state)])

    return answer


ABSENT = behind(exists=False, version=0)


def older(version: int) -> Callable[[Message], None]:
    return behind(exists=True, version=version, etag=f"{version}-00000000", value=f"older {version}")


@leaping
async def test_it_is_asked_for_as_it_was_called() -> None:
    """Given a handle, when it reads strongly, eventually, and as it does by itself, then so it is asked."""
    async with handle_on("one") as (service, client, state):
        await client.save("k", "two")
        await state.read(consistency="eventual")
        assert (state.value, state.version) == ("two", 2)
        await state.read(consistency="strong")
        await state.read()
        assert asked(service)[1:] == ["eventual", "strong", "strong"]


#: Calls that come to wait one behind the other, and what is sent for them.
BEHIND: dict[str, tuple[list[str], list[str]]] = {
    "strong behind strong": (["strong", "strong"], ["strong"]),
    "eventual behind strong": (["strong", "eventual"], ["strong"]),
    "eventual behind eventual": (["eventual", "eventual"], ["eventual"]),
    "strong behind eventual": (["eventual", "strong"], ["eventual", "strong"]),
    "eventual behind both": (["eventual", "strong", "eventual"], ["eventual", "strong"]),
    "all behind a write": (["write", "eventual", "strong", "eventual"], ["save"]),
    "all behind a clear": (["clear", "eventual", "strong"], ["delete"]),
    "all behind an update": (["update", "eventual", "strong"], ["save"]),
    "strong behind eventual and a write": (["eventual", "write", "strong"], ["eventual", "save"]),
}


@pytest.mark.parametrize("case", BEHIND)
@leaping
async def test_a_read_is_answered_by_what_is_as_strong(case: str) -> None:
    """Given operations that wait one behind the other, when the first succeeds, then it answers those reads behind it
    that did not ask for more.
    """
    calls, sent = BEHIND[case]
    async with handle_on("one") as (service, _, state):
        calling: dict[str, Callable[[], Any]] = {
            "strong": state.read,
            "eventual": lambda: state.read(consistency="eventual"),
            "write": state.write,
            "clear": state.clear,
            "update": lambda: state.update(lambda value: f"{value}+"),
        }
        await asyncio.gather(*(calling[call]() for call in calls))
        assert asked(service) == sent


@leaping
async def test_a_strong_read_sees_what_an_eventual_one_before_it_did_not() -> None:
    """Given an eventual read that is behind, when a strong one waits behind it, then that sees what is there."""
    async with handle_on("one") as (service, client, state):
        await client.save("k", "acknowledged")
        service.script(older(1))
        await asyncio.gather(state.read(consistency="eventual"), state.read())
        assert (state.value, state.version) == ("acknowledged", 2)


@leaping
async def test_what_an_eventual_read_has_changed_answers_no_strong_one() -> None:
    """Given a strong success, and behind it a read that is sent since it was called later, when that is eventual, then
    a strong read behind it is sent, too.
    """
    async with handle_on("one") as (service, _, state):
        gate = Gate()
        service.script(gate, ABSENT)
        first = asyncio.ensure_future(state.read())
        await gate.reached.wait()
        later = [asyncio.ensure_future(state.read(consistency="eventual")), asyncio.ensure_future(state.read())]
        gate.open()
        await asyncio.gather(first, *later)
        assert asked(service) == ["strong", "eventual", "strong"]
        assert state.value == "one"


@leaping
async def test_it_does_not_go_back() -> None:
    """Given a handle that knows a version, when an eventual read brings an earlier one, then it knows what it knew; and
    a strong one is believed whatever it brings.
    """
    async with handle_on("one", "two") as (service, _, state):
        etag = state.etag
        state.value = "not written"
        service.script(older(1), older(2), older(1))
        await state.read(consistency="eventual")
        assert (state.value, state.version, state.etag) == ("two", 2, etag)
        await state.read(consistency="eventual")
        assert (state.value, state.etag) == ("older 2", "2-00000000")
        # A database that was brought back from a backup.
        await state.read()
        assert (state.value, state.version) == ("older 1", 1)


@leaping
async def test_a_write_of_what_is_behind_is_a_conflict() -> None:
    """Given eventual reads that found nothing, or what is not there any more, when that is written, then nothing is
    overwritten.
    """
    async with handle_on("one") as (service, client, state):
        service.script(ABSENT)
        await state.read(consistency="eventual")
        assert (state.exists, state.value) == (False, "")
        state.value = "made"
        with pytest.raises(ConflictError):
            await state.write()
        await state.read()
        await state.clear()
        service.script(older(1))
        await state.read(consistency="eventual")
        state.value += "!"
        with pytest.raises(ConflictError):
            await state.write()
        assert await client.read("k") is None
