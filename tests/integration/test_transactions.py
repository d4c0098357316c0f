"""Transactions through a real broker, real workers and a real database."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from random import Random
from typing import Any

import pytest
from support.service import Service, running_worker

import holdfast
from holdfast import (
    Check,
    Client,
    ConflictError,
    Delete,
    Encryption,
    IdReusedError,
    InvalidError,
    Save,
    SeveralStoresError,
)
from holdfast.local import MongoReplicaSet, RabbitServer
from holdfast.stores import MongoStore
from holdfast.verify import verify


@pytest.fixture(scope="module")
def shared(rabbit: RabbitServer, mongo: MongoReplicaSet) -> Iterator[Service]:
    """Two workers that share the partitions; each test has keys of its own."""
    rabbit.create_vhosts(["transactions"])
    where = rabbit.url("transactions"), mongo.url("transactions")
    with running_worker(*where, name="one") as service, running_worker(*where, name="two"):
        yield service
    rabbit.delete_vhosts(["transactions"], wait=False)


@pytest.fixture
async def client(shared: Service) -> AsyncIterator[Client]:
    async with holdfast.connect(shared.amqp_url) as client:
        yield client


async def test_saves_deletes_and_checks(client: Client) -> None:
    """Steps on many keys, of all partitions, come true together, and each tells what it made."""
    gone = await client.save("many/gone", 1)
    seen = await client.save("many/seen", 2)
    results = await client.transact(
        [
            Save("many/new", {"n": 1}, first_write=True),
            Delete("many/gone", etag=gone.etag),
            Check("many/seen", etag=seen.etag),
            Check("many/never", exists=False),
            Delete("many/never"),
            *(Save(f"many/{number}", number) for number in range(20)),
        ],
        metadata={"why": "test"},
    )
    assert [(one.key, one.exists, one.version, one.changed) for one in results[:6]] == [
        ("many/new", True, 1, True),
        ("many/gone", False, 2, True),
        ("many/seen", True, 1, None),
        ("many/never", False, 0, None),
        ("many/never", False, 0, False),
        ("many/0", True, 1, True),
    ]
    new = await client.read("many/new")
    assert new is not None
    assert (new.value, new.etag, new.updated_at_ms) == ({"n": 1}, results[0].etag, results[0].updated_at_ms)
    assert await client.read("many/gone") is None
    assert results[2].etag == seen.etag
    assert all(entry is not None for entry in (await client.read_many(f"many/{n}" for n in range(20))).values())
    (event,) = await client.history("many/new")
    assert event.metadata == {"why": "test"}
    # The etags are good for what follows.
    assert (await client.save("many/new", 2, etag=results[0].etag)).version == 2


async def test_a_conflict_says_which_operation(client: Client) -> None:
    """Nothing of it is applied, and the error names the operation, its key and what was found."""
    there = await client.save("conflict/b", "b")
    with pytest.raises(ConflictError) as caught:
        await client.transact(
            [Save("conflict/a", 1), Save("conflict/b", 2, first_write=True), Save("conflict/c", 3)],
            return_current=True,
        )
    conflict = caught.value
    assert (conflict.operation, conflict.key, conflict.code) == (1, "conflict/b", "exists")
    assert (conflict.actual, conflict.version, conflict.current) == (there.etag, 1, "b")
    assert "operation 1, 'conflict/b'" in str(conflict)
    for steps, operation, code in (
        ([Save("conflict/a", 1), Check("conflict/b", etag="1-00000000")], 1, "etag_mismatch"),
        ([Check("conflict/a", exists=True)], 0, "absent"),
        ([Check("conflict/a", etag="1-00000000")], 0, "absent"),
        ([Save("conflict/a", 1), Check("conflict/b", exists=False)], 1, "exists"),
        ([Delete("conflict/b"), Delete("conflict/a", etag=there.etag)], 1, "absent"),
    ):
        with pytest.raises(ConflictError) as caught:
            await client.transact(steps)
        assert (caught.value.operation, caught.value.code) == (operation, code)
    assert await client.read("conflict/a") is None
    assert await client.read("conflict/b") == there


async def test_steps_on_one_key_in_their_order(client: Client) -> None:
    """Each step sees what those before it have made of its key, and all versions are in the history."""
    await client.save("order/k", 0)
    results = await client.transact(
        [
            Delete("order/k"),
            Check("order/k", exists=False),
            Save("order/k", 1, first_write=True),
            Save("order/k", 2),
            Check("order/k", exists=True),
        ]
    )
    assert [(one.version, one.changed) for one in results] == [(2, True), (2, None), (3, True), (4, True), (4, None)]
    assert [event.type for event in await client.history("order/k")] == ["saved", "deleted", "saved", "saved"]
    assert len({event.id for event in await client.history("order/k")}) == 2


async def test_a_repeat_gets_the_same_answer(client: Client) -> None:
    """By another client too, and long after the keys have moved on; another content is refused."""
    steps = [Save("repeat/a", 1), Delete("repeat/b"), Check("repeat/c", exists=False)]
    first = await client.transact(steps, id="repeat-1")
    await client.transact([Save("repeat/a", 2), Save("repeat/b", 2), Save("repeat/c", 2)])
    assert await client.transact(steps, id="repeat-1") == first
    with pytest.raises(ConflictError) as caught:
        await client.transact([Save("repeat/d", 1), Check("repeat/a", exists=False)], id="repeat-2")
    await client.delete("repeat/a")
    with pytest.raises(ConflictError) as again:
        await client.transact([Save("repeat/d", 1), Check("repeat/a", exists=False)], id="repeat-2")
    assert (again.value.operation, again.value.actual) == (1, caught.value.actual)
    for other in ([Save("repeat/a", 9)], list(reversed(steps))):
        with pytest.raises(IdReusedError):
            await client.transact(other, id="repeat-1")
    with pytest.raises(IdReusedError):
        await client.save("repeat/a", 1, id="repeat-1")
    # One that changes nothing is remembered as well.
    nothing = [Delete("repeat/never"), Check("repeat/never", exists=False)]
    first = await client.transact(nothing, id="repeat-3")
    await client.save("repeat/never", 1)
    assert await client.transact(nothing, id="repeat-3") == first


async def test_the_builder(client: Client) -> None:
    """Steps are collected and sent at the end; an exception leaves everything as it was."""
    async with client.transaction(id="builder-1") as both:
        assert both.save("builder/a", 1, first_write=True) == 0
        assert both.save("builder/b", 2) == 1
        both.delete("builder/c")
        both.check("builder/d", exists=False)
        assert await client.read("builder/a") is None
    assert [one.changed for one in both.results] == [True, True, False, None]

    async def change_ones_mind() -> None:
        async with client.transaction() as broken:
            broken.save("builder/a", 3)
            raise RuntimeError("never mind")

    with pytest.raises(RuntimeError, match="never mind"):
        await change_ones_mind()
    entry = await client.read("builder/a")
    assert entry is not None
    assert entry.value == 1
    with pytest.raises(holdfast.ClosedError):
        both.save("builder/e", 1)
    with pytest.raises(holdfast.ClosedError):
        _ = client.transaction().results


async def test_values_that_the_service_cannot_read(shared: Service, client: Client) -> None:
    """A client that encrypts and has keys of its own: what is in the store is sealed, and conflicts can be read."""
    secret = Encryption({"one": b"k" * 32})
    options: dict[str, Any] = {"encryption": secret, "keys": holdfast.by_name("vault")}
    async with holdfast.connect(shared.amqp_url, **options) as sealed:
        results = await sealed.transact([Save("a", {"pin": 1}), Check("b", exists=False), Save("c", 2)])
        assert [result.key for result in results] == ["a", "b", "c"]
        entry = await sealed.read("a")
        assert entry is not None
        assert entry.value == {"pin": 1}
        with pytest.raises(ConflictError) as caught:
            await sealed.transact([Save("d", 1), Save("a", 2, first_write=True)], return_current=True)
        assert (caught.value.operation, caught.value.key, caught.value.current) == (1, "a", {"pin": 1})
    stored = await client.read("vault/a")
    assert stored is not None
    assert "pin" not in str(stored.value)


async def test_what_cannot_be_meant(client: Client) -> None:
    """It is told before anything is sent."""
    with pytest.raises(InvalidError, match="no operations"):
        await client.transact([])
    with pytest.raises(InvalidError, match="etag"):
        await client.transact([Check("k")])
    two = client.transaction()
    two.save("k", 1)
    with pytest.raises(SeveralStoresError, match="another"):
        two.save("k", 1, store="another")
    assert await client.read("k") is None


async def test_transfers_between_accounts(shared: Service, client: Client) -> None:
    """Money moves between accounts of all partitions, by two clients; whoever reads by a transaction sees all of it."""
    accounts = [f"account/{number}" for number in range(8)]
    await client.transact([Save(account, 100) for account in accounts])
    random = Random(1)  # noqa: S311
    done = 0
    named: set[int | None] = set()

    async def transfer(by: Client, count: int) -> None:
        nonlocal done
        while count:
            source, target = random.sample(accounts, 2)
            held = await by.read_many([source, target])
            one, other = held[source], held[target]
            assert one is not None
            assert other is not None
            try:
                await by.transact(
                    [Save(source, one.value - 1, etag=one.etag), Save(target, other.value + 1, etag=other.etag)]
                )
            except ConflictError as conflict:
                named.add(conflict.operation)
            else:
                done += 1
                count -= 1

    async def total() -> int:
        """A snapshot: everything at one moment, which checks prove."""
        while True:
            held = {key: entry for key, entry in (await client.read_many(accounts)).items() if entry is not None}
            try:
                await client.transact([Check(key, etag=entry.etag) for key, entry in held.items()])
            except ConflictError:
                continue
            return sum(int(entry.value) for entry in held.values())

    async def watch(stopped: asyncio.Event) -> int:
        looks = 0
        while not stopped.is_set() or not looks:
            if stopped.is_set() or random.random() < 0.2:
                assert await total() == 800
                looks += 1
            await asyncio.sleep(0)
        return looks

    stopped = asyncio.Event()
    async with holdfast.connect(shared.amqp_url) as other:
        watching = asyncio.create_task(watch(stopped))
        await asyncio.gather(*(transfer(by, 15) for by in (client, other) for _ in range(4)))
        stopped.set()
        assert await watching
    assert await total() == 800
    assert done == 120
    assert named <= {0, 1}
    store = MongoStore(shared.mongo_url)
    await store.open()
    report = await verify(store, "default")
    await store.close()
    assert report.faults == []
    assert report.transactions > 120
