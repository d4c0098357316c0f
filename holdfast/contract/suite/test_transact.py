"""What a transaction does and says: all or nothing, and guarded places that nobody takes meanwhile."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from holdfast.contract.records import deleted, new_id, refused, saved
from holdfast.events import Event, OutboxMessage, Receipt, Record, StoreError
from holdfast.stores import AlreadyApplied, CompactableStore, EventStore, Outcome, TransactionalStore

APPENDED, TAKEN = Outcome.APPENDED, Outcome.VERSION_TAKEN


@pytest.fixture
def transactional(store: EventStore, capability: Callable[[EventStore, str], None]) -> TransactionalStore:
    """The store, as one that can append to several keys in one step."""
    capability(store, "transactions")
    return cast("TransactionalStore", store)


def transaction(*events: Event, command: str | None = None) -> list[Record]:
    """The receipt of a transaction, and its events at their positions."""
    command = command or new_id()
    placed = [
        event.model_copy(update={"id": command, "position": number}) for number, event in enumerate(events, start=1)
    ]
    answer = {"status": "ok", "results": [{"key": event.key, "version": event.version} for event in placed]}
    receipt = Receipt(
        id=command, key="a", time=1_700_000_000_000, digest=b"whole...", answer=answer, events=len(placed)
    )
    return [receipt, *placed]


async def test_all_of_it_lands(transactional: TransactionalStore) -> None:
    """Events of several keys, and several of one key, land in one step; the receipt is what is found under the id."""
    records = transaction(saved("a", 1), saved("b", 1, value={"n": 1.0}), deleted("a", 2))
    result = await transactional.transact(records, [])
    assert result.outcome is APPENDED
    assert result.fence is not None
    assert await transactional.versions(["a", "b"], after=result.fence) == {"a": 2, "b": 1}
    assert await transactional.find([records[0].id]) == {records[0].id: records[0]}
    assert await transactional.events([("a", 1), ("a", 2), ("b", 1)]) == {
        ("a", 1): records[1],
        ("b", 1): records[2],
        ("a", 2): records[3],
    }
    heads = await transactional.heads(["a", "b"])
    assert {key: (head.version, head.exists, head.id) for key, head in heads.items()} == {
        "a": (2, False, records[0].id),
        "b": (1, True, records[0].id),
    }
    assert sorted([record async for record in transactional.scan()], key=lambda record: record.position) == records


async def test_what_a_receipt_carries(transactional: TransactionalStore) -> None:
    """Messages come back exactly, in their order, by whatever way the receipt is found, and without values too."""
    messages = (
        OutboxMessage(exchange="", routing_key="a.b", body={"$ref": "x", "$id": 2**63 - 1, "f": 1.0, "n": None}),
        OutboxMessage(exchange="orders", body=None, headers={"a": "ü", "b": -(2**63), "c": True}),
    )
    receipt, *events = transaction(saved("a", 1))
    records = [receipt.model_copy(update={"messages": messages}), *events]
    assert (await transactional.transact(records, [])).outcome is APPENDED
    for with_values in (True, False):
        assert await transactional.find([receipt.id], with_values=with_values) == {receipt.id: records[0]}
    assert records[0] in [record async for record in transactional.scan()]
    again = (await transactional.transact(records, [])).outcome
    assert isinstance(again, AlreadyApplied)
    assert again.original == records[0]


async def test_a_receipt_alone(transactional: TransactionalStore) -> None:
    """A transaction that changes nothing leaves its receipt."""
    records = transaction()
    assert (await transactional.transact(records, [("a", 1)])).outcome is APPENDED
    assert await transactional.find([records[0].id]) == {records[0].id: records[0]}
    assert await transactional.versions(["a"]) == {}


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_version_that_is_taken(transactional: TransactionalStore, place: int) -> None:
    """One version that is there already keeps all of it out, wherever it stands."""
    keys = ["a", "b", "c"]
    await transactional.append([saved(keys[place], 1)])
    records = transaction(*(saved(key, 1) for key in keys))
    result = await transactional.transact(records, [])
    assert (result.outcome, result.fence) == (TAKEN, None)
    assert await transactional.find([records[0].id]) == {}
    assert await transactional.versions(keys) == {keys[place]: 1}


async def test_a_guarded_version_that_is_taken(transactional: TransactionalStore) -> None:
    """What a guard stands for is a condition as much as what is written."""
    await transactional.append([saved("b", 1), saved("b", 2)])
    records = transaction(saved("a", 1))
    assert (await transactional.transact(records, [("b", 2)])).outcome is TAKEN
    assert await transactional.versions(["a", "b"]) == {"b": 2}
    assert (await transactional.transact(records, [("b", 3)])).outcome is APPENDED


async def test_a_guard_leaves_nothing(transactional: TransactionalStore) -> None:
    """A guarded version can be taken afterwards, and guarded again; no lookup ever sees a guard."""
    await transactional.append([saved("b", 1)])
    for _ in range(3):
        assert (await transactional.transact(transaction(), [("b", 2), ("never", 1)])).outcome is APPENDED
    assert await transactional.versions(["b", "never"]) == {"b": 1}
    assert [event.version for event in await transactional.history("b")] == [1]
    assert (await transactional.keys()).keys == ["b"]
    assert list((await transactional.append([saved("b", 2), saved("never", 1)])).outcomes) == [APPENDED, APPENDED]


async def test_a_guard_on_what_begins_a_key(
    transactional: TransactionalStore, capability: Callable[[EventStore, str], None]
) -> None:
    """Where keys are dropped, nobody may begin a guarded key, whatever version he takes for its first; also once."""
    await begin_to_drop(transactional, capability)
    await transactional.append([saved("a", 9, first=True)])
    # Decided on a floor of 3, when there was nothing.
    result = await transactional.transact(transaction(saved("b", 4)), [("a", 4)], firsts=["a"])
    assert result.outcome is TAKEN
    result = await transactional.transact(transaction(saved("a", 4, first=True)), [])
    assert result.outcome is TAKEN
    assert await transactional.versions(["a", "b"]) == {"a": 9}
    # Of a key that it is not said of only the version is guarded, and a guard leaves nothing.
    for version in (4, 5):
        result = await transactional.transact(transaction(), [("a", version), ("c", 4)], firsts=["c"])
        assert result.outcome is APPENDED
    assert list((await transactional.append([saved("c", 7, first=True)])).outcomes) == [APPENDED]


async def test_of_a_guard_and_a_beginning_one_at_most_lands(
    transactional: TransactionalStore, capability: Callable[[EventStore, str], None]
) -> None:
    """Two transactions that each begin the key which the other one guards, on two floors: never both."""
    await begin_to_drop(transactional, capability)

    async def cross(writes: str, guards: str, version: int) -> Outcome | AlreadyApplied:
        records = transaction(saved(writes, version, first=True))
        return (await transactional.transact(records, [(guards, version)], firsts=[guards])).outcome

    for number in range(10):
        one, other = f"one{number}", f"other{number}"
        outcomes = await asyncio.gather(cross(one, other, 4), cross(other, one, 9))
        assert outcomes.count(APPENDED) <= 1
        assert len(await transactional.versions([one, other])) == outcomes.count(APPENDED)


async def begin_to_drop(store: EventStore, capability: Callable[[EventStore, str], None]) -> None:
    capability(store, "erasing")
    assert isinstance(store, CompactableStore)
    await store.prepare_compaction()


async def test_an_id_that_is_taken(transactional: TransactionalStore) -> None:
    """A repeat is answered with the receipt; an id of another command's event or refusal with that."""
    records = transaction(saved("a", 1))
    await transactional.transact(records, [])
    again = await transactional.transact(transaction(saved("b", 1), command=records[0].id), [("a", 2)])
    assert again.outcome == AlreadyApplied(records[0])
    single, refusal = saved("s", 1), refused("s")
    await transactional.append([single, refusal])
    for original in (single, refusal):
        result = await transactional.transact(transaction(saved("b", 1), command=original.id), [])
        assert result.outcome == AlreadyApplied(original)
    assert await transactional.versions(["b"]) == {}


