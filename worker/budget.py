"""A budget: bytes that are in use, and a wait until there is room for more."""

import asyncio


class Budget:
    """Counts bytes against a limit. Nobody is refused: who can wait does, and who cannot goes beyond it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._room = asyncio.Event()
        self._room.set()

    @property
    def full(self) -> bool:
        """Whether the limit is reached."""
        return self.used >= self.limit

    def take(self, size: int) -> None:
        """Note bytes that are in use from now on."""
        self.used += size
        if self.used >= self.limit:
            self._room.clear()

    def give(self, size: int) -> None:
        """Note that they are not in use any more."""
        self.used -= size
        if self.used < self.limit:
            self._room.set()

    async def room(self) -> None:
        """Wait until less than the limit is in use."""
        await self._room.wait()
