"""A short run of all of it; and runs on workers that break a promise, which the same checks have to find."""

import asyncio
import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from support.cluster import Cluster

from chaos.check import LOG_FILE, dump_log, histories_in
from chaos.crowd import Crowd
from chaos.display import Display
from chaos.runner import Options, Runner, check_run
from chaos.sabotage import PROMISES
from chaos.stage import Size

#: Faults that are over soon.
QUICK = (
    "a worker killed",
    "a worker drained",
    "a worker dies in append",
    "a worker dies after append",
    "a worker dies after reply",
    "a client killed",
    "messages come twice",
)


@pytest.mark.timeout(400)
async def test_a_short_run(tmp_path: Path) -> None:
    """Half a minute of load, faults alone and mixed, and nothing is wrong; the report tells what was done."""
    console = Console(file=io.StringIO())
    options = Options(seed="short", minutes=0.5, faults=QUICK, size=Size(callers=96))
    with Display(console, 30) as display:
        report = await Runner(tmp_path, options, display).run()

    assert report.findings == []
    # How many there are is a matter of the machine.
    assert report.operations > 100
    assert report.outcomes["ok"] > report.operations / 2
    assert report.outcomes["conflict"] > 0
    assert report.transactions["ok"] > 0
    assert report.receipts > 0
    assert report.events > 50
    alone = [injection for injection in report.injections if injection.alone]
    assert alone
    assert [standstill.name for standstill in report.standstills] == [injection.name for injection in alone]
    assert all(0 < each.all_writes <= each.one_partition for each in report.standstills)
    assert "passed" in (tmp_path / "report.md").read_text()
    assert json.loads((tmp_path / "report.json").read_text())["operations"] == report.operations


async def record(cluster: Cluster, directory: Path, *, breaks: str) -> None:
    """Some seconds of load on a worker, and all that a run leaves behind."""
    # One worker alone knows all that was done, so that nothing comes between a look and a commit.
    number, calls = (2, 6_000) if breaks == "unguard" else (1, 3_000)
    workers = [cluster.mortal_worker(breaks=breaks) for _ in range(number)]
    await asyncio.gather(*(asyncio.to_thread(worker.start) for worker in workers))
    crowd = Crowd(
        directory, amqp_url=cluster.amqp_url, seed="broken", processes=1, callers=48, partitions=cluster.partitions
    )
    try:
        await crowd.start()
        await cluster.until(lambda: crowd.outcomes.total() > calls, "some thousand operations", 60)
        await crowd.stop()
    finally:
        crowd.kill_all()
    await dump_log(cluster.mongo_url, directory / LOG_FILE)
    (directory / "run.json").write_text(json.dumps({"seed": "broken", "partitions": cluster.partitions}))


@pytest.mark.parametrize("promise", PROMISES)
async def test_a_worker_that_breaks_a_promise_is_found(cluster: Cluster, tmp_path: Path, promise: str) -> None:
    """A lost write, one applied twice, a stale read, a forgotten answer, half of a transaction, a check that was not
    looked at again: each makes the checks of a run fail.
    """
    await record(cluster, tmp_path, breaks=promise)

    assert (await check_run(tmp_path)).findings != []


async def test_a_worker_that_keeps_its_promises_passes(cluster: Cluster, tmp_path: Path) -> None:
    """The same load on a worker as it should be; then the same history with one answer changed."""
    await record(cluster, tmp_path, breaks="")
    assert (await check_run(tmp_path)).findings == []

    (history,) = histories_in(tmp_path)
    lines = history.read_text().splitlines()
    number = next(number for number, line in enumerate(lines) if '"answer_value":"' in line)
    told = json.loads(lines[number])
    lines[number] = json.dumps(told | {"answer_value": "never saved"})
    history.write_text("\n".join([*lines, ""]))

    assert (await check_run(tmp_path)).findings != []
