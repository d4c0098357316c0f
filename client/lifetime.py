"""How long a value lives, as callers say it."""

from datetime import timedelta

from ..events import InvalidError
from ..events.limits import MAX_TTL_SECONDS

#: Whole seconds.
Ttl = int | timedelta


def to_seconds(ttl: Ttl) -> int:
    """A lifetime as the protocol has it.

    :raises InvalidError: if it is not of whole seconds, one at least and 68 years at most.
    """
    seconds: object = ttl
    if isinstance(ttl, timedelta):
        seconds = ttl // timedelta(seconds=1) if ttl % timedelta(seconds=1) == timedelta() else None
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= MAX_TTL_SECONDS:
        raise InvalidError(
            f"is a whole number of seconds from 1 to {MAX_TTL_SECONDS}, not {ttl!r}",
            code="bad_ttl_seconds",
            field="ttl",
        )
    return seconds
