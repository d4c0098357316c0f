"""What callers' transactions are about: keys and conditions, from a seed."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

from .chance import choose

#: Keys that callers of all groups share in their transactions, of one generation.
WARM_KEYS: Final = 12


class StepKind(StrEnum):
    """What a transaction asks of one of its keys."""

    SAVE = "save"
    #: If it is absent.
    CREATE = "create"
    #: With the etag that the caller has just seen; if the key was absent then, it has to be absent still.
    REPLACE = "replace"
    #: With one that is stale, or never was.
    OVERTAKE = "overtake"
    DELETE = "delete"
    #: With the etag just seen.
    REMOVE = "remove"
    #: Nothing is written: it is as it was just seen …
    UNMOVED = "unmoved"
    #: … or it is there …
    PRESENT = "present"
    #: … or it is absent.
    ABSENT = "absent"


class Place(StrEnum):
    """Where a key of a transaction comes from."""

    #: The caller's hot key.
    HOT = "hot"
    #: That of another group of callers, which is on another partition, more often than not.
    OTHER_HOT = "other hot"
    #: One of a few for the transactions of everybody.
    WARM = "warm"
    #: One of many.
    COLD = "cold"


#: A hot key has moved on when a transaction comes with what its caller saw of it, more often than not.
_HOT_KINDS: Final = {
    StepKind.SAVE: 44,
    # Another worker may be writing it at that moment, so that this is what a check has to be guarded for.
    StepKind.PRESENT: 28,
    StepKind.DELETE: 8,
    StepKind.REPLACE: 8,
    StepKind.UNMOVED: 4,
    StepKind.OVERTAKE: 3,
    StepKind.CREATE: 3,
    StepKind.ABSENT: 2,
}
_OTHER_KINDS: Final = {
    StepKind.REPLACE: 31,
    StepKind.UNMOVED: 25,
    StepKind.SAVE: 15,
    StepKind.REMOVE: 6,
    StepKind.DELETE: 5,
    StepKind.PRESENT: 8,
    StepKind.CREATE: 4,
    StepKind.ABSENT: 3,
    StepKind.OVERTAKE: 3,
}
_PLACES: Final = {Place.WARM: 45, Place.OTHER_HOT: 27, Place.COLD: 18, Place.HOT: 10}
_SIZES: Final = {2: 50, 3: 30, 4: 20}


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step. Which etag it takes depends on what its caller sees."""

    kind: StepKind
    key: str


def plan_steps(
    random: Random, first: str, *, is_hot: bool, key_from: Callable[[Place], str]
) -> tuple[PlannedStep, ...]:
    """Two to four steps, each on a key of its own.

    :param first: the key of the first one, whose owner applies it all, and whether it is a hot one.
    """
    keys = {first: is_hot}
    size = choose(random, _SIZES)
    while len(keys) < size:
        place = choose(random, _PLACES)
        keys.setdefault(key_from(place), place in (Place.HOT, Place.OTHER_HOT))
    return tuple(PlannedStep(choose(random, _HOT_KINDS if hot else _OTHER_KINDS), key) for key, hot in keys.items())
