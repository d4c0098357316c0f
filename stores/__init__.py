"""Where the log is kept: the EventStore interface and its implementations."""

from .config import StoreConfig, build_store
from .interface import AlreadyApplied, Appended, EventStore, Fence, Head, KeyPage, Outcome
from .memory import MemoryStore
from .mongo import MongoStore

__all__ = [
    "AlreadyApplied",
    "Appended",
    "EventStore",
    "Fence",
    "Head",
    "KeyPage",
    "MemoryStore",
    "MongoStore",
    "Outcome",
    "StoreConfig",
    "build_store",
]
