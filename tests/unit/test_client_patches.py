"""The client's patches and lifetimes, on a service in memory."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from support.loopback import Loopback, answer_lost
from support.loops import leaping

from holdfast import ConflictError, Entry, InvalidError, OutcomeUnknown, Save
from holdfast.client.lifetime import to_seconds
from holdfast.events import HoldfastError


@leaping
async def test_each_patch_gives_what_came_of_it() -> None:
    """Given a value, when it is patched in each way, then the entry that comes back is the one that is then read."""
    service = Loopback()
    async with service.connect() as client:
        await client.save("k", {"n": 1, "list": ["a"]})
        merged = await client.merge_patch("k", {"list": None, "m": {"x": 1}})
        assert (merged.version, merged.value) == (2, {"n": 1, "m": {"x": 1}})
        patched = await client.json_patch("k", [{"op": "move", "from": "/m/x", "path": "/x"}], etag=merged.etag)
        assert patched.value == {"n": 1, "m": {}, "x": 1}
        assert (await client.increment("k", path="/n")).value["n"] == 2
        counted = await client.increment("k", {"/n": 0.5, "/new": 2}, metadata={"why": "so"})
        assert counted.value == {"n": 2.5, "m": {}, "x": 1, "new": 2}
        assert await client.read("k") == counted
        assert (await client.increment("hits", 3)).value == 3
        (event,) = await client.history("k", after_version=4)
        assert (event.value, event.metadata) == (counted.value, {"why": "so"})


@leaping
async def test_commands_say_only_what_is_not_the_default() -> None:
    """Given patches, when they are sent, then with what was asked for, and the value that comes of them."""
    service = Loopback()
    async with service.connect() as client:
        await client.increment("a")
        await client.save("c", 1, ttl=60)
        await client.increment("a", ttl="forever")
    sent = [
        {name: value for name, value in command.items() if name not in ("v", "id", "sent_at", "deadline")}
        for command in service.commands
    ]
    assert sent == [
        {"op": "patch", "key": "a", "kind": "increment", "patch": {"": 1}, "return_value": True},
        {"op": "save", "key": "c", "value": 1, "ttl_seconds": 60},
        {"op": "patch", "key": "a", "kind": "increment", "patch": {"": 1}, "return_value": True, "ttl_seconds": -1},
    ]


@leaping
async def test_conflicts_say_what_did_not_fit() -> None:
    """Given patches that do not fit, when they are refused, then the error says what, and where in the patch."""
    service = Loopback()
    async with service.connect() as client:
        saved = await client.save("k", {"n": "text"})
        operations = [{"op": "add", "path": "/a", "value": 1}, {"op": "test", "path": "/n", "value": 1}]
        with pytest.raises(ConflictError, match=r"'k': test_failed, patch\[1\]: ") as caught:
            await client.json_patch("k", operations, return_current=True)
        conflict = caught.value
        assert (conflict.code, conflict.field, conflict.actual) == ("test_failed", "patch[1]", saved.etag)
        assert (conflict.current, conflict.current_known) == ({"n": "text"}, True)
        with pytest.raises(ConflictError, match="no number") as caught:
            await client.increment("k", path="/n")
        assert (caught.value.code, caught.value.field) == ("unpatchable", "patch./n")
        with pytest.raises(ConflictError) as caught:
            await client.json_patch("absent", [])
        assert (caught.value.code, caught.value.actual) == ("absent", None)
        with pytest.raises(ConflictError) as caught:
            await client.merge_patch("k", {}, etag="1-00000000")
        assert caught.value.code == "etag_mismatch"


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.json_patch("k", {}),
        lambda client: client.json_patch("k", "text"),
        lambda client: client.json_patch("k", [1]),
        lambda client: client.json_patch("k", [{"op": "fly", "path": ""}]),
        lambda client: client.json_patch("k", [{"op": "add", "path": "a", "value": 1}]),
        lambda client: client.increment("k", "1"),
        lambda client: client.increment("k", {}),
        lambda client: client.increment("k", path="a"),
        lambda client: client.merge_patch("k", {1: 2}),
        lambda client: client.merge_patch("k", float("nan")),
        lambda client: client.increment("k", ttl=0),
        lambda client: client.save("k", 1, ttl=timedelta(milliseconds=1500)),
    ],
)
@leaping
async def test_what_is_no_patch_is_not_sent(call: Any) -> None:
    """Given what fits no value, when it is called with, then it is refused before anything is sent."""
    service = Loopback()
    async with service.connect() as client:
        with pytest.raises(InvalidError) as caught:
            await call(client)
        assert (caught.value.field or "").startswith(("patch", "ttl"))
    assert service.commands == []


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [(1, 1), (2**31 - 1, 2**31 - 1), (timedelta(hours=1), 3600), (timedelta(days=30), 2_592_000), ("forever", -1)],
)
def test_lifetimes(ttl: Any, seconds: int) -> None:
    """Given seconds or a timedelta, when it is sent, then as whole seconds."""
    assert to_seconds(ttl) == seconds


@pytest.mark.parametrize(
    "ttl",
    [0, -1, 2**31, True, 1.0, "1", "Forever", "", timedelta(0), timedelta(seconds=-1), timedelta(seconds=0.5)],
)
def test_no_lifetimes(ttl: Any) -> None:
    """Given what is no whole number of seconds, when it is given as a lifetime, then it is refused."""
    with pytest.raises(InvalidError, match="whole number of seconds"):
        to_seconds(ttl)


@leaping
async def test_an_increment_whose_answer_is_lost_counts_once() -> None:
    """Given answers that are lost, when a call is repeated by the client, or by its caller, then it counts once."""
    service = Loopback()
    async with service.connect() as client:
        service.script(answer_lost)
        assert (await client.increment("k")).value == 1
        with service.usually(answer_lost), pytest.raises(OutcomeUnknown) as caught:
            await client.increment("k")
        assert (await client.increment("k")).value == 3
        assert (await client.increment("k", id=caught.value.id)).value == 2
        assert [event.value for event in await client.history("k")] == [1, 2, 3]


@leaping
async def test_values_expire_by_the_clock_of_the_service() -> None:
    """Given values that live for a while, when that has passed, then they are absent, and others are not."""
    service = Loopback()
    async with service.connect() as client:
        saved = await client.save("k", 1, ttl=timedelta(seconds=10))
        assert saved.expires_at is not None
        assert saved.expires_at - saved.updated_at == timedelta(seconds=10)
        assert await client.read("k") == saved
        kept = await client.merge_patch("k", 2)
        assert kept.expires_at == saved.expires_at
        outcomes = await client.save_many([Save("many", 1, ttl=10), Save("stays", 1)])
        assert [_expires(outcome) for outcome in outcomes.values()] == [True, False]
        await asyncio.sleep(10)
        assert await client.read_many(["k", "many"]) == {"k": None, "many": None}
        assert await client.read("stays") is not None
        assert (await client.save("k", 3, first_write=True)).expires_at is None


def _expires(outcome: Entry | HoldfastError) -> bool:
    assert isinstance(outcome, Entry)
    return outcome.expires_at is not None


@leaping
async def test_a_handle_with_a_lifetime_sets_it_with_each_write() -> None:
    """Given a handle whose values live for a while, when it is written or updated, then they live that long again."""
    service = Loopback()
    async with service.connect() as client:
        state = client.state("k", list[str], default=list, ttl=10)
        await state.update(lambda items: items.append("a"))
        first = state.expires_at
        assert first is not None
        await asyncio.sleep(5)
        state.value.append("b")
        await state.write()
        assert state.expires_at is not None
        assert state.expires_at - first >= timedelta(seconds=5)
        other = client.state("k", list[str])
        await other.read()
        assert other.expires_at == state.expires_at
        await asyncio.sleep(10)
        # What has expired meanwhile is absent for an update too, which begins with the default.
        assert await state.update(lambda items: items.append("c")) == ["c"]
        await other.read()
        other.value.append("d")
        await other.write()
        await state.read()
        assert [handle.expires_at for handle in (other, state)] == [None, None]
        await state.clear()


@leaping
async def test_a_handle_finds_out_what_became_of_a_write_with_a_lifetime() -> None:
    """Given a write whose answer is lost, when it is sent again, then as the same command, with its lifetime."""
    service = Loopback()
    async with service.connect() as client:
        state = client.state("k", int, ttl=60)
        state.value = 1
        with service.usually(answer_lost), pytest.raises(OutcomeUnknown):
            await state.write()
        state.value = 2
        await state.write()
        assert state.version == 2
        assert [command.get("ttl_seconds") for command in service.commands if command["op"] == "save"][-1] == 60
