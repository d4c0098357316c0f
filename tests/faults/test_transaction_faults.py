"""Transactions while workers die and freeze in the middle of them, and while others want the same keys."""

import asyncio
import itertools
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bank import Bank, faults
from support.load import read_log

import holdfast
from chaos.cluster import PARTITIONS, Cluster
from chaos.raw import RawClient, raw_client
from chaos.steps import Step
from holdfast import Check, ConflictError, Save
from holdfast.events import Event, Receipt, partition_of
from holdfast.local import MongoReplicaSet, RabbitServer
from holdfast.stores import MongoStore
from holdfast.verify import verify
from holdfast.worker.ownership import priority

#: By then the log has the transaction of a worker that died at this step …
COMMITTED = (Step.APPENDED, Step.REPLIED, Step.ACKNOWLEDGING, Step.ACKNOWLEDGED)
#: … and by then its sender has been told.
ANSWERED = (Step.REPLIED, Step.ACKNOWLEDGING, Step.ACKNOWLEDGED)


def save(command_id: str, key: str, value: Any = None, **fields: Any) -> dict[str, Any]:
    return {"op": "save", "id": command_id, "key": key, "value": value, **fields}


def transact(command_id: str, *operations: dict[str, Any]) -> dict[str, Any]:
    return {"op": "transact", "id": command_id, "operations": list(operations)}


def set_to(key: str, value: Any, **fields: Any) -> dict[str, Any]:
    return {"op": "save", "key": key, "value": value, **fields}


def keys_of(worker: str, other: str, count: int) -> list[str]:
    """Keys of partitions that a worker owns while another one is there too."""
    names = (f"{worker}/{number}" for number in itertools.count())

    def is_owned(key: str) -> bool:
        number = partition_of("default", key, PARTITIONS)
        return priority(worker, number) > priority(other, number)

    return list(itertools.islice(filter(is_owned, names), count))


async def send(raw: RawClient, command: dict[str, Any]) -> None:
    """Publish a command to the partition of its key."""
    key = command["operations"][0]["key"] if "operations" in command else command["key"]
    await raw.send(command, str(partition_of("default", key, PARTITIONS)))


async def versions(cluster: Cluster) -> dict[str, list[tuple[int, str]]]:
    """Of each key its versions, and the commands that made them."""
    events = [record for record in await read_log(cluster.mongo_url) if isinstance(record, Event)]
    found: dict[str, list[tuple[int, str]]] = {}
    for event in sorted(events, key=lambda event: (event.key, event.version)):
        found.setdefault(event.key, []).append((event.version, event.id))
    return found


async def assert_sound(cluster: Cluster) -> None:
    store = MongoStore(cluster.mongo_url)
    await store.open()
    report = await verify(store, "default")
    await store.close()
    assert report.faults == []
    assert report.transactions > 0


@pytest.fixture
def patient(
    tmp_path: Path, rabbit: RabbitServer, amqp_vhost: str, own_mongo: Callable[..., MongoReplicaSet]
) -> Iterator[Cluster]:
    """A service on a MongoDB that gives up no transaction that is open."""
    mongo = own_mongo(parameters={"transactionLifetimeLimitSeconds": 3600})
    cluster = Cluster(tmp_path, rabbit, amqp_vhost, mongo, f"faults_{uuid.uuid4().hex[:12]}")
    yield cluster
    cluster.stop()


@pytest.mark.parametrize("step", [Step.APPENDING, Step.COMMITTING, Step.APPENDED, Step.REPLIED])
async def test_what_a_death_leaves_of_a_transaction(cluster: Cluster, step: Step) -> None:
    """The only worker dies at a step: all of it is there or nothing, and its successor does the rest, once."""
    worker = cluster.mortal_worker()
    await asyncio.to_thread(worker.start)
    async with raw_client(cluster.amqp_url) as raw:
        await send(raw, save("before", "a", 1))
        (before,) = await raw.answers("before")
        await cluster.until(lambda: cluster.waiting() == 0, "all acknowledged")
        worker.die_at(step)
        await send(
            raw,
            transact(
                "deadly",
                set_to("a", 2, etag=before["etag"]),
                set_to("b", 2, concurrency="first-write"),
                {"op": "check", "key": "c", "exists": False},
            ),
        )
        await cluster.until(lambda: not worker.running, f"death {step}")
        records = {(record.id, record.position) for record in await read_log(cluster.mongo_url)}
        whole = {("deadly", 0), ("deadly", 1), ("deadly", 2)}
        assert records - {("before", 0)} == (whole if step in COMMITTED else set())
        if step in ANSWERED:
            await raw.answers("deadly")
        await asyncio.to_thread(worker.start)
        (answer,) = await raw.answers("deadly")
        await send(raw, save("after", "b", 3))
        await raw.answers("after")
        await cluster.until(lambda: cluster.waiting() == 0, "all acknowledged")
        told = raw.replies["deadly"]

    assert (answer["status"], [one["version"] for one in answer["results"]]) == ("ok", [2, 1, 0])
    assert all(again["results"] == answer["results"] for again in told)
    assert await versions(cluster) == {"a": [(1, "before"), (2, "deadly")], "b": [(1, "deadly"), (2, "after")]}
    await assert_sound(cluster)


