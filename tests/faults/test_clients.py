"""Clients that are killed, that ask too much at once, that do not take their answers, and messages that come twice."""

import asyncio
import functools
import json
from pathlib import Path
from random import Random

from support.cluster import Cluster
from support.load import Load, check_log, read_log

import holdfast
from benchmarks.machine import resident_mib
from chaos.check import LOG_FILE, dump_log, histories_in
from chaos.crowd import Crowd
from chaos.faults.clients import LARGE_READS, LARGE_VALUE, LARGE_VALUES, ClientKilled, MessagesCopied, SlowConsumer
from chaos.history import Recorder, load
from chaos.runner import check_run
from holdfast.client.calls import Call
from holdfast.events import Event


def called(crowd: Crowd, wanted: int) -> bool:
    return crowd.outcomes.total() >= wanted


async def test_a_client_killed_in_the_middle_of_its_calls(cluster: Cluster, tmp_path: Path) -> None:
    """What it had called appears at most once, or never; another client goes on, and every answer fits."""
    await cluster.start()
    crowd = Crowd(tmp_path, amqp_url=cluster.amqp_url, seed="kill", processes=2, callers=48, partitions=4)
    fault = ClientKilled(crowd, Random(1))  # noqa: S311
    try:
        await crowd.start()
        for _ in range(3):
            wanted = crowd.outcomes.total() + 1_000
            await cluster.until(functools.partial(called, crowd, wanted), "some calls")
            await fault.strike()
            await fault.heal()
        await crowd.stop()
    finally:
        crowd.kill_all()
    await dump_log(cluster.mongo_url, tmp_path / LOG_FILE)
    (tmp_path / "run.json").write_text(json.dumps({"seed": "kill", "partitions": 4}))

    unfinished = {each.id for each in load(histories_in(tmp_path)) if each.returned is None and each.op != "read"}
    assert len(histories_in(tmp_path)) == 5
    assert unfinished
    assert (await check_run(tmp_path)).findings == []
    assert crowd.findings == []


async def test_more_calls_than_a_client_may_have_in_flight(cluster: Cluster) -> None:
    """Ten thousand calls at once on a client that may have five hundred in flight: the others wait, and all succeed."""
    await cluster.start()
    bound = 500
    most = 0
    async with holdfast.connect(cluster.amqp_url, max_in_flight=bound) as client:
        calls = Load(client, saves=10_000, keys=500)
        dispatcher = client._dispatcher
        assert dispatcher is not None
        submit = dispatcher.submit

        def watched(call: Call, timeout: float) -> None:
            nonlocal most
            submit(call, timeout)
            most = max(most, dispatcher.in_flight)

        dispatcher.submit = watched  # type: ignore[method-assign]
        await calls.run()

    assert calls.failed == {}
    assert most == bound
    records = await read_log(cluster.mongo_url)
    assert len(records) == 10_000
    check_log(records, calls)


async def test_calls_that_find_no_place_in_time_were_not_made(cluster: Cluster) -> None:
    """While nobody answers, what waits for a place ends as certainly not applied, and never is."""
    (worker,) = await cluster.start()
    async with holdfast.connect(cluster.amqp_url, max_in_flight=10) as client:
        await client.save("k", 0)
        await asyncio.to_thread(worker.pause)
        calls = Load(client, saves=200, keys=20, timeout=2)
        await calls.run()
        await asyncio.to_thread(worker.resume)
        await client.save("k", 1)

    # On a slow machine some that have a place are not sent in time: that is one of the latter, too.
    assert all(isinstance(error, holdfast.OutcomeUnknown | holdfast.Unavailable) for error in calls.failed.values())
    assert holdfast.Unavailable in {type(error) for error in calls.failed.values()}
    unknown = {each for each, error in calls.failed.items() if isinstance(error, holdfast.OutcomeUnknown)}
    # Who gets a place in the last moment is sent too.
    assert 10 <= len(unknown) < 100
    events = {record.id for record in await read_log(cluster.mongo_url) if isinstance(record, Event)}
    assert {each for each in events if each in calls.ids} <= unknown


async def test_somebody_does_not_take_his_answers(cluster: Cluster, tmp_path: Path) -> None:
    """Large answers that nobody reads pile up in the broker, and not in the worker; others are served all the while."""
    (worker,) = await cluster.start()
    pid = worker.pid
    assert pid is not None
    with Recorder(tmp_path / "slow.history") as recorder:
        fault = SlowConsumer(cluster, recorder)
        async with holdfast.connect(cluster.amqp_url) as client:
            warm = Load(client, saves=3_000, keys=100, name="warm")
            await warm.run()
            before = resident_mib(pid)
            striking = asyncio.create_task(fault.strike())
            loads: list[Load] = []
            while not striking.done():
                loads.append(Load(client, saves=300, keys=50, name=f"load-{len(loads)}"))
                await loads[-1].run()
            await striking
            await cluster.until(lambda: cluster.waiting() == 0, "all reads are answered")
            after = resident_mib(pid)
            last = Load(client, saves=300, keys=50, name="last")
            await last.run()
        await fault.heal()

    assert [each.failed for each in [*loads, last]] == [{}] * (len(loads) + 1)
    asked = LARGE_READS * LARGE_VALUES * LARGE_VALUE / 2**20
    assert after - before < asked / 2
    assert "session lost" not in worker.log_path.read_text()


async def test_messages_that_come_twice(cluster: Cluster) -> None:
    """Every message published a second time, under load: each save is there once, in its order."""
    await cluster.start(2)
    fault = MessagesCopied(cluster)
    async with holdfast.connect(cluster.amqp_url, max_in_flight=200) as client:
        striking = asyncio.create_task(fault.strike())
        loads: list[Load] = []
        while not striking.done():
            loads.append(Load(client, saves=500, keys=50, name=f"load-{len(loads)}"))
            await loads[-1].run()
        await striking
        await cluster.until(lambda: cluster.waiting() == 0, "all queues are empty")

    assert all(each.failed == {} for each in loads)
    records = await read_log(cluster.mongo_url)
    assert len(records) == 500 * len(loads)
    check_log(records, *loads)
