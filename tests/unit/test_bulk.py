"""Bulk calls: each key for itself, with an outcome for each."""

import pytest
from support.loopback import Loopback

import holdfast
from holdfast import Delete, Save
from holdfast.testing import MemoryService


async def test_delete_many_tells_each_outcome() -> None:
    """Given keys, some of them absent or moved on, when they are deleted together, then each has its own outcome."""
    with MemoryService() as service:
        async with service.connect() as client:
            saved = await client.save_many({"a": 1, "b": 2, "c": 3})
            kept = saved["c"]
            assert isinstance(kept, holdfast.Entry)
            outcomes = await client.delete_many(
                ["a", "nothing", Delete("b", etag="1-0000"), Delete("c", etag=kept.etag)]
            )
            assert list(outcomes) == ["a", "nothing", "b", "c"]
            assert (outcomes["a"], outcomes["nothing"], outcomes["c"]) == (True, False, True)
            assert isinstance(outcomes["b"], holdfast.ConflictError)
            left = await client.read_many(["a", "b", "c"])
            assert [key for key, entry in left.items() if entry is not None] == ["b"]


async def test_a_key_twice_is_no_order() -> None:
    """Given one key twice, when it is to be deleted, then nothing is sent."""
    service = Loopback()
    async with service.connect() as client:
        with pytest.raises(holdfast.InvalidError, match="twice"):
            await client.delete_many(["a", Delete("a", etag="1-x")])
        assert service.commands == []


async def test_a_bulk_call_is_few_messages() -> None:
    """Given a hundred keys, when they are saved, read and deleted together, then each takes a message a partition."""
    service = Loopback(partitions=4)
    async with service.connect() as client:
        keys = [f"k{number}" for number in range(100)]
        await client.save_many(dict.fromkeys(keys, 1))
        await client.read_many(keys)
        await client.delete_many(keys)
        assert len(service.commands) == 300
        assert len(service.messages) == 12


async def test_reads_raise_or_return_what_they_meet() -> None:
    """Given a key that cannot be read now, when many are, then that is raised, or stands in the place of its state."""
    with MemoryService() as service:
        async with service.connect() as client:
            await client.save_many([Save("a", 1), Save("b", 2)])
            service.faults.unavailable("b")
            with pytest.raises(holdfast.Unavailable):
                await client.read_many(["a", "b", "c"])
            service.faults.unavailable("b")
            found = await client.read_many(["a", "b", "c"], return_errors=True)
            assert isinstance(found["a"], holdfast.Entry)
            assert isinstance(found["b"], holdfast.Unavailable)
            assert found["c"] is None


async def test_deletes_that_fail_are_outcomes_too() -> None:
    """Given faults, when many keys are deleted and saved, then each has the error that it met, and no other one."""
    with MemoryService() as service:
        async with service.connect() as client:
            await client.save_many({"a": 1, "b": 2})
            service.faults.timeout("a", applied=True)
            service.faults.unavailable("b")
            outcomes = await client.delete_many(["a", "b", "c"])
            assert isinstance(outcomes["a"], holdfast.OutcomeUnknown)
            assert isinstance(outcomes["b"], holdfast.Unavailable)
            assert outcomes["c"] is False
            # Under its id, what became of it can be asked.
            assert await client.delete("a", id=outcomes["a"].id)
