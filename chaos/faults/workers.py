"""Workers that die, freeze, leave, join, and meet a message that kills them."""

import asyncio
import contextlib
from collections.abc import Callable
from random import Random
from uuid import uuid4

from holdfast.events import partition_of
from holdfast.events.topology import DEAD
from holdfast.local import ServerStartError, ServerStateError, WorkerServer

from ..cluster import Cluster, MortalWorker, patiently, until
from ..raw import raw_client
from ..steps import POISON, Step
from . import CONDEMNED, Fault

#: Seconds for the broker to give a silent worker up: two to three heartbeats, on a machine with too much to do.
PATIENCE = 45.0
#: Seconds that a worker may take for a passage of a step, …
PASSAGE_TIMEOUT = 60.0
#: … to leave in order, which is longer than its own limit, …
LEAVE_TIMEOUT = 60.0
#: … and to be there again.
START_TIMEOUT = 90.0
#: Seconds until poison is found: six workers have to die of it.
BURIAL_TIMEOUT = 180.0


#: Steps at which a worker that wakes up again could do harm, if anything could.
FREEZING = (Step.DECIDED, Step.APPENDING, Step.APPENDED)


async def start(worker: WorkerServer) -> None:
    """Start it, and again if it ends since another fault has taken a server away, as whoever manages services does.

    :raises ServerStartError: if it is not ready at last.
    """
    await patiently(lambda: asyncio.to_thread(worker.start, START_TIMEOUT), START_TIMEOUT)


class WorkerFault(Fault):
    """A fault of some of the workers of a cluster. Healing starts them again."""

    def __init__(self, cluster: Cluster, random: Random) -> None:
        self._cluster = cluster
        self._random = random
        self._hit: list[MortalWorker] = []

    @property
    def _living(self) -> list[MortalWorker]:
        return [worker for worker in self._cluster.workers if isinstance(worker, MortalWorker) and worker.running]

    def _choose(self, count: int = 1) -> list[MortalWorker]:
        """Some of those that run; never of none, because what they stand for would not be tried."""
        chosen = self._random.sample(self._living, min(count, len(self._living)))
        if not chosen:
            raise ServerStateError("no worker runs")
        self._hit += chosen
        return chosen

    async def heal(self) -> None:
        """Wake and start what was hit."""
        for worker in self._hit:
            worker.live()
            if worker.running:
                worker.resume()
        await asyncio.gather(*map(start, self._hit))
        self._hit.clear()


class WorkersKilled(WorkerFault):
    """SIGKILL to so many workers at once; to all by default."""

    def __init__(self, cluster: Cluster, random: Random, count: int | None = None) -> None:
        super().__init__(cluster, random)
        self._count = count
        self.name = "all workers killed" if count is None else "a worker killed"

    async def strike(self) -> None:
        """Kill."""
        chosen = self._choose(self._count or len(self._living))
        await asyncio.gather(*(asyncio.to_thread(worker.kill) for worker in chosen))


class WorkerDiesAt(WorkerFault):
    """All workers are told to die at a step, and one that comes by it does. The load has to lead there."""

    def __init__(self, cluster: Cluster, random: Random, step: Step) -> None:
        super().__init__(cluster, random)
        self._step = step
        self.name = f"a worker dies {step}"

    async def strike(self) -> None:
        """Wait for its death."""
        chosen = self._choose(len(self._living))
        # Of burials there is none but the one that is made here.
        last = 1 if self._step is Step.BURIED else 20
        for worker in chosen:
            worker.die_at(self._step, self._random.randint(1, last))
        if self._step is Step.BURIED:
            await send(self._cluster, {"op": "explode", "id": f"{CONDEMNED}{uuid4()}", "key": "k"}, "0")
        await until(lambda: not all(worker.running for worker in chosen), self.name, PASSAGE_TIMEOUT)
        for worker in chosen:
            worker.live()


class WorkerFreezesAt(WorkerFault):
    """A worker stops at a step with what it has decided or appended in its hands, and wakes when it has a successor.

    It does not know that its time is over, and goes on where it was.
    """

    def __init__(self, cluster: Cluster, random: Random, step: Step) -> None:
        super().__init__(cluster, random)
        self._step = step
        self.name = f"a worker freezes {step}"

    async def strike(self) -> None:
        """Wait until it stops, and is given up by the broker; then wake it."""
        chosen = self._choose(len(self._living))
        for worker in chosen:
            worker.freeze_at(self._step, self._random.randint(1, 20))
        await until(lambda: any(worker.paused for worker in chosen), self.name, PASSAGE_TIMEOUT)
        for worker in chosen:
            worker.live()
        for worker in chosen:
            if worker.paused:
                await self._cluster.until_given_up(worker, PATIENCE)
                worker.resume()


