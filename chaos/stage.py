"""The stage: all servers, workers and clients of a run. Everything is ended with it, whatever happens."""

import asyncio
import itertools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from holdfast.events import partition_queue
from holdfast.events.topology import INGRESS
from holdfast.events.urls import amqp_urls
from holdfast.local import RabbitCluster, RabbitServer, find_mongod, find_rabbitmq
from holdfast.local.ports import LOOPBACK

from .cluster import Cluster, until
from .crowd import Crowd
from .proxy import Proxy
from .replicas import ProxiedReplicaSet

#: Seconds between heartbeats of workers to the broker.
HEARTBEAT = 4
#: Seconds until all queues are empty, once there is nothing more to do.
DRAIN_TIMEOUT = 120.0
DATABASE = "chaos"

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    rabbits: int = 1
    mongods: int = 3
    workers: int = 2
    partitions: int = 8
    #: Client processes, and callers in each.
    clients: int = 2
    callers: int = 256


def through(proxy: Proxy, amqp_url: str) -> str:
    """The same broker, by way of a proxy."""
    return str(amqp_urls(amqp_url)[0].with_host(LOOPBACK).with_port(proxy.port))


class Stage:
    """Use it in ``async with``, which starts servers and workers; clients are started by ``crowd.start()``.

    :param breaks: the promise that all workers break, see sabotage.py.
    """

    def __init__(self, directory: Path, *, seed: str, size: Size, breaks: str = "", say: Say) -> None:
        self.directory = directory
        self.seed = seed
        self.size = size
        self._breaks = breaks
        self._say = say
        place = directory / "rabbitmq"
        self.rabbit = RabbitServer(place) if size.rabbits == 1 else RabbitCluster(place, nodes=size.rabbits)
        self.mongo = ProxiedReplicaSet(directory / "mongodb", members=size.mongods, cache_gb=0.5)
        #: Between clients and the broker, and between workers and the broker. Of a cluster they take the nodes in turn.
        self.at_clients, self.at_workers = (Proxy(self._next_node()) for _ in range(2))
        self._cluster: Cluster | None = None
        self._crowd: Crowd | None = None

    @property
    def cluster(self) -> Cluster:
        """The workers."""
        assert self._cluster is not None  # noqa: S101 - there from the start on
        return self._cluster

    @property
    def crowd(self) -> Crowd:
        """The clients."""
        assert self._crowd is not None  # noqa: S101
        return self._crowd

    async def __aenter__(self) -> Self:
        """Start servers and workers.

        :raises LocalStackError: if something does not start.
        """
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """End everything, at once."""
        await self._end()

    async def _start(self) -> None:
        size = self.size
        find_rabbitmq(self._say)
        find_mongod(self._say)
        self._say(f"starting {size.rabbits} RabbitMQ and {size.mongods} MongoDB servers")
        await asyncio.gather(asyncio.to_thread(self.rabbit.start), asyncio.to_thread(self.mongo.start))
        self.at_clients.start()
        self.at_workers.start()
        self._cluster = Cluster(
            self.directory,
            self.rabbit,
            "/",
            self.mongo,
            DATABASE,
            partitions=size.partitions,
            heartbeat=HEARTBEAT,
            head_cache_bytes=2**26,
            value_cache_bytes=2**25,
        )
        direct = self._cluster.amqp_url
        self._cluster.worker_amqp_url = through(self.at_workers, direct)
        self._say(f"starting {size.workers} workers")
        workers = [self._cluster.mortal_worker(breaks=self._breaks) for _ in range(size.workers)]
        await asyncio.gather(*(asyncio.to_thread(worker.start) for worker in workers))
        self._crowd = Crowd(
            self.directory,
            amqp_url=through(self.at_clients, direct),
            seed=self.seed,
            processes=size.clients,
            callers=size.callers,
            partitions=size.partitions,
        )

    @property
    def nodes(self) -> Sequence[RabbitServer]:
        """The nodes of the broker, also if there is one only."""
        return self.rabbit.members if isinstance(self.rabbit, RabbitCluster) else [self.rabbit]

    def _next_node(self) -> Callable[[], tuple[str, int]]:
        turns = itertools.cycle(range(self.size.rabbits))

        def next_node() -> tuple[str, int]:
            node = self.nodes[next(turns)]
            return node.address, node.amqp_port

        return next_node

    async def drain(self) -> None:
        """Wait until everything that was sent is done.

        :raises TimeoutError: if it takes too long.
        """
        queues = [INGRESS, *map(partition_queue, range(self.size.partitions))]
        await until(lambda: not any(map(self.cluster.depth, queues)), "all queues are empty", DRAIN_TIMEOUT)

    async def _end(self) -> None:
        def end() -> None:
            if self._crowd is not None:
                self._crowd.kill_all()
            if self._cluster is not None:
                self._cluster.stop()
            for server in (*self.nodes, *self.mongo.members):
                server.kill()
                # A mongod's journal alone takes 300 MB. What tells of the run is in the logs.
                shutil.rmtree(server.directory / "data", ignore_errors=True)
            self.mongo.stop_proxies()
            self.at_clients.stop()
            self.at_workers.stop()

        # Not to be left half done by a second Ctrl-C.
        await asyncio.shield(asyncio.to_thread(end))
