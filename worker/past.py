"""The past of a key: pages of its events, and the states that they made. Read beside the commit loop."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson

from ..events import Event, HistoryEntry, ReadCommand, Status
from ..events.limits import REPLY_MESSAGE_BYTES
from ..events.replies import error
from ..stores import EventStore
from .decide import Answer, has_value
from .knowledge import read_answer, state_of
from .purges import Purges

#: Events that are read at a time for a page of a history, if nothing is known of their size …
HISTORY_READ: Final = 8
#: … and if those before were small.
HISTORY_READ_SMALL: Final = 256

STRIPPED: Final[Answer] = error(Status.INVALID, "stripped", "the value of this version was erased")


@dataclass(frozen=True, slots=True)
class Page:
    """Which events of a key, as in a history command."""

    key: str
    after_version: int = 0
    before_version: int | None = None
    #: Service time in milliseconds; both ends belong to it.
    from_time: int | None = None
    to_time: int | None = None
    backward: bool = False
    limit: int = 100


async def read_page(
    store: EventStore, page: Page, purges: Purges | None = None
) -> tuple[list[HistoryEntry], int | None]:
    """A page of a key's events, and where the next one begins: what is to be the next ``after_version``, or, backward,
    the next ``before_version``.

    What a purge on its way is going to erase is told as if it were erased. A page ends early where its values would not
    fit into one reply; one event it always has, if there is one.

    :raises StoreUnavailable: if the store cannot be reached.
    """
    page = await _with_versions(store, page)
    entries: list[HistoryEntry] = []
    size = 0
    wanted = HISTORY_READ
    following = page.before_version if page.backward else page.after_version
    while True:
        wanted = min(wanted, page.limit + 1 - len(entries))
        events = await _read(store, page, following, wanted)
        for event in events if purges is None else map(purges.hide, events):
            size += len(orjson.dumps(event.value))
            if len(entries) == page.limit or (entries and size > REPLY_MESSAGE_BYTES):
                return entries, following
            entries.append(entry_of(event))
            following = event.version
        # Fewer than wanted may be all that the store gives at a time.
        if not events:
            return entries, None
        room = max(0, REPLY_MESSAGE_BYTES - size)
        wanted = min(HISTORY_READ_SMALL, 1 + room * len(entries) // size)


async def _with_versions(store: EventStore, page: Page) -> Page:
    """The page with versions in the place of times: a key's times never run backwards."""
    after, before = page.after_version, page.before_version
    if page.from_time is not None and page.from_time > 0:
        after = max(after, await store.version_at(page.key, page.from_time - 1))
    if page.to_time is not None:
        last = await store.version_at(page.key, page.to_time)
        before = last + 1 if before is None else min(before, last + 1)
    return replace(page, after_version=after, before_version=before, from_time=None, to_time=None)


async def _read(store: EventStore, page: Page, following: int | None, limit: int) -> Sequence[Event]:
    after = page.after_version if page.backward else following or 0
    before = following if page.backward else page.before_version
    if before is not None and before <= after + 1:
        return []
    return await store.history(
        page.key, after_version=after, before_version=before, backward=page.backward, limit=limit
    )


def entry_of(event: Event) -> HistoryEntry:
    """An event as a history tells it. Of one that saved null, null is the value, and not the lack of one."""
    fields = {
        "version": event.version,
        "type": event.type,
        "etag": event.etag,
        "id": event.id,
        "time": event.time,
        "expires": event.expires,
        "author": event.author,
        "metadata": event.metadata,
        "correlation_id": event.correlation_id,
        "causation_id": event.causation_id,
        "restored": event.restored,
        "stripped": event.stripped or None,
    }
    fields = {name: field for name, field in fields.items() if field is not None}
    return HistoryEntry(**fields, **({"value": event.value} if has_value(event) else {}))


async def read_past(store: EventStore, command: ReadCommand, purges: Purges) -> Answer:
    """The answer to a read of an earlier state: what the event of a version made, or what there was at a time.

    :raises StoreUnavailable: if the store cannot be reached.
    """
    key, version = command.key, command.at_version or 0
    after = await store.fence() if command.consistency == "strong" else None
    if command.at_time is not None:
        version = await store.version_at(key, command.at_time, after=after)
        if not version and await store.history(key, limit=1, after=after) and not await _begins(store, key):
            # There was something at that time, perhaps, and it was dropped.
            return STRIPPED
    event = (await store.events([(key, version)], after=after)).get((key, version)) if version else None
    if event is None:
        # A version that is not there any more was dropped, if there is a later one.
        later = (await store.versions([key], after=after)).get(key, 0) > version > 0
        return STRIPPED if later else read_answer(None, 0)
    if command.at_time is not None and event.expires is not None and event.expires <= command.at_time:
        # It had expired by then, whether or not the log says so yet.
        return read_answer(None, event.version)
    event = purges.hide(event)
    if event.stripped and event.type == "saved":
        return STRIPPED
    return read_answer(state_of(event), event.version)


async def _begins(store: EventStore, key: str) -> bool:
    """Whether a key's oldest event in the log is the oldest that there ever was, as far as can be told."""
    oldest = await store.history(key, limit=1)
    return not oldest or oldest[0].version == 1 or oldest[0].first
