"""Types of stores: our own, and those that other packages publish as entry points of the group ``holdfast.stores``."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from ..events import StoreConfigError
from .interface import EventStore
from .memory import MemoryStore
from .mongo import DEFAULT_TIMEOUT_SECONDS, MongoStore

#: Entry points of this group are types of stores, by the name that a configuration gives as ``type``.
GROUP: Final = "holdfast.stores"


#: Names in a store's table that are no options of its type, because all stores have them: see StoreConfig.
RESERVED: Final = frozenset({"type", "indexes", "scans", "ttl_seconds", "retention"})


class StoreOptions(BaseModel):
    """The options of one type of stores: its own are a subclass. They may hold passwords, and are in no repr or error.

    The names in ``RESERVED`` are taken: all stores have them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    __str__ = __repr__


Options = TypeVar("Options", bound=StoreOptions)


@dataclass(frozen=True, slots=True)
class StoreType(Generic[Options]):
    """How a table of the configuration becomes a store: what an entry point of the group ``holdfast.stores`` names.

    ``build`` is given the store's name and its options. It does no I/O, which is left to ``open``, and raises
    :class:`StoreConfigError` for what cannot be used.
    """

    options: type[Options]
    build: Callable[[str, Options], EventStore]


class MemoryOptions(StoreOptions):
    """A store in memory has none: it loses everything when the process ends."""


class MongoOptions(StoreOptions):
    """Of a log in a MongoDB replica set."""

    #: The replica set's address, ``mongodb://…``.
    url: Annotated[str, Field(min_length=1)]
    #: Goes before the database in the URL; without either it is ``holdfast``.
    database: str | None = None
    #: How long the server may work on one command.
    timeout_seconds: float = Field(default=DEFAULT_TIMEOUT_SECONDS, gt=0, le=60, allow_inf_nan=False)


def _build_memory(name: str, _: MemoryOptions) -> EventStore:
    return MemoryStore(name=name)


def _build_mongo(name: str, options: MongoOptions) -> EventStore:
    return MongoStore(options.url, name=name, database=options.database, timeout_seconds=options.timeout_seconds)


_OURS: Final[dict[str, StoreType[Any]]] = {
    "memory": StoreType(MemoryOptions, _build_memory),
    "mongo": StoreType(MongoOptions, _build_mongo),
}


def find_type(name: str) -> StoreType[Any]:
    """The type of this name. Ours cannot be replaced by a package.

    :raises StoreConfigError: if there is none, if packages disagree about it, or if it cannot be loaded.
    """
    ours = _OURS.get(name)
    if ours is not None:
        return ours
    published = entry_points(group=GROUP)
    # The same package may be found by two ways.
    found = {point.value: point for point in published if point.name == name}
    if not found:
        known = sorted({*_OURS, *published.names})
        raise StoreConfigError(
            f"there is no store type {name!r}; there are: {', '.join(known)}. Packages add others by entry points of "
            f"the group {GROUP}: is the package installed where the worker runs?"
        )
    if len(found) > 1:
        origins = ", ".join(sorted(map(_origin, found.values())))
        raise StoreConfigError(f"several packages have a store type {name!r}: {origins}")
    return _load(next(iter(found.values())))


def _load(point: EntryPoint) -> StoreType[Any]:
    try:
        loaded = point.load()
    except Exception as error:
        raise StoreConfigError(
            f"the store type {point.name!r} of {_origin(point)} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(loaded, StoreType):
        raise StoreConfigError(f"the store type {point.name!r} of {_origin(point)} is no StoreType")
    taken = RESERVED & loaded.options.model_fields.keys()
    if taken:
        raise StoreConfigError(
            f"the store type {point.name!r} of {_origin(point)} has an option {min(taken)!r}, which all stores have"
        )
    return loaded


def _origin(point: EntryPoint) -> str:
    package = f"{point.dist.name} {point.dist.version}, " if point.dist is not None else ""
    return f"{package}{point.value}"
