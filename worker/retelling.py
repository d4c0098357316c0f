"""Lapses of which others may not have been told: who put them into the log may have died before it told the feed.

A command has its id in the log, and so tells its own event again when it is delivered again. A lapse has none that
anybody would send again. It is looked for at the two places where it can be: right in front of the event of a command
that met it, and, if nothing came after it, at the end of its key.
"""

from collections.abc import Collection, Iterable, Mapping

from ..events import Event
from ..stores import EventStore, Fence, Head

Place = tuple[str, int]


def place_before(event: Event) -> Place | None:
    """Where the lapse stands that an event came upon, if it did; None if it cannot have.

    In front of a lapse there is what expired, and behind it nothing is deleted.
    """
    return (event.key, event.version - 1) if event.type == "saved" and event.version > 2 else None


def places_at_end(heads: Mapping[str, Head], keys: Iterable[str]) -> list[Place]:
    """Where the newest events of these keys stand that may be lapses."""
    found = [(key, heads[key]) for key in keys if key in heads]
    return [(key, head.version) for key, head in found if head.id and not head.exists and head.version > 1]


async def find_lapses(
    store: EventStore, places: Collection[Place], *, after: Fence | None = None
) -> dict[Place, Event]:
    """Those events at these places that are lapses.

    :raises StoreUnavailable: if the store cannot be reached.
    """
    lapses: dict[Place, Event] = {}
    missing = set(places)
    while missing:
        # Whatever else is there is let go of at once: together it may be more than there is memory for.
        events = await store.events(missing, after=after)
        if not events:
            break
        missing -= events.keys()
        lapses |= {place: event for place, event in events.items() if event.type == "expired"}
    return lapses
