"""Sources: the events whose values are to be restored, looked up before the batch that restores them is decided."""

from collections.abc import Mapping, Sequence

from ..events import Event, RestoreCommand
from ..stores import EventStore
from .batch import Request
from .plan import NO_SOURCES

#: What a restore counts for in a batch, whose size is bounded by the values in it: as much as a value can have.
RESTORE_BYTES = 1024 * 1024


async def find_sources(store: EventStore, requests: Sequence[Request]) -> Mapping[tuple[str, int], Event]:
    """The events that restores among these requests want, as far as they are there. No query if there are none.

    Behind a fence: what was there when a head was looked up before is not missed, so that nothing is refused for the
    lack of it.

    :raises StoreUnavailable: if the store cannot be reached.
    """
    places = {
        (command.key, command.at_version) for request in requests if type(command := request.command) is RestoreCommand
    }
    if not places:
        return NO_SOURCES
    found: dict[tuple[str, int], Event] = {}
    after = await store.fence()
    # Some at a time, if they are more bytes than the database gives.
    while places and (some := await store.events(places, after=after)):
        found |= some
        places -= some.keys()
    return found