async def test_the_id_decides_before_a_version(transactional: TransactionalStore) -> None:
    """A repeat meets its own versions too, and is told of its receipt."""
    records = transaction(saved("a", 1), saved("b", 1))
    await transactional.transact(records, [])
    assert (await transactional.transact(records, [])).outcome == AlreadyApplied(records[0])


async def test_a_single_command_under_the_id_of_a_transaction(transactional: TransactionalStore) -> None:
    """It meets the receipt."""
    records = transaction(saved("a", 1))
    await transactional.transact(records, [])
    result = await transactional.append([saved("b", 1, command=records[0].id)])
    assert list(result.outcomes) == [AlreadyApplied(records[0])]
    refusal = await transactional.append([refused("b", command=records[0].id)])
    assert list(refusal.outcomes) == [AlreadyApplied(records[0])]


async def test_a_transaction_that_cannot_be_kept(transactional: TransactionalStore) -> None:
    """What is no JSON is refused for good, and nothing of the transaction is written."""
    records = transaction(saved("a", 1), saved("b", 1, value=object()))
    with pytest.raises(StoreError, match=records[0].id):
        await transactional.transact(records, [])
    assert await transactional.versions(["a", "b"]) == {}
    assert await transactional.find([records[0].id]) == {}


async def test_more_than_one_command_of_the_database(transactional: TransactionalStore) -> None:
    """Values that together are more than the database takes at a time land in one step all the same."""
    large = "x" * 1_500_000
    records = transaction(*(saved(f"large/{number}", 1, value=large) for number in range(13)))
    assert (await transactional.transact(records, [("guarded", 1)])).outcome is APPENDED
    assert len(await transactional.versions([f"large/{number}" for number in range(13)])) == 13
    taken = transaction(*(saved(f"large/{number}", 2, value=large) for number in range(12)), saved("large/12", 1))
    assert (await transactional.transact(taken, [])).outcome is TAKEN
    versions = await transactional.versions([f"large/{number}" for number in range(13)])
    assert set(versions.values()) == {1}


