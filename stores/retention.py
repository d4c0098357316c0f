"""What a store has to offer for values to be erased and old records to be dropped: by retention, and by a purge.

Events stay what they were but for this: an event that is not its key's newest can become a *stub*, without its value
and metadata, and later a stub can be dropped. Of each key the oldest versions go first, so that what is left has no
gap.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .interface import EventStore, Fence

#: A key and a version.
KeyVersion = tuple[str, int]


class Trace(NamedTuple):
    """What compaction needs to know of an event."""

    key: str
    version: int
    #: As the event's.
    type: str
    #: Service time in milliseconds.
    time: int
    #: It is a stub.
    stripped: bool
    #: When it was closed: its key is about to be dropped, and whoever writes it begins it anew. None if it was not.
    closed: int | None
    #: It has messages, which may have to be published again, or a receipt has that stands at its key and version.
    carries: bool = False

    @property
    def exists(self) -> bool:
        """Whether the key is there after it."""
        return self.type == "saved"


class RetentionConfig(BaseModel):
    """What of a store's past is kept. An event's value is erased when none of these keeps it any more."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: The last so many versions of each key are kept, the present one included.
    versions: int | None = Field(default=None, ge=1)
    #: What was the present state at any time of the last so many days is kept.
    days: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    #: What remains of an erased event is dropped so many days after it had a successor, and with it what a repeat of
    #: its command is recognised by. So are recorded refusals, and keys that have been absent for so long.
    forget_days: float = Field(default=30.0, ge=7, allow_inf_nan=False)
    #: Seconds from the end of one sweep through the log to the beginning of the next one.
    interval_seconds: float = Field(default=600.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.versions is None and self.days is None:
            raise ValueError("says how many `versions` are kept, or for how many `days`, or both")
        return self


@dataclass(frozen=True, slots=True)
class Mark:
    """What is known of a log that is being compacted. The zeros are those of one that never was."""

    #: A key that has no event begins with the version that follows this one. It only rises, and is at least the version
    #: of every key that was dropped.
    floor: int = 0
    #: Events that are older than this may have been dropped.
    horizon: int = 0
    #: Since when events say that they are their key's first; 0 if they do not.
    firsts_since: int = 0
    #: Where the present sweep is: it has done everything up to and with this key.
    swept: str | None = None
    #: When the last sweep was finished.
    finished: int = 0
    #: Who sweeps, and until when that counts.
    sweeper: str | None = None
    until: int = 0


@runtime_checkable
class CompactableStore(EventStore, Protocol):
    """A store in whose log values can be erased, and records dropped. Repeating any of this is harmless.

    All methods raise :class:`StoreUnavailable` when the database cannot be reached, or no majority has confirmed.
    """

    async def strip(self, ranges: Sequence[tuple[str, int, int]]) -> int:
        """Erase values and metadata of events: of each key those from a version up to another one, both included.

        They become stubs, on the journal of a majority. Gives back how many were none before. It is never asked for a
        key's newest event. Before that the messages go out of receipts of the key that stand at these versions
        (:attr:`Receipt.at`, which may be 0), and nothing else of them.
        """

    async def carrying(self, keys: Collection[str], *, after: Fence | None = None) -> set[str]:
        """Those of these keys of which there are receipts that carry messages."""

    async def places(self, *, after: KeyVersion | None = None, limit: int = 1000) -> list[KeyVersion]:
        """Events in the order of the keys, the newest version of each first, behind a place that was given before."""

    async def traces(self, places: Sequence[KeyVersion]) -> dict[KeyVersion, Trace]:
        """What compaction needs to know of these events, as far as they are there."""

    async def close_key(self, place: KeyVersion, *, now: int) -> None:
        """Mark an event as closed, if it is not: by whom it is followed says that it begins the key anew."""

    async def drop(self, places: Sequence[KeyVersion]) -> int:
        """Remove events in this order. How many were there.

        The order is kept also if it is cut short: what is removed is a head of the list. Messages in receipts that
        stand at these places go before, as those of what is stripped.
        """

    async def drop_refusals(self, before: int, *, limit: int) -> int:
        """Remove refusals of before this service time, not more than so many. How many there were."""

    async def mark(self) -> Mark:
        """The log's mark, as a majority has it."""

    async def set_mark(self, old: Mark, new: Mark) -> bool:
        """Put a mark in the place of another one. False, and nothing is done, if it is not the old one."""

    async def prepare_compaction(self) -> None:
        """Make what compaction needs. From then on no two events of a key can say that they are its first."""
