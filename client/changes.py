"""Changes: what a watch tells."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .entry import to_datetime
from .quick import quickly


@dataclass(frozen=True, slots=True)
class Change:
    """One version of a key: as it is there when a watch begins, or a change of it since."""

    key: str
    #: Counts the key's events from 1, without gaps, also through deletes.
    version: int
    #: ``saved``, ``deleted``, ``expired`` or ``purged``, as in a history.
    type: str
    #: None if the key is absent after it.
    value: Any
    #: Of the state that it made.
    etag: str
    #: The command that made it.
    id: str
    #: Service time, in milliseconds since 1970.
    time_ms: int
    author: str | None
    metadata: dict[str, str] | None
    store: str
    #: It comes before :class:`CaughtUp`.
    initial: bool
    #: What its command belongs to, and what led to it, as the command said.
    correlation_id: str | None = None
    causation_id: str | None = None
    #: The version whose value this is, if it was restored.
    restored: int | None = None
    #: Of a saved one: service time from which on the key is absent, in milliseconds since 1970; None if it stays.
    expires_at_ms: int | None = None

    @property
    def time(self) -> datetime:
        """When it was made, in service time."""
        return to_datetime(self.time_ms)

    @property
    def expires_at(self) -> datetime | None:
        """From when on the key is absent, in service time; None if it stays."""
        return None if self.expires_at_ms is None else to_datetime(self.expires_at_ms)

    @property
    def exists(self) -> bool:
        """Whether the key is there after it."""
        return self.type == "saved"


#: Makes one as the class does, but more quickly.
make_change = quickly(Change)


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Comes once in a watch, between what was there and what changes from then on."""


Item = Change | CaughtUp
