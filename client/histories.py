"""Histories: what happened to one key, event by event. They are methods of :class:`Client`."""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime

from ..events import HistoryEntry, check_key
from ..events.limits import MAX_PAGE
from .caller import Caller
from .calls import Wire
from .clock import Countdown
from .span import Span


async def history(
    self: Caller,
    key: str,
    *,
    after_version: int = 0,
    before_version: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    backward: bool = False,
    limit: int = 100,
    store: str | None = None,
    timeout: float | None = None,
) -> Sequence[HistoryEntry]:
    """Events of the key, oldest first, at most ``limit`` (up to 1,000) of those that all conditions hold for.

    For the next page give the last one's version as ``after_version``, or, backward, as ``before_version``;
    :meth:`iter_history` goes through all of them.

    :param after_version: only later versions.
    :param before_version: only earlier versions.
    :param since: only events of this time or later, in service time.
    :param until: only events of this time or earlier.
    :param backward: newest first.
    :raises ValueError: if a time has no time zone.
    """
    countdown = Countdown(self._seconds(timeout))
    span = Span(after_version, before_version, since, until, backward)
    events: list[HistoryEntry] = []
    while True:
        page, following = await _page(self, key, span, limit - len(events), store, countdown.left())
        events += page
        # Large values come on several pages.
        if following is None or len(events) >= limit:
            return events
        span = following


async def iter_history(
    self: Caller,
    key: str,
    *,
    after_version: int = 0,
    before_version: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    backward: bool = False,
    store: str | None = None,
    timeout: float | None = None,
) -> AsyncGenerator[HistoryEntry, None]:
    """All events of the key, however many: read a page at a time, as the loop over them goes on.

    The conditions are those of :meth:`history`. What is appended meanwhile is on the last page, if it is there by
    then. Breaking off leaves nothing behind.

    :param timeout: seconds for each page.
    """
    following: Span | None = Span(after_version, before_version, since, until, backward)
    while following is not None:
        events, following = await _page(self, key, following, MAX_PAGE, store, timeout)
        for event in events:
            yield event


async def _page(
    self: Caller, key: str, span: Span, limit: int, store: str | None, timeout: float | None
) -> tuple[Sequence[HistoryEntry], Span | None]:
    command: Wire = {"op": "history", "key": check_key(key), "limit": limit, **span.to_wire()}
    store = self._name_store(command, store)
    reply = await self._call(command, store, key, timeout, None, mutates=False)
    return reply.events or (), span.following(reply.next) if isinstance(reply.next, int) else None
