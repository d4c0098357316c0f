"""JSON values: which ones Holdfast can keep so that they come back exactly as they were given."""

from collections.abc import Iterable
from math import isfinite
from typing import Any

from .errors import InvalidError
from .limits import MAX_DEPTH, MAX_INT, MIN_INT


def check_value(value: Any) -> Any:
    """Give the value back if it can be kept exactly.

    Kept exactly are None, bool, int of 64 bits, finite float, str, and lists, tuples (they come back as
    lists) and dicts with string keys of these, at most 100 levels deep. That strings are Unicode text is not
    looked at: ``encode`` refuses lone surrogates, and in JSON that was read there are none.

    :raises InvalidError: for anything else; ``field`` names the place, as in ``value.items[3]``.
    """
    try:
        _check(value, MAX_DEPTH)
    except InvalidError as error:
        raise InvalidError(str(error), code=error.code, field=_locate(value)) from None
    return value


def _check(value: Any, depth: int) -> None:
    kind = type(value)
    # Most values are objects whose members are strings and small numbers: they are settled in this one loop.
    members: Iterable[Any]
    if kind is dict:
        for name in value:
            if type(name) is not str and not isinstance(name, str):
                raise InvalidError(f"object keys are strings, not {type(name).__name__}", code="bad_value")
            if "\0" in name:
                raise InvalidError("object keys cannot hold the character NUL", code="bad_value")
        members = value.values()
    elif kind is list:
        members = value
    else:
        _check_other(value, depth)
        return
    if depth == 0:
        raise InvalidError(f"nested deeper than {MAX_DEPTH} levels", code="bad_value")
    for member in members:
        kind = type(member)
        if kind is str or kind is bool or member is None:
            continue
        if kind is int:
            if MIN_INT <= member <= MAX_INT:
                continue
            raise InvalidError("integers are limited to 64 bits with sign", code="bad_value")
        _check(member, depth - 1)


def _check_other(value: Any, depth: int) -> None:
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        if not MIN_INT <= value <= MAX_INT:
            raise InvalidError("integers are limited to 64 bits with sign", code="bad_value")
        return
    if isinstance(value, float):
        if not isfinite(value):
            raise InvalidError("JSON has no NaN and no infinity", code="bad_value")
        return
    if isinstance(value, dict):
        _check(dict(value), depth)
        return
    if isinstance(value, list | tuple):
        _check(list(value), depth)
        return
    raise InvalidError(f"not a JSON value: {type(value).__name__}", code="bad_value")


def _locate(value: Any, path: str = "value", depth: int = MAX_DEPTH) -> str:
    """Where in a value that fails the check the trouble is. Only for the message, so it may be slow."""
    members: Iterable[tuple[str, Any]]
    if isinstance(value, dict):
        if any(not isinstance(name, str) or "\0" in name for name in value):
            return path
        members = ((f"{path}.{name}", member) for name, member in value.items())
    elif isinstance(value, list | tuple):
        members = ((f"{path}[{index}]", member) for index, member in enumerate(value))
    else:
        return path
    for place, member in members:
        try:
            _check(member, depth - 1)
        except InvalidError:
            # Past the depth limit the path itself would be endless; its head is enough to find it.
            return place if len(place) > 200 else _locate(member, place, depth - 1)
    return path
