"""The names of stores: one rule for all kinds, so that a store can become one of another kind and keep its name."""

from typing import Final

from pydantic import TypeAdapter, ValidationError

from ..events import StoreConfigError
from ..events.commands import StoreName

_store_name: Final[TypeAdapter[str]] = TypeAdapter(StoreName)


def checked_name(name: str) -> str:
    """The name, if a store can have it: it becomes a part of a collection's.

    :raises StoreConfigError: if not.
    """
    try:
        _store_name.validate_python(name)
    except ValidationError:
        raise StoreConfigError(f"not a store's name: {name!r}") from None
    if name.split(".", 1)[0] == "system":
        raise StoreConfigError("names that start with 'system' are MongoDB's own")
    return name
