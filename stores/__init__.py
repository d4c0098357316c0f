"""Where the log is kept: the EventStore interface and its implementations."""

from .capabilities import lacking, unsupported
from .config import StoreConfig, build_store
from .inspection import EventPage, InspectableStore, Inspection, Malformed, RecordPage
from .interface import AlreadyApplied, Appended, EventStore, Fence, Head, KeyPage, Outcome, Suspects
from .memory import MemoryStore
from .mongo import MongoStore

__all__ = [
    "AlreadyApplied",
    "Appended",
    "EventPage",
    "EventStore",
    "Fence",
    "Head",
    "InspectableStore",
    "Inspection",
    "KeyPage",
    "Malformed",
    "MemoryStore",
    "MongoStore",
    "Outcome",
    "RecordPage",
    "StoreConfig",
    "Suspects",
    "build_store",
    "lacking",
    "unsupported",
]