async def test_many_records(transactional: TransactionalStore) -> None:
    """The largest transaction there can be, with a guard for each event."""
    records = transaction(*(saved(f"key/{number}", 1) for number in range(500)))
    assert (
        await transactional.transact(records, [(f"guard/{number}", 1) for number in range(500)])
    ).outcome is APPENDED
    assert [record async for record in transactional.scan() if record.position == 500] == [records[500]]


async def test_one_winner_among_transactions(transactional: TransactionalStore) -> None:
    """Transactions and appends that want one version: one of them gets it, and of the others nothing is written."""

    async def transact(number: int, version: int) -> bool:
        while True:
            result = await transactional.transact(
                transaction(saved("contended", version), saved(f"t{number}", version)), [("guarded", 1)]
            )
            if result.outcome is not Outcome.BLOCKED:
                assert result.outcome in (APPENDED, TAKEN)
                return result.outcome is APPENDED

    async def append(version: int) -> bool:
        result = await transactional.append([saved("contended", version)])
        assert result.outcomes[0] in (APPENDED, TAKEN)
        return result.outcomes[0] is APPENDED

    for version in range(1, 6):
        won = await asyncio.gather(
            *(transact(number, version) for number in range(6)), *(append(version) for _ in range(6))
        )
        assert sum(won) == 1
        there = await transactional.versions([f"t{number}" for number in range(6)])
        assert [key for key, newest in there.items() if newest == version] == [
            f"t{number}" for number in range(6) if won[number]
        ]


async def test_no_write_skew(transactional: TransactionalStore) -> None:
    """Of two transactions that each guard what the other one writes, one at most is committed."""
    for version in range(1, 11):

        async def cross(writes: str, guards: str, version: int = version) -> Outcome | AlreadyApplied:
            return (await transactional.transact(transaction(saved(writes, version)), [(guards, version)])).outcome

        outcomes = await asyncio.gather(cross("a", "b"), cross("b", "a"))
        assert outcomes.count(APPENDED) <= 1
        missing = [
            key for key, newest in {"a": 0, "b": 0, **await transactional.versions("ab")}.items() if newest < version
        ]
        await transactional.append([saved(key, version) for key in missing])
