"""The client's calls about the past, about keys, and for good: what they send, and what becomes of the answers."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from support.commands import NOW
from support.loopback import Loopback
from support.loops import leaping

from holdfast import ConflictError, ErasedError
from holdfast.client.entry import to_datetime, to_millis
from holdfast.client.span import Span

NAIVE = datetime(2026, 3, 1)  # noqa: DTZ001 - that is what is refused
LATER = to_datetime(NOW + 10_000_000)


@leaping
async def test_the_past_of_a_key() -> None:
    """States and events of the past come back as they were, by version and by time, either way."""
    service = Loopback()
    async with service.connect() as client:
        for number in range(1, 5):
            await client.save("k", {"n": number}, correlation_id=f"order-{number}", causation_id="c0")
        await client.delete("k", correlation_id="order-5")
        second = await client.read("k", version=2)
        assert second is not None
        assert (second.value, second.version) == ({"n": 2}, 2)
        assert await client.read("k", version=5) is None
        assert await client.read("k", version=6) is None
        assert await client.read("k", at=second.updated_at - timedelta(days=1)) is None
        assert await client.read("k", at=LATER) is None

        events = await client.history("k", backward=True, limit=2)
        assert [(event.version, event.correlation_id) for event in events] == [(5, "order-5"), (4, "order-4")]
        assert events[1].causation_id == "c0"
        between = await client.history("k", after_version=1, before_version=4, since=to_datetime(NOW), until=LATER)
        assert [event.version for event in between] == [2, 3]
        assert await client.history("k", until=to_datetime(NOW - 1)) == []
        backward = [event.version async for event in client.iter_history("k", backward=True, before_version=4)]
        assert backward == [3, 2, 1]


@leaping
async def test_a_backward_history_is_read_page_by_page() -> None:
    """Given values that make several pages, when they are read backward, then each goes on where one ended."""
    service = Loopback()
    async with service.connect() as client:
        for number in range(8):
            await client.save("k", "x" * 300_000 + str(number))
        service.messages.clear()
        events = client.iter_history("k", backward=True, until=LATER)
        assert [(await anext(events)).version for _ in range(4)] == [8, 7, 6, 5]
        asked = [
            (command.get("before_version"), command["backward"], "to_time" in command) for command in service.commands
        ]
        assert asked == [(None, True, True), (6, True, True)]
        await events.aclose()
        assert [event.version for event in await client.history("k", backward=True)] == [8, 7, 6, 5, 4, 3, 2, 1]


@leaping
async def test_restoring() -> None:
    """A restore makes a new version of an old value, once; what stands against it is said."""
    service = Loopback()
    async with service.connect() as client:
        first = await client.save("k", 1)
        await client.save("k", 2)
        entry = await client.restore("k", version=1, metadata={"why": "oops"}, correlation_id="c", id="r-1")
        again = await client.restore("k", version=1, metadata={"why": "oops"}, id="r-1")
        assert (entry.version, again) == (3, entry)
        now = await client.read("k")
        assert now is not None
        assert (now.value, now.etag) == (1, entry.etag)
        (event,) = await client.history("k", after_version=2)
        assert (event.restored, event.metadata, event.correlation_id) == (1, {"why": "oops"}, "c")
        with pytest.raises(ConflictError, match="expected at etag") as stale:
            await client.restore("k", version=1, etag=first.etag, return_current=True)
        assert (stale.value.code, stale.value.current) == ("etag_mismatch", 1)
        with pytest.raises(ConflictError, match="no such version") as missing:
            await client.restore("k", version=9)
        assert (missing.value.code, missing.value.actual) == ("no_value", entry.etag)


@leaping
async def test_purging() -> None:
    """A purge says whether there was anything, and what was erased says so when it is asked for."""
    service = Loopback()
    async with service.connect() as client:
        entry = await client.save("k", "secret")
        with pytest.raises(ConflictError):
            await client.purge("k", etag="1-00000000")
        assert await client.purge("k", etag=entry.etag, metadata={"request": "17"}, id="p-1") is True
        assert await client.purge("k", etag=entry.etag, metadata={"request": "17"}, id="p-1") is True
        assert await client.purge("never") is False
        assert await client.read("k") is None
        with pytest.raises(ErasedError, match="'k': the value of this version was erased"):
            await client.read("k", version=1)
        with pytest.raises(ConflictError, match="was erased") as gone:
            await client.restore("k", version=1)
        assert gone.value.code == "stripped"
        erased, purge = await client.history("k")
        assert (erased.stripped, erased.value, purge.type, purge.metadata) == (True, None, "purged", {"request": "17"})


@leaping
async def test_keys() -> None:
    """Keys come a page at a time, or one by one, or as their number; those that are deleted don't."""
    service = Loopback()
    async with service.connect() as client:
        await client.save_many({f"k/{number:04}": number for number in range(1500)})
        await client.delete("k/0001")
        page = await client.keys("k/", limit=2)
        assert ([entry.key for entry in page.keys], page.next) == (["k/0000", "k/0002"], "k/0002")
        assert page.keys[0].version == 1
        last = await client.keys("k/", after="k/1498")
        assert ([entry.key for entry in last.keys], last.next) == (["k/1499"], None)
        assert len([entry async for entry in client.iter_keys("k/")]) == 1499
        assert [entry.key async for entry in client.iter_keys("k/", after="k/1497")] == ["k/1498", "k/1499"]
        assert (await client.count_keys("k/"), await client.count_keys("k/1"), await client.count_keys("x")) == (
            1499,
            500,
            0,
        )


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.read("k", at=NAIVE),
        lambda client: client.read("k", version=1, at=LATER),
        lambda client: client.history("k", since=NAIVE),
        lambda client: client.history("k", until=NAIVE),
    ],
)
@leaping
async def test_times_without_a_zone_are_refused(call: Any) -> None:
    """A time that could be any is a mistake, and nothing is sent."""
    service = Loopback()
    async with service.connect() as client:
        with pytest.raises(ValueError, match=r"time zone|exclude each other"):
            await call(client)
        assert service.commands == []


def test_times_are_whole_milliseconds() -> None:
    """What has a part of a millisecond is taken so that nothing is lost: a state of before, a span of inside."""
    exact = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=1)))
    assert to_millis(exact) == to_millis(exact.astimezone(UTC)) == 1_772_362_800_000
    odd = exact + timedelta(microseconds=1)
    assert to_millis(odd) == to_millis(exact)
    assert Span(since=exact).to_wire() == {"from_time": to_millis(exact)}
    assert Span(since=odd, until=odd).to_wire() == {"from_time": to_millis(exact) + 1, "to_time": to_millis(exact)}
    assert to_datetime(to_millis(exact)) == exact
