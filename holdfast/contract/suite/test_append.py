"""What an append does and says."""

import asyncio
from typing import Any

import pytest

from holdfast.contract.records import deleted, new_id, refused, saved
from holdfast.events import Record, StoreError
from holdfast.stores import AlreadyApplied, EventStore, Outcome

APPENDED, TAKEN, NOT_TRIED = Outcome.APPENDED, Outcome.VERSION_TAKEN, Outcome.NOT_TRIED


async def test_all_land_in_order(store: EventStore) -> None:
    """Events of several keys, a delete and a refusal land in one append, and a fence comes with it."""
    records: list[Record] = [saved("a", 1), saved("b", 1), refused("a"), deleted("a", 2), saved("a", 3)]
    result = await store.append(records)
    assert list(result.outcomes) == [APPENDED] * 5
    assert result.fence is not None
    assert await store.versions(["a", "b"], after=result.fence) == {"a": 3, "b": 1}
    assert await store.find([record.id for record in records]) == {record.id: record for record in records}


async def test_nothing_to_append(store: EventStore) -> None:
    """An empty append has no outcomes and succeeds, so it gives a fence."""
    result = await store.append([])
    assert list(result.outcomes) == []
    assert result.fence is not None


async def test_a_thousand_records(store: EventStore) -> None:
    """The largest promised batch lands whole."""
    result = await store.append([saved(f"key/{number}", 1, value=number) for number in range(1000)])
    assert set(result.outcomes) == {APPENDED}
    assert len(result.outcomes) == 1000


async def test_version_taken(store: EventStore) -> None:
    """A version that is there stops the append; what stood before it has landed, what stood behind it has not."""
    await store.append([saved("a", 1, value="first")])
    before, late, behind = saved("b", 1), saved("a", 1, value="late"), saved("c", 1)
    result = await store.append([before, late, behind])
    assert list(result.outcomes) == [APPENDED, TAKEN, NOT_TRIED]
    assert result.fence is None
    assert set(await store.find([before.id, late.id, behind.id])) == {before.id}
    assert (await store.events([("a", 1)]))["a", 1].value == "first"


async def test_id_already_applied(store: EventStore) -> None:
    """A repeat is answered with the original, field by field."""
    original = saved("a", 1, value={"n": 1.0}, author="ada", metadata={"why": "test"})
    await store.append([original])
    result = await store.append([original.model_copy(update={"version": 2, "value": "other"}), saved("b", 1)])
    assert list(result.outcomes) == [AlreadyApplied(original), NOT_TRIED]
    assert result.fence is None
    assert await store.versions(["a", "b"]) == {"a": 1}


async def test_a_record_that_breaks_both_rules(store: EventStore) -> None:
    """If the id and the version are there already, the id decides."""
    original = saved("a", 1)
    await store.append([original])
    assert list((await store.append([original])).outcomes) == [AlreadyApplied(original)]
    other = saved("b", 1)
    await store.append([other])
    assert list((await store.append([saved("b", 1, command=original.id)])).outcomes) == [AlreadyApplied(original)]


async def test_the_same_id_under_another_key(store: EventStore) -> None:
    """An id stands in a store's log once, whatever the key."""
    original = saved("a", 1)
    await store.append([original])
    result = await store.append([saved("b", 1, command=original.id)])
    assert list(result.outcomes) == [AlreadyApplied(original)]
    assert await store.versions(["b"]) == {}


async def test_the_same_id_twice_in_one_append(store: EventStore) -> None:
    """The second one meets the first, which has landed."""
    first = saved("a", 1)
    result = await store.append([first, saved("a", 2, command=first.id), saved("b", 1)])
    assert list(result.outcomes) == [APPENDED, AlreadyApplied(first), NOT_TRIED]


async def test_the_same_version_twice_in_one_append(store: EventStore) -> None:
    """The second one is stopped by the first, which has landed."""
    result = await store.append([saved("a", 1), saved("a", 1)])
    assert list(result.outcomes) == [APPENDED, TAKEN]


