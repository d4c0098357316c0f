"""Retention: which of a key's events stay as they are, which become stubs, and which are dropped.

Plain functions of what is in the log, of the time, and of what an operator has set: no I/O.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..events.limits import FENCE_WINDOW_MS
from ..stores import KeyVersion, RetentionConfig, Trace

MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR

#: An event is not stripped before its successor is so old: whoever reads it at this moment still finds what it is.
LEAST_AGE: Final = MINUTE
#: Nor, if it carries messages, before that is so old: a worker may die before the broker has taken them, which an alarm
#: can delay, and the next one then finds them in the log.
LEAST_AGE_CARRYING: Final = DAY
#: From when a key is closed until it is dropped. More than workers remember anything of a key: by then every one of
#: them that knows of its last event knows that it is closed.
CLOSED_FOR: Final = 2 * DAY
#: From when events begin to say that they are their key's first, until a key is closed. More than it takes for every
#: worker to know.
NOTICE: Final = HOUR

#: Events of one key that are dropped in one sweep.
MAX_DROPS: Final = 1000


@dataclass(slots=True)
class Chores:
    """What is to be done, in this order."""

    #: Key, first and last version of what becomes stubs.
    strip: list[tuple[str, int, int]] = field(default_factory=list)
    #: Of each key the oldest first.
    drop: list[KeyVersion] = field(default_factory=list)
    close: list[KeyVersion] = field(default_factory=list)
    #: The highest version of what is closed.
    floor: int = 0

    def __bool__(self) -> bool:
        return bool(self.strip or self.drop or self.close)


class Judge:
    """Judges keys, one after another, by their events, the newest first: ``see`` each, then ``finish`` the key."""

    def __init__(self, config: RetentionConfig, *, now: int, closing: bool) -> None:
        """Make one for a while.

        :param closing: whether keys may be closed: every worker knows by now what that means.
        """
        self._versions = config.versions
        self._age = None if config.days is None else round(config.days * DAY)
        self._forget = max(round(config.forget_days * DAY), FENCE_WINDOW_MS)
        self._now = now
        self._closing = closing
        self._chores = Chores()
        self._begin()

    def _begin(self) -> None:
        self._newest: Trace | None = None
        self._successor: Trace | None = None
        #: How many of the key's events were seen.
        self._number = 0
        #: One of these was a purge.
        self._purged = False
        #: The oldest come last.
        self._drops: deque[KeyVersion] = deque(maxlen=MAX_DROPS)

    @property
    def horizon(self) -> int:
        """What is dropped is older than this."""
        return self._now - self._forget

    def keeps_all(self, count: int) -> bool:
        """Whether so many events of a key that is there stay as they are, whatever their times."""
        return self._age is None and self._versions is not None and count <= self._versions

    def see(self, event: Trace) -> None:
        """Take the next event of a key."""
        if self._newest is None or self._successor is None:
            self._newest = event
        else:
            age = self._now - self._successor.time
            if not self._is_kept(event, age):
                if age > self._forget:
                    self._drops.append((event.key, event.version))
                elif not event.stripped:
                    _extend(self._chores.strip, event)
        self._successor = event
        self._number += 1
        self._purged = self._purged or event.type == "purged"

    def finish(self) -> None:
        """There are no more events of this key."""
        newest = self._newest
        if newest is not None:
            self._chores.drop += reversed(self._drops)
            if self._number == 1 and self.is_forgotten(newest) and self._closing:
                place = (newest.key, newest.version)
                if newest.closed is None:
                    self._chores.close.append(place)
                    self._chores.floor = max(self._chores.floor, newest.version)
                elif self._now - newest.closed > CLOSED_FOR:
                    self._chores.drop.append(place)
        self._begin()

    def take(self) -> Chores:
        """Take what there is to be done so far."""
        chores, self._chores = self._chores, Chores()
        return chores

    def is_forgotten(self, newest: Trace) -> bool:
        """Whether a key has been absent for so long that nothing is kept of it for its versions' sake."""
        return not newest.exists and self._now - newest.time > self._forget

    def _is_kept(self, event: Trace, age: int) -> bool:
        """Whether the next event, which had a successor so long ago, stays as it is."""
        newest = self._newest
        if newest is None or age < (LEAST_AGE_CARRYING if event.carries else LEAST_AGE):
            return True
        if self._purged:
            return False
        among_last = self._versions is not None and self._number < self._versions and not self.is_forgotten(newest)
        young = self._age is not None and age <= self._age
        return among_last or young


def _extend(ranges: list[tuple[str, int, int]], event: Trace) -> None:
    """Add an event to ranges of versions. They come newest first."""
    if ranges and ranges[-1][:2] == (event.key, event.version + 1):
        ranges[-1] = (event.key, event.version, ranges[-1][2])
    else:
        ranges.append((event.key, event.version, event.version))


def by_key(places: Sequence[KeyVersion]) -> Iterator[list[KeyVersion]]:
    """Places in runs of one key each."""
    run: list[KeyVersion] = []
    for place in places:
        if run and run[0][0] != place[0]:
            yield run
            run = []
        run.append(place)
    if run:
        yield run
