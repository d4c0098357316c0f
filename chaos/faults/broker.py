"""A broker that restarts, hangs up, freezes, loses a queue, has an alarm, and a cluster that loses a node."""

import asyncio
import functools
from collections.abc import Callable, Sequence
from random import Random

from holdfast.events import partition_queue
from holdfast.local import RabbitCluster, RabbitNode, RabbitServer, ServerStateError

from ..cluster import Cluster, patiently, until
from . import Fault

#: Seconds for which an alarm, a split or an absence lasts.
HOLDING = 5.0
#: Seconds of frost that nobody's heartbeat notices, …
NAP = 2.0
#: … and of one that everybody's does.
FROST = 15.0
#: Seconds for a node to be there again.
START_TIMEOUT = 90.0
#: Seconds for something to be seen.
PATIENCE = 60.0

#: What a worker, and what a client calls its connections; and what both do.
ALL = "holdfast "
WORKERS = "holdfast worker "
CLIENTS = "holdfast client "

#: What sets the limit, one that raises the alarm, and the one of RabbitServer.
ALARMS = {
    "memory": ("vm_memory_monitor:set_vm_memory_high_watermark", "{absolute, 1000000}", "{absolute, 1 bsl 30}"),
    "disk": ("rabbit_disk_monitor:set_disk_free_limit", "1 bsl 60", "50 bsl 20"),
}


class BrokerFault(Fault):
    """A fault of the broker, of one node or more."""

    def __init__(self, cluster: Cluster, random: Random) -> None:
        self._cluster = cluster
        self._random = random

    @property
    def _rabbit(self) -> RabbitServer | RabbitCluster:
        return self._cluster.rabbit

    @property
    def _nodes(self) -> Sequence[RabbitServer]:
        rabbit = self._rabbit
        return rabbit.members if isinstance(rabbit, RabbitCluster) else [rabbit]

    async def heal(self) -> None:
        """Wake and start all nodes, and wait until they see each other."""
        for node in self._nodes:
            if node.running:
                node.resume()
        await asyncio.to_thread(self._rabbit.start, START_TIMEOUT)


class BrokerRestarted(BrokerFault):
    """Stopped in order and started again; of a cluster all nodes."""

    name = "the broker restarted"

    async def strike(self) -> None:
        """Stop."""
        await asyncio.to_thread(self._rabbit.stop)


class BrokerKilled(BrokerFault):
    """SIGKILL, and started again; of a cluster all nodes at once."""

    name = "the broker killed"

    async def strike(self) -> None:
        """Kill."""
        await asyncio.to_thread(self._rabbit.kill)


class BrokerFrozen(BrokerFault):
    """SIGSTOP for a while: sockets stay open and nothing answers. Of a cluster one node."""

    def __init__(self, cluster: Cluster, random: Random, seconds: float) -> None:
        super().__init__(cluster, random)
        self._seconds = seconds
        self.name = f"the broker frozen for {seconds:g} s"

    async def strike(self) -> None:
        """Freeze it, and hold it."""
        node = self._random.choice(self._nodes)
        node.pause()
        await asyncio.sleep(self._seconds)


class ConnectionsClosed(BrokerFault):
    """Connections closed by the management command: all, or only those of workers or of clients."""

    def __init__(self, cluster: Cluster, random: Random, whose: str = ALL) -> None:
        super().__init__(cluster, random)
        self._whose = whose
        self.name = "all connections closed" if whose == ALL else f"connections of {whose.split()[1]}s closed"

    async def strike(self) -> None:
        """Close them; some have to be there."""
        await until(lambda: self._cluster.close_connections_named(self._whose) > 0, self.name, PATIENCE)


class QueueDeleted(BrokerFault):
    """The queue of a partition is deleted: the broker cancels its consumers, and what was in it is gone.

    What was gone without an answer its sender sends again.
    """

    name = "a queue deleted"

    async def strike(self) -> None:
        """Delete it, and wait until it is declared again."""
        queue = partition_queue(self._random.randrange(self._cluster.partitions))
        await patiently(lambda: asyncio.to_thread(self._rabbit.delete_queue, self._cluster.vhost, queue))
        await until(lambda: self._cluster.depth(queue) >= 0, f"{queue} is there again", PATIENCE)


class ConsumersCancelled(BrokerFault):
    """The broker cancels all consumers of a partition, as it does when their node leaves; the queue stays."""

    name = "consumers cancelled"

    async def strike(self) -> None:
        """Cancel them; some have to be there."""
        queue = partition_queue(self._random.randrange(self._cluster.partitions))
        await until(lambda: self._cluster.cancel_consumers(queue) > 0, self.name, PATIENCE)


