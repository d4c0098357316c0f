"""Revisions: the past of a handle's state, with values of its type."""

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from ..events import HistoryEntry
from .entry import to_datetime

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Revision(Generic[T]):
    """One event of a key, and the value that it stored."""

    #: As it stands in the log.
    event: HistoryEntry
    #: None if the event took the value away, or if it was erased since.
    value: T | None

    @property
    def version(self) -> int:
        """Counts the key's events from 1."""
        return self.event.version

    @property
    def exists(self) -> bool:
        """Whether the key was there after this event."""
        return self.event.type == "saved"

    @property
    def time(self) -> datetime:
        """When it happened, in service time."""
        return to_datetime(self.event.time)