class WorkerFrozen(WorkerFault):
    """SIGSTOP for longer than the broker has patience, then SIGCONT: the old owner wakes up with work in its hands."""

    name = "a worker frozen"

    async def strike(self) -> None:
        """Freeze it until the broker has given it up, then wake it."""
        (worker,) = self._choose()
        worker.pause()
        await self._cluster.until_given_up(worker, PATIENCE)
        worker.resume()


class WorkerDrained(WorkerFault):
    """SIGTERM: it finishes what is in its hands, and leaves."""

    name = "a worker drained"

    async def strike(self) -> None:
        """Ask it to leave and wait until it has."""
        await _leave(self._choose())


class WorkersJoinAndLeave(WorkerFault):
    """Two workers join, two old ones leave, then the new ones leave again when the old ones are back."""

    name = "workers join and leave"

    def __init__(self, cluster: Cluster, random: Random) -> None:
        super().__init__(cluster, random)
        self._new: list[MortalWorker] = []

    async def strike(self) -> None:
        """Join and leave."""
        old = self._choose(2)
        for _ in range(2):
            self._new.append(self._cluster.mortal_worker())
        await asyncio.gather(*map(start, self._new))
        await _leave(old)

    async def heal(self) -> None:
        """Bring the old ones back, then have the new ones leave."""
        await super().heal()
        await _leave([worker for worker in self._new if worker.running])
        self._new.clear()


class Poison(WorkerFault):
    """A message that kills whoever handles it. Workers are started again, as a supervisor does, until it is buried."""

    name = "poison"

    def __init__(self, cluster: Cluster, random: Random) -> None:
        super().__init__(cluster, random)
        self._buried: Callable[[], bool] = lambda: True

    async def strike(self) -> None:
        """Send it, and wait until it is buried."""
        command_id = f"{CONDEMNED}{uuid4()}"
        key = f"{POISON}{command_id}"
        before = await patiently(lambda: asyncio.to_thread(self._cluster.depth, DEAD))
        self._hit += self._living
        command = {"op": "save", "id": command_id, "key": key, "value": 1}
        await send(self._cluster, command, str(partition_of("default", key, self._cluster.partitions)))
        self._buried = lambda: self._cluster.depth(DEAD) > before
        await self._restart_until_buried()

    async def heal(self) -> None:
        """Go on until it is buried."""
        if self._hit:
            await self._restart_until_buried()
        await super().heal()

    async def _restart_until_buried(self) -> None:
        burying = asyncio.ensure_future(until(self._buried, "the poison is buried", BURIAL_TIMEOUT))
        try:
            while not burying.done():
                dead = [worker for worker in self._hit if not worker.running]
                await asyncio.gather(*(self._start(worker) for worker in dead))
                await asyncio.wait({burying}, timeout=0.1)
            burying.result()
        finally:
            burying.cancel()

    async def _start(self, worker: MortalWorker) -> None:
        # It may die before it is ready.
        with contextlib.suppress(ServerStartError):
            await asyncio.to_thread(worker.start, START_TIMEOUT)


async def send(cluster: Cluster, command: dict[str, object], routing_key: str) -> None:
    """Publish a command that nobody waits for, as soon as the broker takes it."""

    async def publish() -> None:
        async with raw_client(cluster.amqp_url) as raw:
            await raw.send(command, routing_key, reply=False)

    await patiently(publish)


async def _leave(workers: list[MortalWorker]) -> None:
    for worker in workers:
        worker.ask_to_stop()
    await until(lambda: not any(worker.running for worker in workers), "drained and gone", LEAVE_TIMEOUT)


def worker_faults(cluster: Cluster, random: Random) -> list[Callable[[], Fault]]:
    """All of them, to be made when they are needed."""
    return [
        lambda: WorkersKilled(cluster, random, 1),
        lambda: WorkersKilled(cluster, random),
        *((lambda step=step: WorkerDiesAt(cluster, random, step)) for step in Step),
        *((lambda step=step: WorkerFreezesAt(cluster, random, step)) for step in FREEZING),
        lambda: WorkerFrozen(cluster, random),
        lambda: WorkerDrained(cluster, random),
        lambda: WorkersJoinAndLeave(cluster, random),
        lambda: Poison(cluster, random),
    ]
