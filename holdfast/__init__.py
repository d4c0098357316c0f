"""Holdfast: durable, versioned application state over RabbitMQ and MongoDB.

::

    import holdfast

    async with holdfast.connect("amqp://…") as client:
        saved = await client.save("user/42", {"name": "Ada"})
        entry = await client.read("user/42")
        await client.delete("user/42", etag=entry.etag)
"""

from .client import (
    Client,
    Condition,
    Entry,
    Field,
    Order,
    PersistentState,
    QueryPage,
    Save,
    Service,
    connect,
    field,
)
from .events import (
    AbsentError,
    ClosedError,
    ConflictError,
    DeniedError,
    ExpiredError,
    HistoryEntry,
    HoldfastError,
    IdReusedError,
    InvalidError,
    NotReadError,
    OutcomeUnknown,
    RemoteError,
    TooLargeError,
    Unavailable,
    UnknownStoreError,
    UnsupportedError,
)
from .plaintext import PlaintextWarning

__all__ = [
    "AbsentError",
    "Client",
    "ClosedError",
    "Condition",
    "ConflictError",
    "DeniedError",
    "Entry",
    "ExpiredError",
    "Field",
    "HistoryEntry",
    "HoldfastError",
    "IdReusedError",
    "InvalidError",
    "NotReadError",
    "Order",
    "OutcomeUnknown",
    "PersistentState",
    "PlaintextWarning",
    "QueryPage",
    "RemoteError",
    "Save",
    "Service",
    "TooLargeError",
    "Unavailable",
    "UnknownStoreError",
    "UnsupportedError",
    "connect",
    "field",
]
