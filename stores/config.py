"""Stores as a configuration file gives them::

[stores.default]
type = "mongo"
url = "mongodb://db1,db2,db3/holdfast?replicaSet=rs0"
indexes = ["address.city", "age"]

[stores.scratch]
type = "memory"
"""

from collections.abc import Iterator
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from ..events import InvalidError, StoreConfigError
from ..events.limits import MAX_TTL_SECONDS
from ..events.queries import Path, parse_path
from .interface import EventStore, IndexedStore
from .retention import CompactableStore, RetentionConfig
from .types import StoreOptions, StoreType, find_type


def _check_type(name: str) -> str:
    try:
        find_type(name)
    except StoreConfigError as error:
        raise ValueError(str(error)) from error
    return name


def _check_indexes(fields: list[str]) -> list[str]:
    for field in fields:
        index_path(field)
    if len(set(fields)) != len(fields):
        raise ValueError("a field stands there twice")
    return fields


def index_path(field: str) -> Path:
    """The path of a declared index.

    :raises ValueError: if there can be no index on it.
    """
    try:
        path = parse_path(field)
    except InvalidError as error:
        raise ValueError(f"{field!r}: {error}") from None
    if not path or any(name.startswith("$") for name in path):
        raise ValueError(f"{field!r}: an index is on a member of values, whose name does not begin with '$'")
    return path


class StoreConfig(BaseModel):
    """What one named store is made of: its type, what all stores have, and the options of its type.

    Options may be secret, such as a password in a URL, and stay out of reprs and errors.
    """

    model_config = ConfigDict(frozen=True, extra="allow", hide_input_in_errors=True)

    #: ``mongo`` keeps the log in a MongoDB replica set; ``memory`` loses it when the process ends; others come with
    #: packages.
    type: Annotated[str, AfterValidator(_check_type)] = "mongo"
    #: Fields of values that queries are quick by, such as ``address.city``. The store has to offer indexes.
    indexes: Annotated[list[str], AfterValidator(_check_indexes)] = []
    #: Whether queries that no index serves may look at every key.
    scans: bool = True
    #: Seconds that values live whose commands do not say how long; None keeps them for ever.
    ttl_seconds: Annotated[int, Field(ge=1, le=MAX_TTL_SECONDS, strict=True)] | None = None
    #: What of the past is kept; None keeps everything for ever.
    retention: RetentionConfig | None = None
    _type: StoreType[Any] = PrivateAttr()
    _options: StoreOptions = PrivateAttr()

    @model_validator(mode="after")
    def _check(self) -> Self:
        self._type = find_type(self.type)
        # Its faults become this one's, each with its place.
        self._options = self._type.options.model_validate(self.model_extra or {})
        return self

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        yield "type", self.type
        yield "indexes", self.indexes
        yield "scans", self.scans
        yield "ttl_seconds", self.ttl_seconds
        yield "retention", self.retention

    @property
    def options(self) -> StoreOptions:
        """The options of its type."""
        return self._options

    @property
    def urls(self) -> list[str]:
        """The addresses among its options, as far as they are texts."""
        return [text for text in (self.model_extra or {}).values() if isinstance(text, str) and "://" in text]

    def build(self, name: str) -> EventStore:
        """The store, not opened yet. See :func:`build_store`."""
        store = self._type.build(name, self._options)
        if self.indexes:
            if not isinstance(store, IndexedStore):
                raise StoreConfigError(f"store {name!r}: stores of the type {self.type!r} keep no indexes")
            store.declare([index_path(field) for field in self.indexes])
        if self.retention and not isinstance(store, CompactableStore):
            raise StoreConfigError(f"store {name!r}: in stores of the type {self.type!r} nothing can be erased")
        return store


def build_store(name: str, config: StoreConfig) -> EventStore:
    """The store of a configuration, not opened yet.

    :raises StoreConfigError: if the name or an option cannot be used.
    """
    return config.build(name)
