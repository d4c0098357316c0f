"""Places for calls: how many may be under way, and how many bytes of commands, so that a client's memory is bounded.

Those that find none wait, and get theirs in the order in which they came.
"""

import asyncio
from collections import deque

#: Places that are given out before it is known how large their commands are: it shows when they are encoded.
AHEAD = 64


class Places:
    """A bounded number of places, and of bytes."""

    def __init__(self, calls: int, size: int) -> None:
        """Make them.

        :param calls: that have a place at one time.
        :param size: bytes of their commands. The last ones to get a place may go beyond it.
        """
        self._calls = calls
        self._size = size
        #: Have a place, and have not said yet how large they are.
        self._unknown = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def _any(self) -> bool:
        return self._calls > 0 and self._size > 0 and self._unknown < AHEAD

    def take_at_once(self) -> bool:
        """Take a place if there is one and nobody waits. Says whether it was taken."""
        if self._waiting or not self._any:
            return False
        self._take()
        return True

    def take_ahead(self) -> None:
        """Take a place beyond the bounds, before all who wait. For a few small commands that must not wait in line."""
        self._take()

    async def take(self) -> None:
        """Take a place, or wait for one."""
        if self.take_at_once():
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if not mine.cancelled():
                # It came in the same moment.
                self.free(None)
            raise

    def hold(self, size: int) -> None:
        """Say how many bytes the command of a place has. Exactly once for each place, unless it is freed before."""
        self._unknown -= 1
        self._size -= size
        self._give()

    def free(self, size: int | None) -> None:
        """Give a place back.

        :param size: as it was said in ``hold``; None if it never was.
        """
        self._calls += 1
        if size is None:
            self._unknown -= 1
        else:
            self._size += size
        self._give()

    def _take(self) -> None:
        self._calls -= 1
        self._unknown += 1

    def _give(self) -> None:
        waiting = self._waiting
        while waiting and self._any:
            following = waiting.popleft()
            # Those that were cancelled are still in line.
            if not following.done():
                self._take()
                following.set_result(None)