class Alarm(BrokerFault):
    """No memory, or no disk left: the broker reads nothing from those who publish, and tells them so."""

    def __init__(self, cluster: Cluster, random: Random, resource: str) -> None:
        super().__init__(cluster, random)
        self._resource = resource
        self._set, self._alarming, self._usual = ALARMS[resource]
        self.name = f"{resource} alarm"

    async def strike(self) -> None:
        """Raise it, and hold it."""
        await self._set_all(self._alarming)
        await until(self._alarmed, self.name, PATIENCE)
        await asyncio.sleep(HOLDING)

    async def heal(self) -> None:
        """Take it back."""
        await super().heal()
        await self._set_all(self._usual)
        await until(lambda: not self._alarmed(), f"no {self.name} any more", PATIENCE)

    def _alarmed(self) -> bool:
        return f",{self._resource}," in self._rabbit.eval("rabbit_alarm:get_alarms()")

    async def _set_all(self, limit: str) -> None:
        for node in self._nodes:
            await patiently(functools.partial(asyncio.to_thread, node.eval, f"ok = {self._set}({limit})"))


class ClusterFault(BrokerFault):
    """A fault of one node of a cluster: one that leads a partition's queue, so that it is missed."""

    async def _leader(self) -> RabbitNode:
        """The leader of some partition's queue, as soon as one can be asked for it."""

        async def ask() -> RabbitNode:
            queue = partition_queue(self._random.randrange(self._cluster.partitions))
            return await asyncio.to_thread(self._rabbit_cluster.leader, self._cluster.vhost, queue)

        return await patiently(ask)

    @property
    def _rabbit_cluster(self) -> RabbitCluster:
        rabbit = self._rabbit
        if not isinstance(rabbit, RabbitCluster):
            raise ServerStateError("the broker is no cluster")
        return rabbit


class NodeKilled(ClusterFault):
    """SIGKILL to a node of a cluster, which comes back after a while."""

    name = "a node of the cluster killed"

    async def strike(self) -> None:
        """Kill it, and leave it away for a while."""
        await asyncio.to_thread((await self._leader()).kill)
        await asyncio.sleep(HOLDING)


class NodeStopped(ClusterFault):
    """A node of a cluster stopped in order, which comes back after a while."""

    name = "a node of the cluster stopped"

    async def strike(self) -> None:
        """Stop it, and leave it away for a while."""
        await asyncio.to_thread((await self._leader()).stop)
        await asyncio.sleep(HOLDING)


class NodeFrozen(ClusterFault):
    """SIGSTOP to a node of a cluster, for longer than all heartbeats: its peers give it up too."""

    name = "a node of the cluster frozen"

    async def strike(self) -> None:
        """Freeze it, and hold it."""
        (await self._leader()).pause()
        await asyncio.sleep(FROST)


class NodeIsolated(ClusterFault):
    """A node of a cluster cut off from the others, while clients and workers still reach it."""

    name = "a node of the cluster cut off"

    def __init__(self, cluster: Cluster, random: Random) -> None:
        super().__init__(cluster, random)
        self._isolated: list[RabbitNode] = []

    async def strike(self) -> None:
        """Cut it off, and hold it."""
        node = await self._leader()
        self._isolated.append(node)
        await asyncio.to_thread(self._rabbit_cluster.isolate, node)
        await asyncio.sleep(FROST)

    async def heal(self) -> None:
        """Let it in again."""
        while self._isolated:
            node = self._isolated[-1]
            if node.running:
                node.resume()
                await asyncio.to_thread(self._rabbit_cluster.rejoin, node)
            self._isolated.pop()
        await super().heal()


def broker_faults(cluster: Cluster, random: Random) -> list[Callable[[], Fault]]:
    """All of them that this broker, a single node or a cluster, can have; to be made when they are needed."""
    faults: list[Callable[[], Fault]] = [
        lambda: BrokerRestarted(cluster, random),
        lambda: BrokerKilled(cluster, random),
        lambda: BrokerFrozen(cluster, random, NAP),
        lambda: BrokerFrozen(cluster, random, FROST),
        lambda: ConnectionsClosed(cluster, random),
        lambda: ConnectionsClosed(cluster, random, WORKERS),
        lambda: ConnectionsClosed(cluster, random, CLIENTS),
        lambda: QueueDeleted(cluster, random),
        lambda: ConsumersCancelled(cluster, random),
        lambda: Alarm(cluster, random, "memory"),
        lambda: Alarm(cluster, random, "disk"),
    ]
    if isinstance(cluster.rabbit, RabbitCluster):
        faults += [
            lambda: NodeKilled(cluster, random),
            lambda: NodeStopped(cluster, random),
            lambda: NodeFrozen(cluster, random),
            lambda: NodeIsolated(cluster, random),
        ]
    return faults
