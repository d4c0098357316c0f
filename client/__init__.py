"""The async client: connection, request and reply, the key-value calls, queries, and PersistentState."""

from .client import Client, connect
from .entry import Entry, Save, Service
from .queries import Condition, Field, Order, QueryPage, field
from .state import PersistentState

__all__ = [
    "Client",
    "Condition",
    "Entry",
    "Field",
    "Order",
    "PersistentState",
    "QueryPage",
    "Save",
    "Service",
    "connect",
    "field",
]