async def test_a_worker_frozen_before_its_commit_blocks_only_its_keys(patient: Cluster) -> None:
    """It holds two keys, one of which is another owner's. That one's other keys go on, and all of it when it wakes.

    MongoDB gives nothing up here, so that nothing but the frozen worker itself can end its transaction.
    """
    frozen = patient.mortal_worker("frozen", heartbeat=2)
    other = patient.worker("other", heartbeat=2)
    await asyncio.gather(asyncio.to_thread(frozen.start), asyncio.to_thread(other.start))
    (mine,) = keys_of("frozen", "other", 1)
    held, *free = keys_of("other", "frozen", 20)
    async with raw_client(patient.amqp_url) as raw:
        await send(raw, save("before", held, 0))
        await raw.answers("before")
        frozen.freeze_at(Step.COMMITTING)
        await send(raw, transact("frozen", set_to(mine, 1), set_to(held, 1)))
        await patient.until(lambda: frozen.paused, "it stops before its commit")
        # In one message, so that they are in one batch: what is blocked in the middle, also for those behind it.
        partition = partition_of("default", held, PARTITIONS)
        beside = [key for key in free if partition_of("default", key, PARTITIONS) == partition]
        await raw.send(
            [
                *(save(f"first-{key}", key, 1) for key in beside),
                save("held-1", held, 2),
                {"op": "read", "id": "held-2", "key": held},
                save("held-3", held, 3),
                *(save(f"second-{key}", key, 2) for key in beside),
            ],
            str(partition),
        )
        await raw.answers(*(f"{which}-{key}" for which in ("first", "second") for key in beside))
        for key in free:
            await send(raw, save(f"later-{key}", key, 4))
        await raw.answers(*(f"later-{key}" for key in free))
        assert not raw.replies.keys() & {"frozen", "held-1", "held-2", "held-3"}
        await patient.until_given_up(frozen)
        # Its partitions are the other one's now, and so is its transaction, which meets itself.
        assert not raw.replies.keys() & {"frozen", "held-1", "held-2", "held-3"}
        frozen.resume()
        transaction, first, read, last = await raw.answers("frozen", "held-1", "held-2", "held-3")

    assert transaction["status"] == "ok"
    assert [one["version"] for one in transaction["results"]] == [1, 2]
    assert (first["version"], read["version"], read["value"], last["version"]) == (3, 3, 2, 4)
    found = await versions(patient)
    assert found[held] == [(1, "before"), (2, "frozen"), (3, "held-1"), (4, "held-3")]
    assert found[mine] == [(1, "frozen")]
    await assert_sound(patient)


async def test_a_worker_frozen_before_its_commit_wakes_too_late(cluster: Cluster) -> None:
    """MongoDB gives its transaction up; its successor applies it, others write on top, and it adds nothing."""
    frozen = cluster.mortal_worker("frozen", heartbeat=2)
    await asyncio.to_thread(frozen.start)
    async with raw_client(cluster.amqp_url) as raw, holdfast.connect(cluster.amqp_url) as client:
        first = await client.save("a", 0)
        await cluster.until(lambda: cluster.waiting() == 0, "all acknowledged")
        frozen.freeze_at(Step.COMMITTING)
        await send(raw, transact("frozen", set_to("a", 1, etag=first.etag), set_to("b", 1, concurrency="first-write")))
        await cluster.until(lambda: frozen.paused, "it stops before its commit")
        (successor,) = await cluster.start(heartbeat=2)
        (answer,) = await raw.answers("frozen")
        for key in ("a", "b"):
            await client.delete(key)
            await client.save(key, 2)
        began = len(frozen.log_path.read_text())
        frozen.resume()
        await cluster.until_told(frozen, "session lost", began)
        await cluster.until_ready(frozen)
        await asyncio.to_thread(successor.stop)
        assert [(entry.version, entry.value) for entry in (await client.read_many("ab")).values() if entry] == [
            (4, 2),
            (3, 2),
        ]
        told = raw.replies["frozen"]

    assert [one["version"] for one in answer["results"]] == [2, 1]
    assert all(again["results"] == answer["results"] for again in told)
    await assert_sound(cluster)