async def test_a_batch_again_after_it_landed_in_part(store: EventStore) -> None:
    """Sent again from its start, a batch stops at its first record, with what stands there."""
    batch = [saved("a", 1), saved("b", 1), saved("c", 1)]
    await store.append([batch[0]])
    await store.append([batch[1]])
    assert list((await store.append(batch)).outcomes) == [AlreadyApplied(batch[0]), NOT_TRIED, NOT_TRIED]
    assert list((await store.append(batch[2:])).outcomes) == [APPENDED]


async def test_an_event_under_the_id_of_a_refusal(store: EventStore) -> None:
    """A recorded refusal keeps its command from being applied later."""
    refusal = refused("a")
    await store.append([refusal])
    result = await store.append([saved("a", 1, command=refusal.id)])
    assert list(result.outcomes) == [AlreadyApplied(refusal)]
    assert await store.heads(["a"]) == {}


async def test_a_refusal_under_the_id_of_an_event(store: EventStore) -> None:
    """A command that was applied cannot be refused afterwards."""
    event = saved("a", 1)
    await store.append([event])
    assert list((await store.append([refused("a", command=event.id)])).outcomes) == [AlreadyApplied(event)]


async def test_refusals_do_not_collide(store: EventStore) -> None:
    """Refusals have no version, so a key can have many."""
    assert list((await store.append([refused("a"), refused("a")])).outcomes) == [APPENDED, APPENDED]


async def test_only_the_pair_of_key_and_version_counts(store: EventStore) -> None:
    """A store does not know what a gap is: to leave none is up to the engine."""
    assert list((await store.append([saved("a", 3), saved("a", 1)])).outcomes) == [APPENDED, APPENDED]
    assert await store.versions(["a"]) == {"a": 3}


async def test_one_winner_per_version(store: EventStore) -> None:
    """Of twenty writers that want the same version of a key, exactly one gets it, ten times over."""

    async def write(version: int) -> bool:
        result = await store.append([saved("contended", version)])
        assert result.outcomes[0] in (APPENDED, TAKEN)
        return result.outcomes[0] is APPENDED

    for version in range(1, 11):
        assert sum(await asyncio.gather(*(write(version) for _ in range(20)))) == 1
    assert [event.version for event in await store.history("contended")] == list(range(1, 11))


async def test_one_winner_per_id(store: EventStore) -> None:
    """Of twenty deliveries of one command exactly one is applied, and the others see it."""
    command = new_id()
    results = await asyncio.gather(*(store.append([saved(f"key/{n}", 1, command=command)]) for n in range(20)))
    outcomes = [result.outcomes[0] for result in results]
    originals = [outcome.original for outcome in outcomes if isinstance(outcome, AlreadyApplied)]
    assert outcomes.count(APPENDED) == 1
    assert len(originals) == 19
    assert {original.key for original in originals} == {f"key/{outcomes.index(APPENDED)}"}


async def test_a_record_that_cannot_be_kept(store: EventStore) -> None:
    """What is no JSON is refused for good, and neither it nor what stands behind it is written."""
    bad, behind = saved("a", 1, value=object()), saved("b", 1)
    with pytest.raises(StoreError, match=bad.id):
        await store.append([bad, behind])
    assert await store.versions(["a", "b"]) == {}


async def test_what_the_caller_does_later_does_not_show(store: EventStore) -> None:
    """Neither the appended objects nor the ones read are connected with what the store holds."""
    value, metadata = {"list": [1]}, {"why": "test"}
    answer: dict[str, Any] = {"status": "conflict", "error": {"code": "exists"}}
    event, refusal = saved("a", 1, value=value, metadata=metadata), refused("a", **answer)
    await store.append([event, refusal])
    value["list"].append(2)
    metadata["why"] = "changed"
    refusal.answer["error"]["code"] = "changed"
    for _ in range(2):
        read = (await store.events([("a", 1)]))["a", 1]
        assert read.value == {"list": [1]}
        assert read.metadata == {"why": "test"}
        kept = (await store.find([refusal.id]))[refusal.id]
        assert kept.type == "refused"
        assert kept.answer == answer | {"error": {"code": "exists"}}
        read.value["list"].append(3)
        read.metadata["why"] = "changed"
        kept.answer["status"] = "changed"
        (await store.history("a"))[0].value["list"].append(4)
