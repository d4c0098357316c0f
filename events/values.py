"""JSON values: which ones Holdfast can keep so that they come back exactly as they were given."""

from collections.abc import Iterable
from math import isfinite
from typing import Any

from .errors import InvalidError
from .limits import MAX_DEPTH, MAX_INT, MIN_INT

#: Characters of the name of a place in an error.
MAX_PLACE = 200


class _FaultError(Exception):
    """What is wrong with a value, and the way to it, from the inside out."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.steps: list[str] = []


def check_value(value: Any, *, field: str = "value") -> Any:
    """Give the value back if it can be kept exactly.

    Kept exactly are None, bool, int of 64 bits, finite float, str, and lists, tuples (they come back as
    lists) and dicts with string keys of these, at most 100 levels deep. That strings are Unicode text is not
    looked at: ``encode`` refuses lone surrogates, and in JSON that was read there are none.

    :param field: what it is called in an error.
    :raises InvalidError: for anything else; ``field`` names the place, as in ``value.items[3]``.
    """
    try:
        _check(value, MAX_DEPTH)
    except _FaultError as fault:
        place = shorten("".join([field, *reversed(fault.steps)]))
        raise InvalidError(str(fault), code=f"bad_{field}", field=place) from None
    return value


def shorten(place: str) -> str:
    """The head of a place's name: names are chosen by whoever sent the value, and may be as long as a message."""
    return place if len(place) <= MAX_PLACE else place[:MAX_PLACE] + "…"


def _check(value: Any, depth: int) -> None:
    kind = type(value)
    # Most values are objects whose members are strings and small numbers: they are settled in this one loop.
    members: Iterable[Any]
    if kind is dict:
        for name in value:
            if type(name) is not str and not isinstance(name, str):
                raise _FaultError(f"object keys are strings, not {type(name).__name__}")
            if "\0" in name:
                raise _FaultError("object keys cannot hold the character NUL")
        members = value.values()
    elif kind is list:
        members = value
    else:
        _check_other(value, depth)
        return
    if depth == 0:
        raise _FaultError(f"nested deeper than {MAX_DEPTH} levels")
    member = None
    try:
        for member in members:
            kind = type(member)
            if kind is str or kind is bool or member is None:
                continue
            if kind is int and MIN_INT <= member <= MAX_INT:
                continue
            if kind is float and isfinite(member):
                continue
            _check(member, depth - 1)
    except _FaultError as fault:
        fault.steps.append(shorten(_step_to(member, value)))
        raise


def _step_to(member: Any, parent: Any) -> str:
    # The first that is the very object that failed: if it stood anywhere before, it would have failed there.
    if isinstance(parent, dict):
        return next(f".{name}" for name, other in parent.items() if other is member)
    return next(f"[{index}]" for index, other in enumerate(parent) if other is member)


def _check_other(value: Any, depth: int) -> None:
    if value is None or isinstance(value, str | bool):
        return
    if isinstance(value, int):
        if not MIN_INT <= value <= MAX_INT:
            raise _FaultError("integers are limited to 64 bits with sign")
        return
    if isinstance(value, float):
        if not isfinite(value):
            raise _FaultError("JSON has no NaN and no infinity")
        return
    if isinstance(value, dict):
        _check(dict(value), depth)
        return
    if isinstance(value, list | tuple):
        _check(list(value), depth)
        return
    raise _FaultError(f"not a JSON value: {type(value).__name__}")
