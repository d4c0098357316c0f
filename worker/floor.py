"""The floor: the version that a key begins with, where it has no event.

It is 1, until a store begins to drop keys. From then on what such a store has dropped is not known any more, key by
key, but that no version of it was above the floor is; and a version is never used twice.

Two workers may know two floors. So that they never make two beginnings of one key, an event that is one says so, and
the log takes one of a key only. What is known of the floor may be old, but not older than compaction counts on.
"""

from collections.abc import Callable
from typing import Final

from ..stores import CompactableStore, EventStore, Head
from .decide import NEVER

#: Seconds after which the floor is looked up again. Compaction leaves an hour from the moment that it raises the floor
#: until it drops what is below it.
FLOOR_LIFETIME: Final = 300.0


class Floor:
    """What is known of a log's floor."""

    def __init__(self, store: EventStore, *, uptime: Callable[[], float]) -> None:
        """Make one that knows nothing yet.

        :param uptime: seconds on a clock that goes on while the machine sleeps.
        """
        self._store = store if isinstance(store, CompactableStore) else None
        self._uptime = uptime
        self._looked_at = float("-inf")
        #: What a key without an event is like.
        self.head: Head = NEVER

    async def look(self, service_time: Callable[[], int]) -> None:
        """Look it up, if what is known is too old. Before anything is decided on ``head``.

        :raises StoreUnavailable: if the store cannot be reached.
        """
        now = self._uptime()
        if self._store is None or now - self._looked_at < FLOOR_LIFETIME:
            return
        mark = await self._store.mark()
        opens = 0 < mark.firsts_since <= service_time()
        self.head = NEVER._replace(version=mark.floor, opens=opens) if opens else NEVER
        self._looked_at = now
