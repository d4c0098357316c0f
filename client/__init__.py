"""The async client: connection, request and reply, the key-value calls, queries, and PersistentState."""

from .changes import CaughtUp, Change
from .client import Client, connect
from .encryption import Encryption
from .entities import Entity, persistent
from .entry import Delete, Entry, KeyPage, Save, Service, Step
from .keyspace import by_name, by_user
from .queries import Condition, Field, Order, QueryPage, field
from .revisions import Revision
from .rewrite import migrate, rotate_keys
from .schema import Schema
from .serializers import Serializer
from .state import PersistentState
from .sync import SyncClient, SyncState, connect_sync
from .transactions import Check, StepResult, Transaction
from .watch import Watch

__all__ = [
    "CaughtUp",
    "Change",
    "Check",
    "Client",
    "Condition",
    "Delete",
    "Encryption",
    "Entity",
    "Entry",
    "Field",
    "KeyPage",
    "Order",
    "PersistentState",
    "QueryPage",
    "Revision",
    "Save",
    "Schema",
    "Serializer",
    "Service",
    "Step",
    "StepResult",
    "SyncClient",
    "SyncState",
    "Transaction",
    "Watch",
    "by_name",
    "by_user",
    "connect",
    "connect_sync",
    "field",
    "migrate",
    "persistent",
    "rotate_keys",
]
