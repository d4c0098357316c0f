"""Stores as a configuration file gives them::

[stores.default]
type = "mongo"
url = "mongodb://db1,db2,db3/holdfast?replicaSet=rs0"

[stores.scratch]
type = "memory"
"""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..events import StoreConfigError
from .interface import EventStore
from .memory import MemoryStore
from .mongo import DEFAULT_TIMEOUT_SECONDS, MongoStore


class StoreConfig(BaseModel):
    """What one named store is made of. Its URL may hold a password and stays out of reprs and errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    #: ``mongo`` keeps the log in a MongoDB replica set; ``memory`` loses it when the process ends.
    type: Literal["mongo", "memory"] = "mongo"
    #: Of ``mongo``: the replica set's address, ``mongodb://…``.
    url: str | None = Field(default=None, repr=False)
    #: Of ``mongo``: goes before the database in the URL; without either it is ``holdfast``.
    database: str | None = None
    #: Of ``mongo``: how long the server may work on one command.
    timeout_seconds: float = Field(default=DEFAULT_TIMEOUT_SECONDS, gt=0, le=60, allow_inf_nan=False)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.type == "mongo" and not self.url:
            raise ValueError("a mongo store needs a url")
        if self.type == "memory" and self.model_fields_set - {"type"}:
            raise ValueError("a memory store takes no options")
        return self


def build_store(name: str, config: StoreConfig) -> EventStore:
    """The store of a configuration, not opened yet.

    :raises StoreConfigError: if the name or the URL cannot be used.
    """
    if config.type == "memory":
        return MemoryStore(name=name)
    if config.url is None:
        raise StoreConfigError(f"the store {name!r} has no url")
    return MongoStore(config.url, name=name, database=config.database, timeout_seconds=config.timeout_seconds)
