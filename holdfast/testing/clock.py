"""The clock of a service in memory: the machine's, plus what a test has turned it on."""

import time


class Clock:
    """Service time that goes on by itself, and can be turned on, never back."""

    def __init__(self) -> None:
        self._ahead = 0

    def now(self) -> int:
        """Service time, in milliseconds since 1970."""
        return time.time_ns() // 1_000_000 + self._ahead

    def advance(self, seconds: float) -> None:
        """Turn it on.

        :raises ValueError: if that would turn it back: service time never does.
        """
        if seconds < 0:
            raise ValueError("service time never goes back")
        self._ahead += round(seconds * 1000)
