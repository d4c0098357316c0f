"""Records to fill stores with, with as little to say as possible."""

import itertools
from typing import Any

from holdfast.events import Event, Refusal

_numbers = itertools.count(1)

#: A plausible service time: 2024-11-21T21:10:56.789Z.
TIME = 1_732_223_456_789


def new_id() -> str:
    """A command id that no other test has."""
    return f"command-{next(_numbers)}"


def saved(key: str, version: int, *, value: Any = None, command: str | None = None, **more: Any) -> Event:
    fields = {"time": TIME, "digest": b"\0\1\2\3\4\5\6\7", **more}
    return Event(id=command or new_id(), key=key, version=version, type="saved", value=value, **fields)


def deleted(key: str, version: int, *, command: str | None = None) -> Event:
    return Event(
        id=command or new_id(), key=key, version=version, type="deleted", time=TIME, digest=b"\0\1\2\3\4\5\6\7"
    )


def refused(key: str, *, command: str | None = None, **answer: Any) -> Refusal:
    answer = answer or {"status": "conflict", "error": {"code": "exists", "message": "it is there"}}
    return Refusal(id=command or new_id(), key=key, time=TIME, digest=b"\7\6\5\4\3\2\1\0", answer=answer)
