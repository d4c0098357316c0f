"""Service time: the database's clock, as an offset that the worker measures every second.

Deadlines and event times use nothing else, so that a worker's or client's wrong wall clock changes nothing.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from ..events import StoreError
from ..stores import EventStore

log = logging.getLogger(__name__)

#: Seconds between two measurements.
INTERVAL = 1.0
#: A measurement that took longer than this says less than the last one.
MAX_ROUND_TRIP = 1.0


def boot_time() -> float:
    """Seconds since boot, with the time that the machine was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ServiceClock:
    """Service time in milliseconds, counted on by the machine's clock since boot between measurements."""

    def __init__(self, store: EventStore, *, uptime: Callable[[], float] = boot_time) -> None:
        self._store = store
        self._uptime = uptime
        self._offset: float | None = None
        self._heard = float("-inf")

    @property
    def silence(self) -> float:
        """Seconds since the database answered last; infinite before the first time."""
        return self._uptime() - self._heard

    def now(self) -> int:
        """Milliseconds since 1970 on the database's clock.

        :raises RuntimeError: before the first measurement.
        """
        if self._offset is None:
            raise RuntimeError("service time has not been measured yet")
        return int(self._uptime() * 1000 + self._offset)

    async def measure(self) -> None:
        """Ask the database once. The answer is taken to be from the middle of the round trip.

        :raises StoreUnavailable: if it cannot be reached.
        """
        before = self._uptime()
        there = await self._store.service_time()
        after = self._heard = self._uptime()
        if self._offset is not None and after - before > MAX_ROUND_TRIP:
            return
        self._offset = there - (before + after) / 2 * 1000

    async def run(self) -> None:
        """Measure for ever. While the database is away the clock goes on by itself."""
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                await self.measure()
            except StoreError as away:
                log.debug("service time not measured: %s", away)
