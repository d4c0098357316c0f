"""Services of real worker processes, which may be killed, frozen and starved."""

import asyncio
import contextlib
import functools
import itertools
import os
import signal
import sys
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aio_pika

from holdfast.events import partition_queue
from holdfast.local import Addresses, MongoReplicaSet, RabbitCluster, RabbitServer, ServerStateError, WorkerServer
from holdfast.local.process import load_state

from .raw import connect
from .sabotage import SABOTAGE_VARIABLE
from .steps import ORDER_VARIABLE, Step, give_order, withdraw_order

PARTITIONS = 4

#: Of the packages that are no part of the distribution.
ROOT = Path(__file__).parents[1]

#: Seconds between two looks at what is waited for.
_POLL = 0.02

T = TypeVar("T")
Worker = TypeVar("Worker", bound=WorkerServer)


class MortalWorker(WorkerServer):
    """A worker that dies or freezes at a step of its loop when it is told to.

    :param breaks: the promise that it is to break, see sabotage.py.
    """

    def __init__(self, *arguments: Any, breaks: str = "", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._breaks = breaks

    @property
    def _order_path(self) -> Path:
        return self.directory.with_name(f"{self.directory.name}.order")

    def die_at(self, step: Step, passage: int = 1) -> None:
        """Have it kill itself when it comes by this step for the ``passage``-th time from now on."""
        give_order(self._order_path, step, passage)

    def freeze_at(self, step: Step, passage: int = 1) -> None:
        """As ``die_at``, but it only stops until it is resumed."""
        give_order(self._order_path, step, passage, signal.SIGSTOP)

    def live(self) -> None:
        """Take the order back, if it was not carried out."""
        withdraw_order(self._order_path)

    def ask_to_stop(self) -> None:
        """Have it finish what is in its hands and leave. ServerStateError if it is not running."""
        self._signal(signal.SIGTERM)

    def _prepare(self) -> tuple[Sequence[str], dict[str, str]]:
        _, environment = super()._prepare()
        environment |= {
            ORDER_VARIABLE: str(self._order_path),
            SABOTAGE_VARIABLE: self._breaks,
            "PYTHONPATH": str(ROOT),
        }
        return [sys.executable, "-m", "chaos.worker"], environment


async def until(condition: Callable[[], bool], what: str, timeout: float = 30) -> None:
    """Wait until something can be seen from outside.

    :raises TimeoutError: if it cannot be seen within so many seconds.
    """

    def look() -> bool:
        try:
            return condition()
        except ServerStateError:
            return False  # a server that cannot be asked shows nothing

    deadline = time.monotonic() + timeout
    while not await asyncio.to_thread(look):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what}")
        await asyncio.sleep(_POLL)


async def patiently(work: Callable[[], Awaitable[T]], timeout: float = 60) -> T:
    """Do something as soon as it can be done: what fails is tried again.

    :raises Exception: what it failed with at last, after so many seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            return await work()
        except Exception:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(10 * _POLL)


class Cluster:
    """Workers, as processes, of one service; and the servers that it lives on."""

    def __init__(
        self,
        directory: Path,
        rabbit: RabbitServer | RabbitCluster,
        vhost: str,
        mongo: MongoReplicaSet,
        database: str,
        *,
        partitions: int = PARTITIONS,
        **settings: object,
    ) -> None:
        """Make a cluster without workers.

        :param settings: of all its workers, unless they have others; those of the environment, in lower case.
        """
        self._directory = directory
        self._names = itertools.count(1)
        self._settings = settings
        self.rabbit = rabbit
        self.vhost = vhost
        self.mongo = mongo
        self.amqp_url = rabbit.url(vhost)
        #: The broker's address for workers that are made from now on.
        self.worker_amqp_url = self.amqp_url
        self.mongo_url = mongo.url(database)
        self.partitions = partitions
        self.workers: list[WorkerServer] = []

    def worker(self, name: str | None = None, **settings: object) -> WorkerServer:
        """A worker that is not started yet. Settings are those of the environment, in lower case."""
        return self._make(WorkerServer, name, settings)

    def mortal_worker(self, name: str | None = None, *, breaks: str = "", **settings: object) -> MortalWorker:
        """As ``worker``, but one that dies where it is told to, or breaks a promise."""
        return self._make(functools.partial(MortalWorker, breaks=breaks), name, settings)

    def _make(self, kind: Callable[..., Worker], name: str | None, settings: dict[str, object]) -> Worker:
        name = name or f"worker-{next(self._names)}"
        settings = {
            "worker_name": name,
            "partitions": self.partitions,
            "head_cache_bytes": 2**22,
            "value_cache_bytes": 2**22,
            **self._settings,
            **settings,
        }
        environment = {f"HOLDFAST_{key.upper()}": str(value) for key, value in settings.items()}
        worker = kind(
            self._directory / name, addresses=Addresses(self.worker_amqp_url, self.mongo_url), environment=environment
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
        given = dict(worker._environment)  # noqa: SLF001 - the same server, started by other means
        environment = os.environ | given | {"HOLDFAST_HEALTH_FILE": str(worker.health_path)}
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
        connection = await connect(self.amqp_url)
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
                "{Name, _} = amqqueue:get_pid(Q), "
                "{ok, {_, N}, _} = ra:leader_query({Name, node()}, fun rabbit_fifo:query_messages_total/1), N"
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
        return sum(self.depth(partition_queue(partition)) for partition in range(self.partitions))

    def connections_named(self, part: str) -> int:
        """Connections of this virtual host, to whatever node, whose name has this in it."""
        return int(
            self.rabbit.eval(
                "length([P || P <- rabbit_networking:connections(), [{vhost, V}, {client_properties, Ps}] <- "
                "[catch rabbit_networking:connection_info(P, [vhost, client_properties])], "
                f'V == <<"{self.vhost}">>, {{<<"connection_name">>, _, N}} <- Ps, '
                f'binary:match(N, <<"{part}">>) =/= nomatch])'
            )
        )

    def close_connections_named(self, part: str) -> int:
        """Close the connections of this virtual host, to whatever node, whose name has this in it.

        Gives back how many there were.
        """
        closed = self.rabbit.eval(
            "pg_local:sync(), Named = [P || P <- rabbit_networking:connections(), [{vhost, V}, "
            "{client_properties, Ps}] <- [catch rabbit_networking:connection_info(P, [vhost, client_properties])], "
            f'V == <<"{self.vhost}">>, {{<<"connection_name">>, _, N}} <- Ps, '
            f'binary:match(N, <<"{part}">>) =/= nomatch], '
            '[rabbit_networking:close_connection(P, "closed by a test") || P <- Named], length(Named)'
        )
        return int(closed)

    def cancel_consumers(self, queue: str) -> int:
        """Have the broker tell all consumers of a queue that it has cancelled them. Gives back how many there were."""
        return int(
            self.rabbit.eval(
                "length([rabbit_channel:send_command(Channel, {'basic.cancel', Tag, true}) || "
                f'C <- rabbit_amqqueue:consumers_all(<<"{self.vhost}">>), {{queue_name, Q}} <- C, '
                f'element(4, Q) == <<"{queue}">>, {{channel_pid, Channel}} <- C, {{consumer_tag, Tag}} <- C])'
            )
        )

    until = staticmethod(until)

    async def until_given_up(self, worker: WorkerServer, timeout: float = 30) -> None:
        """Wait until the broker holds no connection of this worker any more."""
        name = f"holdfast worker {worker.directory.name} ("
        await until(lambda: self.connections_named(name) == 0, f"{worker.directory.name} is given up", timeout)

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
