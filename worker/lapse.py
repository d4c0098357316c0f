"""Lapses: keys whose time has come. Plain functions: no I/O, no clock.

That a key has expired is put into the log before anybody is told so, or writes on top of it: an ``expired`` event, by
whoever finds out first. So it does not matter that the clocks of two workers differ by a little: for all of them the
key is absent from the same point in its history on. Its time is the moment that the key's owner asked for.
"""

from typing import Final

import uuid_utils

from ..events import Event, make_etag
from ..events.records import expiry_digest
from ..stores import Head
from .decide import Answer

#: The answer to a request to look whether a key has expired. Nobody waits for it.
LOOKED_AT: Final[Answer] = {"status": "ok"}


def has_lapsed(head: Head, now: int) -> bool:
    """Whether a key was there, and its time has come, and nothing in the log says so yet."""
    return head.expires is not None and head.exists and head.expires <= now


def is_there(head: Head, now: int) -> bool:
    """Whether a key whose newest event this is can be read at that service time."""
    return head.exists and not has_lapsed(head, now)


def lapse(key: str, head: Head) -> Event:
    """The event that makes a key absent whose time has come.

    Its id is a new one: that it happens once is seen to by its version.
    """
    if head.expires is None:
        raise ValueError("the key does not expire")
    etag = make_etag(head.version, head.id)
    return Event(
        id=str(uuid_utils.uuid7()),
        key=key,
        time=head.expires,
        digest=expiry_digest(key, etag),
        type="expired",
        version=head.version + 1,
    )
