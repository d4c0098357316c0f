"""Networks that cut, delay and lose what is said to the broker and to MongoDB, by clients and by workers."""

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from random import Random

from holdfast.local import ServerStateError, WorkerServer
from holdfast.local.process import load_state

from ..cluster import Cluster, until
from ..proxy import TO_CLIENT, Peers, Proxy, Rule, Trap
from ..replicas import Partition, ProxiedReplicaSet
from . import Fault

#: In every reply, and in nothing else that the broker sends to a client.
REPLY = b'"status":"'
#: Seconds until there is a reply to be cut off.
REPLY_TIMEOUT = 60.0
#: Seconds by which replies are late, which is longer than a client waits before it asks again, …
LATE = 6.0
#: … and for which they are.
HOLD = 8.0
#: Seconds until the broker gives up a worker that says nothing, …
GIVE_UP_TIMEOUT = 60.0
#: … and until a worker is ready again.
READY_TIMEOUT = 90.0


class CutBeforeReply(Fault):
    """A connection of a client is cut when a reply comes: it was applied, and nobody was told. Needs calls to come."""

    name = "connection cut between request and reply"

    def __init__(self, at_clients: Proxy) -> None:
        """Make a fault.

        :param at_clients: between clients and the broker.
        """
        self._proxy = at_clients
        self._trap: Trap | None = None

    async def strike(self) -> None:
        """Wait for a reply, and cut."""
        self._trap = await asyncio.to_thread(self._proxy.trap, TO_CLIENT, containing=REPLY)
        await self._trap.wait(REPLY_TIMEOUT)

    async def heal(self) -> None:
        """Nothing is left of it, but the trap if no reply came."""
        if self._trap is not None:
            await asyncio.to_thread(self._trap.release)
            self._trap = None


class ProxyFault(Fault):
    """Something that a proxy does for some seconds.

    :param peers: to the connections of these processes; without it to all.
    """

    def __init__(self, proxy: Proxy, *, hold: float = HOLD, peers: Peers | None = None) -> None:
        self._proxy = proxy
        self._hold = hold
        self._peers = peers
        self._rule: Rule | None = None

    @abstractmethod
    def _begin(self) -> Rule:
        """Have the proxy do it."""

    async def strike(self) -> None:
        """Do it for a while."""
        self._rule = await asyncio.to_thread(self._begin)
        await asyncio.sleep(self._hold)

    async def heal(self) -> None:
        """Let what was held back go on its way."""
        if self._rule is not None:
            await asyncio.to_thread(self._rule.lift)
            self._rule = None


class RepliesLate(ProxyFault):
    """All that the broker says to clients comes later than they wait for it."""

    name = "replies later than the timeout"

    def _begin(self) -> Rule:
        return self._proxy.delay(to_client=LATE, peers=self._peers)


class SilentLoss(ProxyFault):
    """All that is said between the broker and clients is lost, and nobody is told."""

    name = "silent loss"

    def _begin(self) -> Rule:
        return self._proxy.lose(self._peers)


class WorkerFault(Fault):
    """A worker that is cut off from one of its servers, and not from the other."""

    def __init__(self, cluster: Cluster, random: Random, *, silently: bool) -> None:
        self._cluster = cluster
        self._random = random
        self._silently = silently
        self._worker: WorkerServer | None = None

    def _choose(self) -> tuple[WorkerServer, Peers]:
        """A worker that runs. Whether its process is another one later makes no difference."""
        living = [worker for worker in self._cluster.workers if worker.running]
        if not living:
            raise ServerStateError("no worker runs")
        chosen = self._worker = self._random.choice(living)
        return chosen, lambda: [pid for pid in (chosen.pid,) if pid is not None]

    async def _until_ready(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None and worker.running:
            await until(lambda: load_state(worker.health_path).get("ready") is True, "it is ready", READY_TIMEOUT)


class WorkerWithoutBroker(WorkerFault):
    """A worker reaches MongoDB, but not the broker: others have to take its partitions."""

    def __init__(self, cluster: Cluster, at_workers: Proxy, random: Random, *, silently: bool) -> None:
        """Make a fault.

        :param at_workers: between workers and the broker.
        :param silently: its connections stay open, and all that is said on them is lost.
        """
        super().__init__(cluster, random, silently=silently)
        self._proxy = at_workers
        self._rule: Rule | None = None
        self.name = "a worker cut off from the broker" + (" in silence" if silently else "")

    async def strike(self) -> None:
        """Cut it off until the broker has given it up."""
        worker, peers = self._choose()
        divide = self._proxy.lose if self._silently else self._proxy.cut
        self._rule = await asyncio.to_thread(divide, peers)
        await self._cluster.until_given_up(worker, GIVE_UP_TIMEOUT)

    async def heal(self) -> None:
        """Let it through, and wait until it works."""
        if self._rule is not None:
            await asyncio.to_thread(self._rule.lift)
            self._rule = None
        await self._until_ready()


class WorkerWithoutStore(WorkerFault):
    """A worker reaches the broker, but not MongoDB: it has to let go of its partitions, or nobody serves them."""

    def __init__(self, cluster: Cluster, replicas: ProxiedReplicaSet, random: Random, *, silently: bool) -> None:
        """Make a fault.

        :param silently: its connections stay open, and all that is said on them is lost.
        """
        super().__init__(cluster, random, silently=silently)
        self._replicas = replicas
        self._partition: Partition | None = None
        self.name = "a worker cut off from MongoDB" + (" in silence" if silently else "")

    async def strike(self) -> None:
        """Cut it off until it has let go. The load has to lead to that."""
        worker, peers = self._choose()
        self._partition = await asyncio.to_thread(self._replicas.shut_out, peers, silently=self._silently)
        await self._cluster.until_given_up(worker, GIVE_UP_TIMEOUT)

    async def heal(self) -> None:
        """Let it through, and wait until it works."""
        if self._partition is not None:
            await asyncio.to_thread(self._partition.heal)
            self._partition = None
        await self._until_ready()


def network_faults(
    cluster: Cluster, replicas: ProxiedReplicaSet, random: Random, *, at_clients: Proxy, at_workers: Proxy
) -> list[Callable[[], Fault]]:
    """All of them, to be made when they are needed.

    :param at_clients: between clients and the broker.
    :param at_workers: between workers and the broker.
    """
    return [
        lambda: CutBeforeReply(at_clients),
        lambda: RepliesLate(at_clients),
        lambda: SilentLoss(at_clients),
        *((lambda how=how: WorkerWithoutBroker(cluster, at_workers, random, silently=how)) for how in (False, True)),
        *((lambda how=how: WorkerWithoutStore(cluster, replicas, random, silently=how)) for how in (False, True)),
    ]
