"""Lists of keys: those that are there and that the sender may know of, a page at a time, beside the commit loop.

Where access is restricted, only what the rules allow is looked through at all: neither an answer, nor where a page
ends, nor how long it takes tells anything of the other keys.
"""

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from ..events import make_etag
from ..stores import EventStore, Head, KeyScope
from .lapse import is_there

#: Keys that are looked up at a time …
CHUNK: Final = 1000
#: … and for one page, deleted ones included. A page that has to pass over more of them ends early.
MAX_LOOKED: Final = 10_000


async def list_keys(
    store: EventStore,
    scope: KeyScope,
    *,
    after: str | None,
    limit: int,
    now: int,
    readable: Callable[[str], bool] | None = None,
    count_only: bool = False,
) -> dict[str, Any]:
    """The answer to a command that asks for keys.

    A key that is there throughout is on exactly one page, whatever is written meanwhile.

    :param scope: what is looked through.
    :param now: service time in milliseconds: what has expired by then is not there.
    :param readable: of which keys more than the name is told; None: of all.
    :raises StoreUnavailable: if the store cannot be reached.
    """
    if count_only:
        limit = MAX_LOOKED
    found: list[tuple[str, Head]] = []
    looked = 0
    last = after
    following: str | None = None
    async for keys in _chunks(store, scope, after, limit):
        heads = await store.heads(keys)
        found += [(key, heads[key]) for key in keys if key in heads and is_there(heads[key], now)]
        looked += len(keys)
        last = keys[-1]
        if len(found) > limit:
            found = found[:limit]
            following = found[-1][0]
            break
        if looked >= MAX_LOOKED:
            following = last
            break
    answer: dict[str, Any] = {"status": "ok", "count": len(found), "next": following}
    if not count_only:
        answer["keys"] = [
            _told(key, head) if readable is None or readable(key) else {"key": key} for key, head in found
        ]
    return answer


def _told(key: str, head: Head) -> dict[str, Any]:
    told = {"key": key, "etag": make_etag(head.version, head.id), "version": head.version, "updated_at": head.time}
    return told if head.expires is None else {**told, "expires": head.expires}


async def _chunks(store: EventStore, scope: KeyScope, after: str | None, limit: int) -> AsyncIterator[list[str]]:
    """Keys that have an event, in order."""
    chunk = min(CHUNK, limit + 1)
    for text, is_prefix in scope.spans(after):
        if not is_prefix:
            if after is None or text > after:
                yield [text]
            continue
        begin = after
        while True:
            page = await store.keys(text, after=begin, limit=chunk)
            if page.keys:
                yield page.keys
            if page.next is None:
                break
            begin = page.next
            # What was deleted is passed over: quickly, if there is much of it.
            chunk = CHUNK
