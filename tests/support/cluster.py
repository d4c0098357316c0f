"""Services of real worker processes, which a test may kill, freeze and starve."""

import asyncio
import contextlib
import itertools
import os
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Callable
from pathlib import Path

import aio_pika

from holdfast.events import partition_queue
from holdfast.local import Addresses, MongoReplicaSet, RabbitServer, WorkerServer
from holdfast.local.process import load_state

PARTITIONS = 4


class Cluster:
    """Workers, as processes, of one service; and the servers that it lives on."""

    def __init__(
        self, directory: Path, rabbit: RabbitServer, vhost: str, mongo: MongoReplicaSet, database: str
    ) -> None:
        self._directory = directory
        self._names = itertools.count(1)
        self.rabbit = rabbit
        self.vhost = vhost
        self.mongo = mongo
        self.amqp_url = rabbit.url(vhost)
        self.mongo_url = mongo.url(database)
        self.workers: list[WorkerServer] = []

    def worker(self, name: str | None = None, **settings: object) -> WorkerServer:
        """A worker that is not started yet. Settings are those of the environment, in lower case."""
        name = name or f"worker-{next(self._names)}"
        settings = {
            "worker_name": name,
            "partitions": PARTITIONS,
            "head_cache_bytes": 2**22,
            "value_cache_bytes": 2**22,
        } | settings
        environment = {f"HOLDFAST_{key.upper()}": str(value) for key, value in settings.items()}
        worker = WorkerServer(
            self._directory / name, addresses=Addresses(self.amqp_url, self.mongo_url), environment=environment
        )
        self.workers.append(worker)
        return worker

    async def start(self, count: int = 1, **settings: object) -> list[WorkerServer]:
        """Start so many workers side by side; returns when all are ready."""
        workers = [self.worker(None, **settings) for _ in range(count)]
        await asyncio.gather(*(asyncio.to_thread(worker.start) for worker in workers))
        return workers

    async def run(self, worker: WorkerServer) -> Process:
        """A worker as a process of its own, for tests that look at its exit code and at what it says."""
        environment = os.environ | dict(worker._environment) | {"HOLDFAST_HEALTH_FILE": str(worker.health_path)}
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "holdfast", "worker", env=environment, stderr=asyncio.subprocess.PIPE
        )

    @staticmethod
    async def end(process: Process) -> None:
        """Kill such a process, if it is still there."""
        if process.returncode is None:
            process.kill()
            await process.wait()

    async def dead_letters(self, count: int) -> list[aio_pika.abc.AbstractIncomingMessage]:
        """Wait for so many messages in the dead letter queue, and take them."""
        connection = await aio_pika.connect(self.amqp_url)
        async with connection:
            channel = await connection.channel()
            queue = await channel.get_queue("holdfast.dead")
            messages: list[aio_pika.abc.AbstractIncomingMessage] = []
            async with queue.iterator(no_ack=True) as incoming:
                while len(messages) < count:
                    messages.append(await anext(incoming))
            return messages

    def depth(self, queue: str) -> int:
        """Messages in a quorum queue at this moment, those in a worker's hands included."""
        # The usual figures are some seconds old.
        return int(
            self.rabbit.eval(
                f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{self.vhost}">>, queue, <<"{queue}">>)), '
                "{ok, {_, N}, _} = ra:local_query(amqqueue:get_pid(Q), fun rabbit_fifo:query_messages_total/1), N"
            )
        )

    def consumers(self) -> int:
        """Consumers of Holdfast's own queues."""
        return int(
            self.rabbit.eval(
                f'length([C || C <- rabbit_amqqueue:consumers_all(<<"{self.vhost}">>), '
                '{queue_name, Q} <- C, binary:match(element(4, Q), <<"holdfast.">>) =/= nomatch])'
            )
        )

    def waiting(self) -> int:
        """Messages in all partitions' queues."""
        return sum(self.depth(partition_queue(partition)) for partition in range(PARTITIONS))

    def close_connections_named(self, part: str) -> int:
        """Close the connections of this virtual host whose name has this in it. Gives back how many there were."""
        closed = self.rabbit.eval(
            "pg_local:sync(), Named = [P || P <- rabbit_networking:local_connections(), [{vhost, V}, "
            "{client_properties, Ps}] <- [rabbit_networking:connection_info(P, [vhost, client_properties])], "
            f'V == <<"{self.vhost}">>, {{<<"connection_name">>, _, N}} <- Ps, '
            f'binary:match(N, <<"{part}">>) =/= nomatch], '
            '[rabbit_networking:close_connection(P, "closed by a test") || P <- Named], length(Named)'
        )
        return int(closed)

    @staticmethod
    async def until(condition: Callable[[], bool], what: str, timeout: float = 30) -> None:
        """Wait until something can be seen from outside."""

        def watch() -> None:
            deadline = time.monotonic() + timeout
            while not condition():
                assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
                time.sleep(0.02)

        await asyncio.to_thread(watch)

    async def until_told(self, worker: WorkerServer, text: str, since: int = 0) -> None:
        """Wait until a worker has logged a text, not counting the first ``since`` characters of its log."""
        await self.until(lambda: text in worker.log_path.read_text()[since:], f"{text!r} in the log of the worker")

    async def until_ready(self, worker: WorkerServer, ready: bool = True) -> None:
        """Wait until a worker's health file says that it is ready, or that it is not."""
        await self.until(lambda: load_state(worker.health_path).get("ready") is ready, f"ready: {ready}")

    def stop(self) -> None:
        """End all workers, at once."""
        for worker in self.workers:
            with contextlib.suppress(Exception):
                worker.resume()
            worker.kill()
