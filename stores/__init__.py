"""Where the log is kept: the EventStore interface and its implementations."""

from .capabilities import lacking, offered, unsupported
from .config import StoreConfig, build_store
from .indexes import Candidate, IndexQuery, IndexState, QueryTimeoutError, narrow
from .inspection import EventPage, InspectableStore, Inspection, Malformed, Place, RecordPage
from .interface import (
    AlreadyApplied,
    Appended,
    EventStore,
    ExpiringStore,
    Expiry,
    ExpiryPage,
    Fence,
    Head,
    IndexedStore,
    KeyPage,
    Outcome,
    Suspects,
    Transacted,
    TransactionalStore,
)
from .memory import MemoryStore
from .mongo import MongoStore
from .names import checked_name
from .retention import CompactableStore, KeyVersion, Mark, RetentionConfig, Trace
from .scopes import KeyScope
from .types import StoreOptions, StoreType

__all__ = [
    "AlreadyApplied",
    "Appended",
    "Candidate",
    "CompactableStore",
    "EventPage",
    "EventStore",
    "ExpiringStore",
    "Expiry",
    "ExpiryPage",
    "Fence",
    "Head",
    "IndexQuery",
    "IndexState",
    "IndexedStore",
    "InspectableStore",
    "Inspection",
    "KeyPage",
    "KeyScope",
    "KeyVersion",
    "Malformed",
    "Mark",
    "MemoryStore",
    "MongoStore",
    "Outcome",
    "Place",
    "QueryTimeoutError",
    "RecordPage",
    "RetentionConfig",
    "StoreConfig",
    "StoreOptions",
    "StoreType",
    "Suspects",
    "Trace",
    "Transacted",
    "TransactionalStore",
    "build_store",
    "checked_name",
    "lacking",
    "narrow",
    "offered",
    "unsupported",
]
