"""Listings of the keys that are there. They are methods of :class:`Client`."""

from collections.abc import AsyncGenerator

from ..events import KeyEntry, Reply
from ..events.limits import MAX_PAGE
from .caller import Caller
from .calls import Wire
from .clock import Countdown
from .entry import KeyPage


async def keys(
    self: Caller,
    prefix: str = "",
    *,
    after: str | None = None,
    limit: int = 100,
    store: str | None = None,
    timeout: float | None = None,
) -> KeyPage:
    """Keys that are there and begin with the prefix, in byte order, at most ``limit`` (up to 1,000).

    Keys that this user may not list are passed over. A key that is there throughout is on exactly one page,
    whatever is written meanwhile; :meth:`iter_keys` goes through all of them.

    :param after: only keys behind this one: the page's ``next``.
    """
    reply = await _ask(self, {"prefix": prefix, "after": after, "limit": limit}, store, timeout)
    return KeyPage(tuple(reply.keys or ()), reply.next if isinstance(reply.next, str) else None)


async def iter_keys(
    self: Caller,
    prefix: str = "",
    *,
    after: str | None = None,
    store: str | None = None,
    timeout: float | None = None,
) -> AsyncGenerator[KeyEntry, None]:
    """All keys that are there and begin with the prefix, in byte order, read a page at a time.

    :param after: only keys behind this one.
    :param timeout: seconds for each page.
    """
    while True:
        page = await keys(self, prefix, after=after, limit=MAX_PAGE, store=store, timeout=timeout)
        for key in page.keys:
            yield key
        if page.next is None:
            return
        after = page.next


async def count_keys(self: Caller, prefix: str = "", *, store: str | None = None, timeout: float | None = None) -> int:
    """How many keys are there that begin with the prefix, and that this user may list.

    Each is looked at for itself, some thousand at a time: while others write, the number is of no single moment.

    :param timeout: seconds for all of it.
    """
    countdown = Countdown(self._seconds(timeout))
    count = 0
    after: str | None = None
    while True:
        fields: Wire = {"prefix": prefix, "after": after, "count_only": True}
        reply = await _ask(self, fields, store, countdown.left())
        count += reply.count or 0
        if not isinstance(reply.next, str):
            return count
        after = reply.next


async def _ask(self: Caller, fields: Wire, store: str | None, timeout: float | None) -> Reply:
    command: Wire = {"op": "keys", **{name: field for name, field in fields.items() if field is not None}}
    store = self._name_store(command, store)
    return await self._call(command, store, "", timeout, None, mutates=False)
