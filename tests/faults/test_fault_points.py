"""Workers that are killed at every step of their loop: what each death leaves, and that nothing is lost or doubled."""

import asyncio
from typing import Any

import pytest
from support.load import Load, check_log, read_log

import holdfast
from chaos.cluster import PARTITIONS, Cluster
from chaos.raw import raw_client
from chaos.steps import OF_A_WRITE, OF_AN_EVENT, Step
from holdfast.events import Event, partition_of
from holdfast.worker.ownership import priority

#: By then the log has the write of a worker that died at this step …
COMMITTED = (Step.APPENDED, Step.REPLIED, Step.ACKNOWLEDGING, Step.ACKNOWLEDGED)
#: … and by then its sender has been told.
ANSWERED = (Step.REPLIED, Step.ACKNOWLEDGING, Step.ACKNOWLEDGED)


def save(command_id: str, key: str, value: Any = None, **fields: Any) -> dict[str, Any]:
    return {"op": "save", "id": command_id, "key": key, "value": value, **fields}


def partition(key: str) -> str:
    return str(partition_of("default", key, PARTITIONS))


async def in_log(cluster: Cluster, command_id: str) -> bool:
    return command_id in {record.id for record in await read_log(cluster.mongo_url)}


@pytest.mark.parametrize("step", OF_A_WRITE)
async def test_what_a_death_leaves_of_one_write(cluster: Cluster, step: Step) -> None:
    """The only worker dies at a step of one write: what was done by then stands, and its successor does the rest."""
    worker = cluster.mortal_worker()
    await asyncio.to_thread(worker.start)
    async with raw_client(cluster.amqp_url) as raw:
        await raw.send(save("before", "k", "old"), partition("k"))
        await raw.answers("before")
        # An answer is heard before its worker has gone on.
        await cluster.until(lambda: cluster.waiting() == 0, "all acknowledged")
        worker.die_at(step)
        await raw.send(save("deadly", "k", "new", concurrency="first-write"), partition("k"))
        await raw.send(save("mortal", "k", "newer"), partition("k"))
        await cluster.until(lambda: not worker.running, f"death {step}")

        if step in ANSWERED:
            await raw.answers("deadly")
        else:
            assert raw.replies.keys() == {"before"}
        # Of what was on its way when the worker died, anybody's guess is right.
        if step is not Step.APPENDING:
            assert await in_log(cluster, "deadly") == (step in COMMITTED)
        if step is not Step.ACKNOWLEDGED:
            assert cluster.waiting() == 2
        await asyncio.to_thread(worker.start)
        deadly, mortal = await raw.answers("deadly", "mortal")
        await cluster.until(lambda: cluster.waiting() == 0, "all acknowledged")
        told = raw.replies["deadly"]

    assert deadly["status"] == "conflict"
    assert (mortal["status"], mortal["version"]) == ("ok", 2)
    for again in told:
        assert again["error"] == deadly["error"]
    records = await read_log(cluster.mongo_url)
    assert sorted(record.id for record in records) == ["before", "deadly", "mortal"]


@pytest.mark.parametrize("step", [*OF_A_WRITE, *OF_AN_EVENT])
async def test_death_under_load(cluster: Cluster, step: Step) -> None:
    """One of two workers dies at a step under load, comes back and dies there again: every save is there, once."""
    victim, other = cluster.mortal_worker("victim"), cluster.worker("other")
    # The victim gets its share of the partitions each time that it starts.
    shares = [priority("victim", number) > priority("other", number) for number in range(PARTITIONS)]
    assert any(shares)
    assert not all(shares)
    await asyncio.gather(asyncio.to_thread(victim.start), asyncio.to_thread(other.start))
    loads: list[Load] = []
    # Few calls at a time make many messages.
    async with holdfast.connect(cluster.amqp_url, max_in_flight=100) as client:
        for passage in (1, 10):
            loads.append(Load(client, saves=3_000, keys=60, name=f"load-{passage}"))
            victim.die_at(step, passage)
            await asyncio.gather(
                loads[-1].run(), cluster.until(lambda: not victim.running, f"death {step}, passage {passage}")
            )
            await asyncio.to_thread(victim.start)

    assert [load.failed for load in loads] == [{}, {}]
    records = await read_log(cluster.mongo_url)
    assert len(records) == 6_000
    check_log(records, *loads)


