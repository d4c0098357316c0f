"""What the callers of a run are going to do: from a seed, so that the same seed plans the same run.

Hot keys are shared by a group of callers and replaced by new ones after so many operations of each: a key has real
contention, and a history that can be checked. Cold keys are many, and meet few operations each. While its hot key
lasts, a caller stays on that key's partition: where one stands still, only its own callers wait.
"""

from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from random import Random

from holdfast.events import partition_of
from holdfast.events.topology import DEFAULT_STORE

from .chance import choose
from .transaction_plan import WARM_KEYS, Place, PlannedStep, plan_steps

#: Callers that share a hot key.
GROUP = 12
#: Operations of each caller on one hot key: a key has some hundred to a thousand.
OPERATIONS_PER_HOT_KEY = 60
#: Cold keys of one generation.
COLD_KEYS = 5_000
#: Operations of each caller while one generation of cold keys lasts.
OPERATIONS_PER_COLD_GENERATION = 1_000
_HOT_SHARE = 0.65


class Kind(StrEnum):
    """What is asked of a key."""

    #: Last write wins.
    SAVE = "save"
    #: First write wins.
    CREATE = "create"
    #: With the etag that the caller has seen last.
    REPLACE = "replace"
    #: With one that it saw before that, so that it is stale on purpose.
    OVERTAKE = "overtake"
    DELETE = "delete"
    #: With the etag seen last.
    REMOVE = "remove"
    READ = "read"
    #: An eventual read.
    GLANCE = "glance"
    #: Several keys in one step.
    TRANSACT = "transact"
    #: An increment by one, of a counter.
    COUNT = "count"
    #: A save of a value that lives for a second.
    LEND = "lend"


class Route(StrEnum):
    """How a command gets to its queue."""

    CLIENT = "client"
    #: By two clients at the same time, under one id. A read comes by one.
    TWO_CLIENTS = "two clients"
    #: Without our client, in a message that is published twice. A read is published once.
    COPIED = "copied"
    #: Without our client, by the ingress.
    INGRESS = "ingress"
    #: Without our client, to a partition that is not the key's.
    ASTRAY = "astray"


_KINDS = {
    Kind.READ: 30,
    Kind.REPLACE: 24,
    Kind.SAVE: 16,
    Kind.CREATE: 8,
    Kind.GLANCE: 7,
    Kind.OVERTAKE: 5,
    Kind.REMOVE: 5,
    Kind.DELETE: 5,
    Kind.TRANSACT: 4,
}
#: Keys of counters, and of what expires. They are checked against the log, in which each of their states is: not for
#: linearizability, whose model knows neither.
LEDGERS = ("count-", "lent-")
_LEDGER_KINDS: dict[str, dict["Kind", int]] = {
    "count-": {Kind.COUNT: 80, Kind.READ: 20},
    "lent-": {Kind.LEND: 60, Kind.READ: 25, Kind.GLANCE: 15},
}
_LEDGER_SHARE = 0.1
#: Out of a thousand. What goes by our client is cheap, because messages are shared.
_ROUTES = {Route.CLIENT: 970, Route.TWO_CLIENTS: 18, Route.COPIED: 4, Route.INGRESS: 4, Route.ASTRAY: 4}
#: Seconds that a call may take, and how often they are chosen. The short ones end in the middle of faults.
_TIMEOUTS = {2.0: 5, 5.0: 35, 12.0: 60}
#: How often a command is sent again under its id when nobody knows what became of it.
_REPEATS = {0: 40, 1: 40, 3: 20}
#: How often a caller reads the keys of its transaction one by one: before it, and after it.
_LOOKS_BEFORE = {True: 80, False: 20}
_LOOKS_AFTER = {True: 30, False: 70}


@dataclass(frozen=True, slots=True)
class Intent:
    """The next thing that a caller does. Which etag it takes depends on what it has seen by then."""

    number: int
    kind: Kind
    route: Route
    key: str
    timeout: float
    repeats: int
    #: Of a transaction; its first key is ``key``.
    steps: tuple[PlannedStep, ...] = ()
    #: Whether its caller reads its keys one by one, before it and after it.
    looks_before: bool = False
    looks_after: bool = False


class Plan:
    """One caller's intents, without end.

    :param client: the name of the process that it belongs to.
    :param caller: its number, of all callers of the run.
    :param groups: how many hot keys there are at a time.
    :param partitions: of the service.
    :param generation: where to begin, for a caller that takes the place of one that was killed.
    """

    def __init__(
        self, seed: str, client: str, caller: int, *, groups: int, partitions: int, generation: int = 0
    ) -> None:
        self._random = Random(f"{seed}/{client}/{caller}")
        self._group = caller % groups
        self._groups = groups
        self._partitions = partitions
        self._number = 0
        self._hot = generation * OPERATIONS_PER_HOT_KEY

    @property
    def generation(self) -> int:
        """Of its hot key."""
        return self._hot // OPERATIONS_PER_HOT_KEY

    def next(self) -> Intent:
        """The next intent."""
        random = self._random
        self._number += 1
        hot = f"hot-{self._group}-{self.generation}"
        kinds, share = _KINDS, random.random()
        if share < _HOT_SHARE:
            key = hot
            self._hot += 1
        elif share < _HOT_SHARE + _LEDGER_SHARE:
            ledger = random.choice(LEDGERS)
            kinds = _LEDGER_KINDS[ledger]
            key = self._near(f"{ledger}{hot}", partition_of(DEFAULT_STORE, hot, self._partitions))
        else:
            key = self._cold_key(partition_of(DEFAULT_STORE, hot, self._partitions))
        kind = choose(random, kinds)
        route = choose(random, _ROUTES)
        timeout, repeats = choose(random, _TIMEOUTS), choose(random, _REPEATS)
        if kind is not Kind.TRANSACT:
            return Intent(self._number, kind, route, key, timeout, repeats)
        steps = plan_steps(random, key, is_hot=key == hot, key_from=self._key_from)
        before, after = choose(random, _LOOKS_BEFORE), choose(random, _LOOKS_AFTER)
        return Intent(self._number, kind, route, key, timeout, repeats, steps, before, after)

    def _near(self, name: str, partition: int) -> str:
        """A key of that name and partition."""
        for number in count():
            if partition_of(DEFAULT_STORE, key := f"{name}-{number}", self._partitions) == partition:
                return key
        raise AssertionError("there is one among them")

    def _key_from(self, place: Place) -> str:
        """A key of a transaction that is not its first one. It may be on any partition."""
        random = self._random
        match place:
            case Place.HOT:
                return f"hot-{self._group}-{self.generation}"
            case Place.OTHER_HOT:
                # About where that group is too.
                return f"hot-{random.randrange(self._groups)}-{self.generation}"
            case Place.WARM:
                return f"warm-{self.generation}-{random.randrange(WARM_KEYS)}"
            case Place.COLD:
                return self._cold_key(None)

    def _cold_key(self, partition: int | None) -> str:
        """A cold key of a partition, or of any."""
        generation = self._hot // OPERATIONS_PER_COLD_GENERATION
        number = self._random.randrange(COLD_KEYS)
        while True:
            key = f"cold-{generation}-{number}"
            if partition in (None, partition_of(DEFAULT_STORE, key, self._partitions)):
                return key
            number = (number + 1) % COLD_KEYS
