"""What transactions have carried for keys that have no event: looked up before such a key is purged.

A transaction may begin with a key that it only finds absent, and carry messages, which belong to that key. They are all
that there is of it, and what a purge of it has to erase.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from ..events import PurgeCommand
from ..stores import CompactableStore, Head
from .batch import Request

NOTHING: Final[frozenset[str]] = frozenset()


async def find_carried(
    store: CompactableStore | None, requests: Sequence[Request], heads: Mapping[str, Head]
) -> Collection[str]:
    """Those keys without an event among these requests' purges that have messages. No query if there are none.

    Behind a fence: what was acknowledged before a purge was sent is not missed.

    :param store: None if it cannot erase anything, and so gets no purges.
    :raises StoreUnavailable: if the store cannot be reached.
    """
    keys = {
        request.command.key
        for request in requests
        if type(request.command) is PurgeCommand and not heads[request.command.key].id
    }
    if not keys or store is None:
        return NOTHING
    return await store.carrying(keys, after=await store.fence())
