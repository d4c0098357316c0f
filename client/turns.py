"""Turns: updates of one key through one client go one after another, instead of meeting in conflicts.

Of many conditional writes to one version one can win. Handles of one process need not find that out by way of the
service. Other processes still do, and safety rests on the etag alone: a turn is a courtesy, and nobody waits for
one for ever.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

#: Seconds to wait for a turn at most: whoever has it may be slow, or may be waiting for us.
PATIENCE = 1.0


class Known(NamedTuple):
    """A stored state of a key."""

    version: int
    etag: str | None
    value: Any


class Turn:
    """Whose turn it is to update a key, and the newest state that an update has stored."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self.newest: Known | None = None

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for the turn, or, after a second, go on without."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._lock.acquire()
        except TimeoutError:
            yield
            return
        try:
            yield
        finally:
            self._lock.release()


class Turns:
    """The turns of all keys that are being updated."""

    def __init__(self) -> None:
        self._turns: WeakValueDictionary[tuple[str | None, str], Turn] = WeakValueDictionary()

    def of(self, store: str | None, key: str) -> Turn:
        """The turn of a key. It is forgotten when nobody holds it any more."""
        return self._turns.setdefault((store, key), Turn())
