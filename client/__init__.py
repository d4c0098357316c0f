"""The async client: connection, request and reply, the key-value calls, and PersistentState."""

from .client import Client, connect
from .entry import Entry, Save, Service
from .state import PersistentState

__all__ = ["Client", "Entry", "PersistentState", "Save", "Service", "connect"]
