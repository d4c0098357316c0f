"""Traffic through a service while something happens to it, recorded call by call, and what has to be true of it."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import holdfast
from chaos.audit import Audit
from chaos.cluster import Cluster, until
from chaos.history import Operation, Recorder, load
from chaos.line import RawLine
from chaos.linearizability import Result, check
from chaos.plan import LEDGERS, Plan
from chaos.serializability import check as check_order
from chaos.serializability import happened_in
from chaos.workload import Caller, Tally
from holdfast import Client
from holdfast.events import Event, partition_of
from support.load import read_log

#: Callers at the same time, and hot keys that they share.
CALLERS = 24
GROUPS = 8
#: Each traffic has keys of its own: it begins so many generations of keys behind the one before. And so many lie
#: between its groups, because keys that differ in one digit may all be of one partition.
GENERATIONS = 100
STRIDE = 11

_numbers = itertools.count(1)


def one_of_each(partitions: int) -> list[str]:
    """A key of each partition."""
    keys: dict[int, str] = {}
    for number in itertools.count():
        keys.setdefault(partition_of("default", f"probe-{number}", partitions), f"probe-{number}")
        if len(keys) == partitions:
            break
    return list(keys.values())


class Traffic:
    """Callers of one service, which call until they are asked to stop."""

    def __init__(self, path: Path, tally: Tally, client: Client, partitions: int) -> None:
        self._path = path
        self._tally = tally
        self._client = client
        self._partitions = partitions

    async def flows(self) -> None:
        """Wait until a write of each partition is acknowledged, and one more of the traffic."""
        await asyncio.gather(*(self._client.save(key, None, timeout=60) for key in one_of_each(self._partitions)))
        now = time.monotonic_ns()
        acknowledged = self._tally.acknowledged
        await until(lambda: max(acknowledged.values(), default=0) > now, "an acknowledged write", 60)

    def operations(self) -> list[Operation]:
        """All calls, and what came of them."""
        return load([self._path])

    async def check(self, mongo_url: str) -> None:
        """What was told is true: by the log, of each key by itself, and of all together. Nothing else is in the log."""
        assert not self._tally.findings, "\n".join(self._tally.findings)
        operations = self.operations()
        keys = {key for operation in operations for key in operation.keys}
        log = [record for record in await read_log(mongo_url) if record.key in keys]
        audit = Audit(operations)
        found = [str(finding) for record in log for finding in audit.see(record)]
        found += map(str, audit.finish())
        verdicts = check(each for each in audit.settled() if not each.key.startswith(LEDGERS))
        found += [verdict.explanation for verdict in verdicts if verdict.result is not Result.LINEARIZABLE]
        found += check_order(happened_in(operations), (record for record in log if isinstance(record, Event)))
        # pytest explains no asserts of modules like this one.
        assert not found, "\n".join(found)


@asynccontextmanager
async def traffic(cluster: Cluster, amqp_url: str, directory: Path) -> AsyncIterator[Traffic]:
    """Traffic of some callers with two clients and a raw line; checked when it has stopped, if nothing failed."""
    path, tally, generation = directory / "calls.history", Tally(), GENERATIONS * next(_numbers)
    stopping = False
    async with contextlib.AsyncExitStack() as stack:
        recorder = stack.enter_context(Recorder(path))
        clients = [await stack.enter_async_context(holdfast.connect(amqp_url)) for _ in range(2)]
        line = RawLine(amqp_url)
        beside = asyncio.create_task(line.run())
        callers = [
            asyncio.create_task(
                Caller(
                    f"caller-{generation}-{number}",
                    Plan(
                        "traffic",
                        "test",
                        number,
                        groups=GROUPS,
                        partitions=cluster.partitions,
                        generation=generation + STRIDE * (number % GROUPS),
                    ),
                    clients=tuple(clients),
                    line=line,
                    recorder=recorder,
                    tally=tally,
                    partitions=cluster.partitions,
                ).run(lambda: stopping)
            )
            for number in range(CALLERS)
        ]
        running = Traffic(path, tally, clients[0], cluster.partitions)
        try:
            await running.flows()
            yield running
            await running.flows()
            stopping = True
            await asyncio.gather(*callers)
        finally:
            for task in (beside, *callers):
                task.cancel()
            await asyncio.gather(beside, *callers, return_exceptions=True)
    await running.check(cluster.mongo_url)
