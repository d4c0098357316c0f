"""Where the log is kept: the EventStore interface and its implementations."""

from .interface import AlreadyApplied, Appended, EventStore, Fence, Head, KeyPage, Outcome
from .memory import MemoryStore

__all__ = [
    "AlreadyApplied",
    "Appended",
    "EventStore",
    "Fence",
    "Head",
    "KeyPage",
    "MemoryStore",
    "Outcome",
]
