"""What the client gives back: a key's state with all that belongs to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ..events import KeyEntry, Reply
from .lifetime import Ttl
from .quick import quickly

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Entry:
    """A key that is there, at one version."""

    key: str
    value: Any
    #: Give it to a later save or delete to make that conditional.
    etag: str
    #: Counts the key's events from 1, without gaps, also through deletes.
    version: int
    #: Service time of the event, in milliseconds since 1970.
    updated_at_ms: int
    store: str = "default"
    #: Service time from which on the key is absent, in milliseconds since 1970; None if it stays.
    expires_at_ms: int | None = None

    @staticmethod
    def of(store: str, key: str, value: Any, reply: Reply) -> "Entry":
        """What a reply says of a key."""
        return _make_entry(
            key, value, reply.etag or "", reply.version or 0, reply.updated_at or 0, store, reply.expires
        )

    @property
    def updated_at(self) -> datetime:
        """When this version was made, in service time."""
        return to_datetime(self.updated_at_ms)

    @property
    def expires_at(self) -> datetime | None:
        """From when on the key is absent, in service time; None if it stays."""
        return None if self.expires_at_ms is None else to_datetime(self.expires_at_ms)


_make_entry = quickly(Entry)


@dataclass(frozen=True, slots=True)
class Step:
    """One step of :meth:`Client.transact`: a :class:`Save`, a :class:`Delete` or a :class:`Check`."""

    key: str


@dataclass(frozen=True, slots=True)
class Save(Step):
    """One item of :meth:`Client.save_many`, and one step of :meth:`Client.transact`."""

    value: Any
    etag: str | None = None
    #: Demand that the key is absent, if there is no etag.
    first_write: bool = False
    #: How long it lives: seconds, a timedelta of whole ones, or "forever".
    ttl: Ttl | None = None


@dataclass(frozen=True, slots=True)
class Delete(Step):
    """One item of :meth:`Client.delete_many`, and one step of :meth:`Client.transact`."""

    #: Demand that the key's state has this etag.
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """What the service says of itself."""

    partitions: int
    epoch: int
    stores: tuple[str, ...]
    #: The oldest and the newest protocol version that it speaks.
    protocol: tuple[int, int]
    max_value_bytes: int
    #: Service time when it answered.
    time: datetime
    #: By store: which messages its events are in, ``levels`` or ``store``; or ``off``.
    feed: Mapping[str, str] = field(default_factory=dict)
    #: By store: what it offers beyond the core, ``erasing``, ``indexes``, ``inspection`` and ``transactions``; a
    #: later service may tell of more. Empty if the service is one that does not tell.
    capabilities: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: Of stores whose values live for a while: the seconds that one has which is saved without a ``ttl``.
    ttl_seconds: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Some keys that are there."""

    keys: tuple[KeyEntry, ...]
    #: Give it as ``after`` for the next page; None on the last one.
    next: str | None


def to_service(reply: Reply) -> Service:
    """What the reply to a ``describe`` says."""
    protocol, limits = reply.protocol or {}, reply.limits or {}
    return Service(
        partitions=reply.partitions or 1,
        epoch=reply.epoch or 0,
        stores=tuple(reply.stores or ()),
        protocol=(protocol.get("min", 1), protocol.get("max", 1)),
        max_value_bytes=limits.get("value_bytes", 0),
        time=to_datetime(reply.time or 0),
        feed=dict(reply.feed or {}),
        capabilities={store: frozenset(names) for store, names in (reply.capabilities or {}).items()},
        ttl_seconds=dict(reply.ttl_seconds or {}),
    )


def to_millis(time: datetime) -> int:
    """A time as whole milliseconds since 1970, the last one that had begun by then.

    :raises ValueError: if it has no time zone: it could be any.
    """
    if time.tzinfo is None:
        raise ValueError("a time needs a time zone, such as datetime.now(UTC)")
    return (time - _EPOCH) // timedelta(milliseconds=1)


def to_datetime(milliseconds: int) -> datetime:
    """Milliseconds since 1970 as an aware datetime, exactly."""
    return _EPOCH + timedelta(milliseconds=milliseconds)
