"""Stores out of a configuration file."""

import tomllib
from typing import Any

import pytest
from pydantic import ValidationError

from holdfast.events import StoreConfigError
from holdfast.stores import MemoryStore, MongoStore, StoreConfig, build_store

FILE = """
[stores.default]
type = "mongo"
url = "mongodb://ada:s3cr3t@db1,db2/holdfast?replicaSet=rs0"
timeout_seconds = 2

[stores.scratch]
type = "memory"
"""


def test_stores_of_a_file() -> None:
    """Each table gives a store of its name."""
    tables = tomllib.loads(FILE)["stores"]
    stores = {name: build_store(name, StoreConfig.model_validate(table)) for name, table in tables.items()}
    assert isinstance(stores["default"], MongoStore)
    assert isinstance(stores["scratch"], MemoryStore)
    assert (stores["default"].name, stores["scratch"].name) == ("default", "scratch")


@pytest.mark.parametrize(
    "table",
    [
        {"type": "mongo"},
        {"type": "mongo", "url": ""},
        {"type": "memory", "url": "mongodb://ada:s3cr3t@db"},
        {"type": "memory", "timeout_seconds": 1},
        {"type": "postgres", "url": "mongodb://ada:s3cr3t@db"},
        {"type": "mongo", "url": ["mongodb://ada:s3cr3t@db"]},
        {"type": "mongo", "url": "mongodb://ada:s3cr3t@db", "tiemout": 1},
        {"type": "mongo", "url": "mongodb://ada:s3cr3t@db", "timeout_seconds": 0},
        {"type": "mongo", "url": "mongodb://ada:s3cr3t@db", "timeout_seconds": float("inf")},
        {"type": "mongo", "url": "mongodb://ada:s3cr3t@db", "timeout_seconds": float("nan")},
        {"type": "mongo", "url": "mongodb://ada:s3cr3t@db", "timeout_seconds": 61},
    ],
    ids=lambda table: "-".join(table),
)
def test_tables_that_are_wrong(table: dict[str, Any]) -> None:
    """What is missing, unknown or out of range is refused, without telling the password."""
    with pytest.raises(ValidationError) as caught:
        StoreConfig.model_validate(table)
    assert "s3cr3t" not in str(caught.value)


def test_passwords_stay_out_of_reprs() -> None:
    """Neither the configuration nor the store shows its password."""
    config = StoreConfig(url="mongodb://ada:s3cr3t@db/x")
    assert "s3cr3t" not in f"{config!r} {config} {build_store('default', config)!r}"


def test_names() -> None:
    """A name that cannot be one of a collection is refused when the store is built."""
    with pytest.raises(StoreConfigError):
        build_store("a/b", StoreConfig(url="mongodb://db"))