@pytest.mark.parametrize("step", [Step.RECEIVED, Step.DECIDED, Step.APPENDING, Step.APPENDED, Step.ACKNOWLEDGING])
async def test_an_old_owner_wakes_up_in_the_middle_of_a_write(cluster: Cluster, step: Step) -> None:
    """A worker stops at a step and wakes when its successor is done: it adds nothing, and says what was said before.

    In its hands: a save on the etag that it knows, a first save of a key that is deleted meanwhile, and a strong read.
    """
    old = cluster.mortal_worker("old", heartbeat=2)
    await asyncio.to_thread(old.start)
    async with raw_client(cluster.amqp_url) as raw, holdfast.connect(cluster.amqp_url) as client:
        first = await client.save("k", 1)
        await cluster.until(lambda: cluster.waiting() == 0, "all acknowledged")
        old.freeze_at(step)
        commands = [
            save("replaces", "k", 2, etag=first.etag),
            save("creates", "k", 3, concurrency="first-write"),
            {"op": "read", "id": "reads", "key": "k"},
        ]
        await raw.send(commands, partition("k"))
        await cluster.until(lambda: old.paused, f"it stops {step}")
        (successor,) = await cluster.start(heartbeat=2)
        await cluster.until_given_up(old)
        replaced, created, read = await raw.answers("replaces", "creates", "reads")
        assert await client.delete("k")
        last = await client.save("k", 4)

        began = len(old.log_path.read_text())
        old.resume()
        await cluster.until_told(old, "session lost", began)
        await cluster.until_ready(old)
        await asyncio.to_thread(successor.stop)
        found = await client.read("k")
        with pytest.raises(holdfast.ConflictError):
            await client.save("k", 5, etag=replaced["etag"])
        told = dict(raw.replies)

    assert (replaced["status"], replaced["version"]) == ("ok", 2)
    assert (created["status"], created["error"]["winner"]) == ("conflict", "replaces")
    assert (read["version"], read["value"]) == (2, 2)
    for again in told["replaces"]:
        assert (again["status"], again["version"], again["etag"]) == ("ok", 2, replaced["etag"])
    for again in told["creates"]:
        assert (again["status"], again["error"]) == ("conflict", created["error"])
    # The old one may answer its read as late as it likes, with what was there by then.
    assert all(each["version"] >= 2 for each in told["reads"])
    assert last.version == 4
    assert found is not None
    assert (found.version, found.value) == (4, 4)
    events = [record for record in await read_log(cluster.mongo_url) if isinstance(record, Event)]
    assert sorted(event.version for event in events) == [1, 2, 3, 4]


async def test_death_while_forwarding(cluster: Cluster) -> None:
    """A worker dies when it has forwarded and not acknowledged: what is forwarded twice is applied once."""
    worker = cluster.mortal_worker()
    await asyncio.to_thread(worker.start)
    keys = [f"key-{number}" for number in range(40)]
    async with raw_client(cluster.amqp_url) as raw:
        worker.die_at(Step.FORWARDED)
        await raw.send(save("object", "k", 1), "ingress")
        await cluster.until(lambda: not worker.running, "death after forward")
        assert cluster.depth("holdfast.ingress") == 1
        assert cluster.waiting() == 1
        await asyncio.to_thread(worker.start)
        await cluster.until(lambda: cluster.depth("holdfast.ingress") + cluster.waiting() == 0, "all is applied")
        once = await raw.answers("object", count=2)

        # Of an array for all partitions some parts are forwarded by then, and some are not.
        worker.die_at(Step.FORWARDED, 2)
        await raw.send([save(f"array-{key}", key, 2) for key in keys], "ingress")
        await cluster.until(lambda: not worker.running, "death after forward")
        await asyncio.to_thread(worker.start)
        answers = await raw.answers(*(f"array-{key}" for key in keys))
        await cluster.until(lambda: cluster.depth("holdfast.ingress") + cluster.waiting() == 0, "all is applied")
        told = [reply["version"] for replies in raw.replies.values() for reply in replies]

    assert {answer["status"] for answer in [*once, *answers]} == {"ok"}
    assert set(told) == {1}
    assert sorted(record.id for record in await read_log(cluster.mongo_url)) == sorted(
        ["object", *(f"array-{key}" for key in keys)]
    )


async def test_death_while_burying(cluster: Cluster) -> None:
    """A worker dies when it has buried and not acknowledged: there may be two letters, and never none."""
    worker = cluster.mortal_worker()
    await asyncio.to_thread(worker.start)
    async with raw_client(cluster.amqp_url) as raw:
        worker.die_at(Step.BURIED)
        await raw.send({"op": "explode", "id": "bad", "key": "k"}, partition("k"), reply=False)
        await cluster.until(lambda: not worker.running, "death after burial")
        assert cluster.depth("holdfast.dead") == 1
        assert cluster.waiting() == 1
        await raw.send(save("good", "k", 1), partition("k"))
        await asyncio.to_thread(worker.start)
        (good,) = await raw.answers("good")
        await cluster.until(lambda: cluster.waiting() == 0, "all acknowledged")
        letters = await cluster.dead_letters(2)

    assert (good["status"], good["version"]) == ("ok", 1)
    assert {letter.headers["x-holdfast-reason"] for letter in letters} == {"bad_op"}
    assert {letter.body for letter in letters} == {b'{"op":"explode","id":"bad","key":"k"}'}
