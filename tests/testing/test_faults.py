"""Faults on purpose: each looks to the program as it would in production, and is true."""

import asyncio
from typing import Any

import pytest

import holdfast
from holdfast.testing import MemoryService


async def test_a_conflict_comes_of_a_rival_that_wrote(service: MemoryService, client: holdfast.Client) -> None:
    """Given a conflict is asked for, when a conditional save comes, then a rival's version is in its way."""
    first = await client.save("a", {"n": 1})
    service.faults.conflict("a")
    with pytest.raises(holdfast.ConflictError) as met:
        await client.save("a", {"n": 2}, etag=first.etag, return_current=True)
    found = await client.read("a")
    assert found is not None
    assert (found.version, found.etag, found.value) == (2, met.value.actual, {"n": 1})
    assert met.value.current == {"n": 1}


async def test_a_rival_writes_what_it_is_told(service: MemoryService, client: holdfast.Client) -> None:
    """Given a rival with a value, when an update meets it, then it is done again on that value."""
    await client.save("a", 1)
    service.faults.conflict("a", value=10)
    assert await client.state("a", int).update(lambda count: count + 1) == 11


async def test_a_rival_on_an_absent_key_leaves_nothing(service: MemoryService, client: holdfast.Client) -> None:
    """Given an absent key, when a first write meets a rival, then it is a conflict, and the key is absent again."""
    service.faults.conflict()
    with pytest.raises(holdfast.ConflictError) as met:
        await client.save("a", 1, first_write=True)
    assert met.value.code == "exists"
    assert await client.read("a") is None
    service.faults.conflict(times=3)
    assert await client.state("a", int, default=int).update(lambda count: count + 1) == 1
    assert service.faults.pending == 0


async def test_a_rival_undoes_nobody_elses_write(
    service: MemoryService, client: holdfast.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given somebody who writes between a rival's look and its write, when both are done, then his value is there."""
    first = await client.save("a", 1)
    async with service.connect() as other:
        read = holdfast.Client.read

        async def read_and_be_overtaken(self: holdfast.Client, key: str, **options: Any) -> holdfast.Entry | None:
            found = await read(self, key, **options)
            if self is not client:
                await other.save(key, "newer")
            return found

        monkeypatch.setattr(holdfast.Client, "read", read_and_be_overtaken)
        service.faults.conflict("a")
        service.faults.conflict("b")
        with pytest.raises(holdfast.ConflictError):
            await client.save("a", 2, etag=first.etag)
        with pytest.raises(holdfast.ConflictError):
            await client.save("b", 2, first_write=True)
        found = await client.read_many(["a", "b"])
        assert [entry and entry.value for entry in found.values()] == ["newer", "newer"]


async def test_conflicts_wait_for_commands_that_can_meet_one(service: MemoryService, client: holdfast.Client) -> None:
    """Given a conflict is asked for, when saves without a condition come, then it goes on waiting."""
    service.faults.conflict()
    await client.save("a", 1)
    await client.save("a", 2)
    assert (service.faults.pending, service.faults.happened) == (1, [])


@pytest.mark.parametrize("applied", [True, False])
async def test_a_timeout_says_that_nothing_is_known(
    service: MemoryService, client: holdfast.Client, applied: bool
) -> None:
    """Given a timeout, when a save meets it, then its outcome is unknown, and repeating it under its id tells."""
    service.faults.timeout(applied=applied)
    with pytest.raises(holdfast.OutcomeUnknown) as unknown:
        await client.save("a", 1)
    assert isinstance(unknown.value, TimeoutError)
    found = await client.read("a")
    assert (found is not None) is applied
    again = await client.save("a", 1, id=unknown.value.id)
    assert again.version == 1


async def test_a_read_that_times_out_was_not_applied(service: MemoryService, client: holdfast.Client) -> None:
    """Given a timeout, when a read meets it, then there is nothing that could have been applied."""
    for applied in (True, False):
        service.faults.timeout(applied=applied, op="read")
        with pytest.raises(holdfast.ExpiredError):
            await client.read("a")


async def test_a_handle_finds_out_what_became_of_its_write(service: MemoryService, client: holdfast.Client) -> None:
    """Given a handle whose write timed out, when it writes again, then nothing is applied twice."""
    cart = client.state("cart", list[str], default=list)
    cart.value.append("apple")
    service.faults.timeout(applied=True)
    with pytest.raises(holdfast.OutcomeUnknown):
        await cart.write()
    cart.value.append("pear")
    await cart.write()
    assert [event.value for event in await client.history("cart")] == [["apple"], ["apple", "pear"]]


async def test_a_lost_reply_is_not_noticed(service: MemoryService, client: holdfast.Client) -> None:
    """Given lost replies, when saves meet them, then the client repeats them by itself, and each is applied once."""
    service.faults.lose_reply(times=3)
    saved = await asyncio.gather(*(client.save("a", number) for number in range(5)))
    assert [entry.version for entry in saved] == [1, 2, 3, 4, 5]
    assert [fault.kind for fault in service.faults.happened] == ["lost_reply"] * 3
    assert len(await client.history("a")) == 5


async def test_unavailable_means_not_applied(service: MemoryService, client: holdfast.Client) -> None:
    """Given a refusal, when a save meets it, then it was certainly not applied."""
    service.faults.unavailable()
    with pytest.raises(holdfast.Unavailable):
        await client.save("a", 1)
    assert await client.read("a") is None


async def test_faults_keep_to_their_key_and_operation(service: MemoryService, client: holdfast.Client) -> None:
    """Given a fault for one key and operation, when others are used, then they meet nothing."""
    service.faults.unavailable("a", op="delete")
    await client.save("a", 1)
    await client.delete("b")
    with pytest.raises(holdfast.Unavailable):
        await client.delete("a")
    (fault,) = service.faults.happened
    assert (fault.kind, fault.op, fault.store, fault.key) == ("unavailable", "delete", "default", "a")


async def test_random_faults_lose_and_double_nothing(service: MemoryService, client: holdfast.Client) -> None:
    """Given faults at random, when two hundred updates go through them, then each counts once."""
    service.faults.at_random(7, conflicts=0.1, lost_replies=0.1, timeouts=0.1, unavailable=0.1)
    handles = [client.state("counter", int, default=int) for _ in range(4)]

    counted = 0
    unknown: set[str | None] = set()

    async def count(handle: holdfast.PersistentState[int]) -> None:
        nonlocal counted
        for _ in range(50):
            try:
                await handle.update(lambda count: count + 1)
                counted += 1
            except holdfast.OutcomeUnknown as fault:
                unknown.add(fault.id)
            except holdfast.Unavailable:
                pass

    await asyncio.gather(*map(count, handles))
    service.faults.stop()
    for handle in handles:
        await handle.read()
    found = await client.read("counter")
    events = await client.history("counter", limit=1000)
    assert found is not None
    # What was unknown then stands in the log now, or never will.
    assert found.value == counted + sum(event.id in unknown for event in events)
    kinds = {fault.kind for fault in service.faults.happened}
    assert kinds == {"conflict", "lost_reply", "timeout_applied", "timeout_not_applied", "unavailable"}


def test_what_cannot_be_a_plan_is_refused(service: MemoryService) -> None:
    """Given probabilities beyond 1, or no times, when they are asked for, then that is an error."""
    with pytest.raises(ValueError, match="between 0 and 1"):
        service.faults.at_random(1, conflicts=0.6, timeouts=0.6)
    with pytest.raises(ValueError, match="once at least"):
        service.faults.timeout(times=0)
