"""A Holdfast store in one SQLite file: an example of a store that comes with a package. See README.md."""

from pathlib import Path

from holdfast.stores import EventStore, StoreOptions, StoreType

from .store import SqliteStore

__all__ = ["SqliteOptions", "SqliteStore", "store_type"]


class SqliteOptions(StoreOptions):
    """What a configuration says of it."""

    #: The file. Its directory has to be there.
    path: Path


def _build(name: str, options: SqliteOptions) -> EventStore:
    return SqliteStore(options.path, name=name)


#: The entry point.
store_type = StoreType(SqliteOptions, _build)