async def test_a_hot_key_among_the_participants(cluster: Cluster) -> None:
    """One key that another worker's clients save without end: transactions on it are committed all the same."""
    one, other = cluster.worker("one"), cluster.worker("other")
    await asyncio.gather(asyncio.to_thread(one.start), asyncio.to_thread(other.start))
    (cold,) = keys_of("one", "other", 1)
    (hot,) = keys_of("other", "one", 1)
    transacted = 0
    async with holdfast.connect(cluster.amqp_url) as saver, holdfast.connect(cluster.amqp_url) as client:
        saved = 0

        async def keep_saving() -> None:
            nonlocal saved
            while transacted < 40:
                saved += len(
                    {entry.version for entry in await asyncio.gather(*(saver.save(hot, n) for n in range(20)))}
                )

        async def transact_often() -> None:
            nonlocal transacted
            while transacted < 40:
                # Without a condition on the hot key: whenever its turn comes, it is right.
                results = await client.transact([Save(cold, transacted), Save(hot, "transacted")])
                assert [result.changed for result in results] == [True, True]
                transacted += 1

        await asyncio.gather(keep_saving(), transact_often())
    found = await versions(cluster)
    assert len(found[cold]) == transacted
    assert len(found[hot]) == saved + transacted
    assert [version for version, _ in found[hot]] == list(range(1, saved + transacted + 1))
    await assert_sound(cluster)


async def test_no_write_skew_of_checks(cluster: Cluster) -> None:
    """Two workers, each with a transaction that checks what the other one writes: never do both see the old state."""
    one, other = cluster.worker("one"), cluster.worker("other")
    await asyncio.gather(asyncio.to_thread(one.start), asyncio.to_thread(other.start))
    mine, theirs = keys_of("one", "other", 25), keys_of("other", "one", 25)
    won: list[int] = []
    lost: list[tuple[int | None, bool, str]] = []
    async with holdfast.connect(cluster.amqp_url) as first, holdfast.connect(cluster.amqp_url) as second:

        async def claim(client: holdfast.Client, own: str, others: str) -> bool:
            try:
                await client.transact([Save(own, 1), Check(others, exists=False)])
            except ConflictError as conflict:
                lost.append((conflict.operation, conflict.key in (*mine, *theirs), conflict.code))
                return False
            return True

        for own, others in zip(mine, theirs, strict=True):
            won.append(sum(await asyncio.gather(claim(first, own, others), claim(second, others, own))))
    assert won == [1] * 25
    assert lost == [(1, True, "exists")] * 25
    found = await versions(cluster)
    assert all((own in found) != (others in found) for own, others in zip(mine, theirs, strict=True))
    await assert_sound(cluster)


async def test_a_bank_whose_workers_die(cluster: Cluster) -> None:
    """Two workers, one of which dies in the middle of transfers: all that everybody was told has one order."""
    victim, other = cluster.mortal_worker("victim"), cluster.worker("other")
    await asyncio.gather(asyncio.to_thread(victim.start), asyncio.to_thread(other.start))
    bank = Bank(accounts=6)
    async with holdfast.connect(cluster.amqp_url) as one, holdfast.connect(cluster.amqp_url) as two:
        await bank.open(one)
        callers = [asyncio.ensure_future(bank.run(client)) for client in (one, two) for _ in range(4)]
        for step in (Step.APPENDED, Step.COMMITTING):
            victim.die_at(step, 5)
            await cluster.until(lambda: not victim.running, f"death {step}")
            await asyncio.to_thread(victim.start)
            await bank.until(bank.transferred + 20)
        bank.stopping = True
        await asyncio.gather(*callers)
    records = await read_log(cluster.mongo_url)
    assert faults(bank, records) == []
    assert bank.outcomes["committed"] > 40
    assert bank.outcomes["ConflictError"] > 0
    assert sum(isinstance(record, Receipt) for record in records) >= bank.outcomes["committed"]
    await assert_sound(cluster)
