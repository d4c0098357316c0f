"""Clocks: service time, as a client knows it from the answers that it gets, and the time that a call has left."""

import time

#: How much of the way the estimate goes back when an answer shows an earlier time.
CAUTION = 0.05


class ServiceClock:
    """An estimate of service time, which stays right over a sleep of this machine too: every answer tells the time."""

    def __init__(self) -> None:
        """Make one that has heard of no answer yet."""
        #: Milliseconds by which service time is ahead of this process's clock.
        self.offset = 0.0

    def now(self) -> float:
        """Service time, in milliseconds since 1970."""
        return time.monotonic() * 1000 + self.offset

    def hear(self, service_time: int) -> None:
        """Learn from an answer."""
        # A late answer shows a time that has passed since, so that going back is done by small steps.
        gain = service_time - self.now()
        self.offset += gain if gain > 0 else gain * CAUTION


class Countdown:
    """The seconds that a call has for all its commands."""

    def __init__(self, seconds: float) -> None:
        """Begin it."""
        self._ends = time.monotonic() + seconds

    def left(self) -> float:
        """How many are left: always some, for a command that is out of time to be told so."""
        return max(0.001, self._ends - time.monotonic())
