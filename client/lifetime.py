"""How long a value lives, as callers say it."""

from datetime import timedelta
from typing import Literal

from ..events import InvalidError
from ..events.limits import FOREVER, MAX_TTL_SECONDS

#: Whole seconds, or ``"forever"``, which is for stores whose values live for a while unless they are told.
Ttl = int | timedelta | Literal["forever"]


def to_seconds(ttl: Ttl) -> int:
    """A lifetime as the protocol has it.

    The number that stands there for "for ever" is none for callers: a difference of two times could be it by accident.

    :raises InvalidError: if it is not of whole seconds, one at least and 68 years at most, and not ``"forever"``.
    """
    if ttl == "forever":
        return FOREVER
    seconds: object = ttl
    if isinstance(ttl, timedelta):
        seconds = ttl // timedelta(seconds=1) if ttl % timedelta(seconds=1) == timedelta() else None
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= MAX_TTL_SECONDS:
        raise InvalidError(
            f"is a whole number of seconds from 1 to {MAX_TTL_SECONDS}, or 'forever', not {ttl!r}",
            code="bad_ttl_seconds",
            field="ttl",
        )
    return seconds
