"""MongoDB servers that die, freeze, stutter, answer slowly, resign, and are cut off from each other."""

import asyncio
from collections.abc import Callable
from enum import StrEnum
from random import Random

from holdfast.local import MongoServer

from ..cluster import until
from ..proxy import Rule
from ..replicas import Partition, ProxiedReplicaSet
from . import Fault

#: Seconds until there is another primary, …
ELECTION_TIMEOUT = 60.0
#: … and until all members are together again.
REUNION_TIMEOUT = 120.0
#: Seconds for which the whole set is away.
OUTAGE = 20.0
#: Seconds for which other faults are held, at most.
HOLD = 4.0
#: Seconds that each answer takes longer, at most.
DELAY = 1.0


class Away(StrEnum):
    """How a server is away."""

    #: SIGKILL. Connections to it are reset, and refused.
    KILLED = "killed"
    #: SIGSTOP. Connections to it are open, and silent.
    FROZEN = "frozen"
    #: Whatever is said to it gets lost. It reaches others, if they are not away as well.
    LOST = "out of reach"


class StoreFault(Fault):
    """A fault of a replica set. Healing brings all of its members together again."""

    def __init__(self, replicas: ProxiedReplicaSet, random: Random, *, hold: float = HOLD) -> None:
        """Make a fault.

        :param hold: seconds for which it is held, at most, when it has struck.
        """
        self._replicas = replicas
        self._random = random
        self._most = hold
        self._frozen: list[MongoServer] = []
        self._partitions: list[Partition] = []
        self._rules: list[Rule] = []

    async def heal(self) -> None:
        """Wake, join and start what was hit, and wait until one of them leads all others."""
        for rule in self._rules:
            rule.lift()
        for partition in self._partitions:
            partition.heal()
        for member in self._frozen:
            if member.running:
                member.resume()
        self._rules.clear()
        self._partitions.clear()
        self._frozen.clear()
        await asyncio.to_thread(self._replicas.start, REUNION_TIMEOUT)
        await asyncio.to_thread(self._replicas.wait_until_whole, REUNION_TIMEOUT)

    async def _primary(self) -> MongoServer:
        return await asyncio.to_thread(self._replicas.primary, ELECTION_TIMEOUT)

    async def _successor(self, old: MongoServer) -> MongoServer:
        """The next primary, when it is there. The old one may not know of it."""
        return await asyncio.to_thread(self._replicas.primary, ELECTION_TIMEOUT, other_than=old)

    async def _take_away(self, member: MongoServer, how: Away) -> None:
        match how:
            case Away.KILLED:
                await asyncio.to_thread(member.kill)
            case Away.FROZEN:
                self._frozen.append(member)
                member.pause()
            case Away.LOST:
                self._rules.append(await asyncio.to_thread(self._replicas.proxy(member).lose))

    async def _hold(self) -> None:
        await asyncio.sleep(self._random.uniform(0.1, 1.0) * self._most)


class PrimaryAway(StoreFault):
    """The primary is away until another one is elected, and some seconds longer."""

    def __init__(self, replicas: ProxiedReplicaSet, random: Random, how: Away, *, hold: float = HOLD) -> None:
        super().__init__(replicas, random, hold=hold)
        self._how = how
        self.name = f"primary {how}"

    async def strike(self) -> None:
        """Take it away."""
        primary = await self._primary()
        await self._take_away(primary, self._how)
        await self._successor(primary)
        await self._hold()


class PrimaryStepsDown(StoreFault):
    """The primary resigns. It may be elected again."""

    name = "primary stepped down"

    async def strike(self) -> None:
        """Make it resign, and wait for the next one."""
        await asyncio.to_thread(self._replicas.step_down, self._random.randint(1, 10))
        await self._primary()


class PrimaryCutOff(StoreFault):
    """The primary is cut off from the other members, but not from clients: for a while it takes itself for one.

    What it takes in that time it loses again.
    """

    def __init__(self, replicas: ProxiedReplicaSet, random: Random, *, silently: bool, hold: float = HOLD) -> None:
        super().__init__(replicas, random, hold=hold)
        self._silently = silently
        self.name = "primary cut off in silence" if silently else "primary cut off"

    async def strike(self) -> None:
        """Cut it off until another one is elected and it has noticed, and some seconds longer."""
        primary = await self._primary()
        divided = await asyncio.to_thread(self._replicas.isolate, primary, silently=self._silently)
        self._partitions.append(divided)
        await self._successor(primary)
        await until(lambda: not primary.is_primary(), "the old primary resigns", ELECTION_TIMEOUT)
        await self._hold()


class AllAway(StoreFault):
    """All members are away."""

    def __init__(self, replicas: ProxiedReplicaSet, random: Random, how: Away, *, hold: float = OUTAGE) -> None:
        super().__init__(replicas, random, hold=hold)
        self._how = how
        self.name = f"all of MongoDB {how}"

    async def strike(self) -> None:
        """Take them away, and keep them away."""
        await asyncio.gather(*(self._take_away(member, self._how) for member in self._replicas.members))
        await asyncio.sleep(self._most)


class SecondaryAway(StoreFault):
    """One that is not the primary is away for some seconds. Those who are left are a majority."""

    def __init__(self, replicas: ProxiedReplicaSet, random: Random, how: Away, *, hold: float = HOLD) -> None:
        super().__init__(replicas, random, hold=hold)
        self._how = how
        self.name = f"secondary {how}"

    async def strike(self) -> None:
        """Take it away for a while."""
        primary = await self._primary()
        others = [member for member in self._replicas.members if member is not primary]
        await self._take_away(self._random.choice(others), self._how)
        await self._hold()


class SlowAnswers(StoreFault):
    """All that MongoDB says comes later, to clients and among its members."""

    name = "MongoDB answers slowly"

    async def strike(self) -> None:
        """Delay for a while."""
        seconds = self._random.uniform(0.1, DELAY)
        for proxy in self._replicas.proxies:
            self._rules.append(await asyncio.to_thread(proxy.delay, to_client=seconds))
        await self._hold()


class PrimaryStutters(StoreFault):
    """The primary stops again and again for a moment, as with a disk that is far too slow."""

    name = "primary stutters"

    async def strike(self) -> None:
        """Freeze and wake it a number of times."""
        primary = await self._primary()
        for _ in range(self._random.randint(5, 10)):
            await self._take_away(primary, Away.FROZEN)
            await asyncio.sleep(self._random.uniform(0.1, 0.6))
            primary.resume()
            await asyncio.sleep(self._random.uniform(0.05, 0.2))


def store_faults(replicas: ProxiedReplicaSet, random: Random) -> list[Callable[[], Fault]]:
    """All of them, to be made when they are needed."""
    return [
        *((lambda how=how: PrimaryAway(replicas, random, how)) for how in Away),
        lambda: PrimaryStepsDown(replicas, random),
        lambda: PrimaryCutOff(replicas, random, silently=False),
        lambda: PrimaryCutOff(replicas, random, silently=True),
        *((lambda how=how: AllAway(replicas, random, how)) for how in Away),
        *((lambda how=how: SecondaryAway(replicas, random, how)) for how in Away),
        lambda: SlowAnswers(replicas, random),
        lambda: PrimaryStutters(replicas, random),
    ]
