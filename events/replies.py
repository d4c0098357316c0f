"""Replies: what workers answer."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict


class Status(StrEnum):
    """How a command ended. All but ``ok`` carry an error."""

    OK = "ok"
    CONFLICT = "conflict"
    INVALID = "invalid"
    UNKNOWN_STORE = "unknown_store"
    TOO_LARGE = "too_large"
    DENIED = "denied"
    #: The deadline had passed: certainly not applied.
    EXPIRED = "expired"
    #: Certainly not applied.
    UNAVAILABLE = "unavailable"
    #: An append was tried and its outcome cannot be established.
    UNKNOWN = "unknown"
    INTERNAL = "internal"


class ErrorInfo(BaseModel):
    """Why a command was not done."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    code: str
    message: str
    field: str | None = None
    #: Of a conflict: the etag that was demanded and the one found; null stands for an absent key.
    expected: str | None = None
    actual: str | None = None
    #: Of a conflict: the id of the command that made the state that was found.
    winner: str | None = None
    #: Of a conflict, if asked for and the key is there: the value that was found.
    current: Any = None
    #: Of a transaction: which operation it is, counted from 0, and its key.
    operation: int | None = None
    key: str | None = None


class HistoryEntry(BaseModel):
    """One event of a key, as a history tells it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int
    type: str
    etag: str
    id: str
    time: int
    value: Any = None
    #: Service time in milliseconds from which on the key is absent.
    expires: int | None = None
    author: str | None = None
    metadata: dict[str, str] | None = None
    #: In answers to ``watch`` and ``changes``.
    key: str | None = None
    #: What the command belonged to, and what led to it, as it said.
    correlation_id: str | None = None
    causation_id: str | None = None
    #: The version whose value this is, if it was restored.
    restored: int | None = None
    #: True if the value was erased, by retention or a purge, and with it metadata and the ids above.
    stripped: bool | None = None
    #: True in the change feed if the key had no event before it, or none that is kept: none is missing in front of it.
    first: bool | None = None


class KeyEntry(BaseModel):
    """A key that is there, as a list of keys tells it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    #: Left out, as is the time, for whoever may list the key but not read it.
    etag: str | None = None
    version: int | None = None
    #: Service time of the event that made this state.
    updated_at: int | None = None
    #: Service time from which on it is absent, if it does not stay.
    expires: int | None = None


class QueryEntry(BaseModel):
    """A key that a query has found, at its current version."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    value: Any
    etag: str
    version: int
    updated_at: int
    expires: int | None = None


class OperationReply(BaseModel):
    """What a transaction says of one of its operations: the state of the key after it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    # All of these are left out where the sender may not read the key.
    exists: bool | None = None
    etag: str | None = None
    version: int | None = None
    #: Of a save and a delete.
    changed: bool | None = None
    updated_at: int | None = None
    #: Of a save.
    expires: int | None = None


class Reply(BaseModel):
    """The answer to one command. Fields that this version does not know are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    #: The command's id; null if it could not be read.
    id: str | None = None
    status: str
    #: The topology's epoch; when it moves on, ask ``describe`` again.
    epoch: int | None = None
    #: Service time when the worker answered, in milliseconds since 1970.
    time: int | None = None
    error: ErrorInfo | None = None

    # Of save, patch, delete and read:
    exists: bool | None = None
    etag: str | None = None
    version: int | None = None
    value: Any = None
    changed: bool | None = None
    #: Service time of the event that made this state.
    updated_at: int | None = None
    #: Service time in milliseconds from which on the key is absent, if it does not stay.
    expires: int | None = None

    #: Of a transaction: one for each operation, in order.
    results: list[OperationReply] | None = None

    # Of history, watch and changes:
    events: list[HistoryEntry] | None = None
    #: Of a history: give this as ``after_version`` for the next page, or, backward, as ``before_version``.
    #: Of changes: as ``after_version``; of keys and watch: as ``after``. Null on the last page.
    next: int | str | None = None

    # Of watch:
    versions: dict[str, int] | None = None

    # Of keys:
    keys: list[KeyEntry] | None = None
    #: How many keys this page is about.
    count: int | None = None

    # Of query:
    entries: list[QueryEntry] | None = None
    #: Give this for the next page; null on the last one.
    token: str | None = None
    #: Every key is looked at, because no index serves the query.
    scan: bool | None = None
    #: Service time: every write that was acknowledged before is seen.
    as_of: int | None = None

    # Of describe:
    partitions: int | None = None
    protocol: dict[str, int] | None = None
    stores: list[str] | None = None
    limits: dict[str, int] | None = None
    #: By store: which messages its events are in.
    feed: dict[str, str] | None = None
    #: By store: what it offers beyond the core.
    capabilities: dict[str, list[str]] | None = None
    #: Of stores whose values live for a while: the seconds that one has which is not told how long.
    ttl_seconds: dict[str, int] | None = None


def error(status: Status, code: str, message: str, **details: Any) -> dict[str, Any]:
    """The wire form of an answer that is not ``ok``, without id, epoch and time."""
    return {"status": status.value, "error": {"code": code, "message": message, **details}}
