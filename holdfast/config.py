"""The configuration file: stores, who may do what in them, and what is told to others.

::

    [stores.default]
    url = "mongodb://db1,db2,db3/holdfast?replicaSet=rs0"

    [access]
    default = "closed"

    [[access.rules]]
    user = "shop-*"
    store = "default"
    key = "user/*"
    operations = ["read", "save"]

    [feed.stores.scratch]
    mode = "off"

    [outbox]
    exchanges = ["orders"]
"""

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from .events import HoldfastError
from .events.commands import StoreName
from .events.limits import MAX_STORE_LENGTH
from .stores import StoreConfig
from .worker import AccessConfig
from .worker.access import OPEN
from .worker.feed import FEEDS, NO_OUTBOX, FeedsConfig, OutboxConfig

_store_name: TypeAdapter[str] = TypeAdapter(StoreName)


class SettingsError(HoldfastError, ValueError):
    """A setting is missing or wrong. The message names it and says what it should be."""


class Config(BaseModel):
    """What a configuration file may say."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    #: By name. Without any there is one store, ``default``, at HOLDFAST_MONGO_URL.
    stores: dict[str, StoreConfig] = {}
    access: AccessConfig = OPEN
    feed: FeedsConfig = FEEDS
    outbox: OutboxConfig = NO_OUTBOX


def read_config(path: Path) -> Config:
    """Read a configuration file (TOML).

    :raises SettingsError: naming the file and what is wrong in it; values that may be secret are not shown.
    """
    try:
        config = Config.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no TOML: {error}") from None
    except ValidationError as error:
        raise SettingsError(f"{path}: {first_fault(error)}") from None
    for name in config.stores:
        try:
            _store_name.validate_python(name)
        except ValidationError:
            raise SettingsError(
                f"{path}: {name!r} is no store name: letters, digits, '_', '-' and '.', at most {MAX_STORE_LENGTH}, "
                "a letter or digit first"
            ) from None
    return config


def first_fault(error: ValidationError, *, upper: bool = False) -> str:
    """The first of the faults that were found, as ``place: what is wrong``. Values are not shown."""
    fault = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, fault["loc"]))
    # pydantic puts this before what our own validators say.
    message = fault["msg"].removeprefix("Value error, ")
    return f"{place.upper() if upper else place}: {message}"
