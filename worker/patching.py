"""What a patch does to a value. Plain functions: values are never changed, what comes of them shares their parts.

Patches come from outside. So the time that one takes is bounded by what it may touch, and what it copies by the size
of a value: a few copies of a value into itself would otherwise be more than any memory.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, NamedTuple

import orjson

from ..events import InvalidError, PatchCommand, check_value
from ..events.limits import MAX_INT, MIN_INT
from ..events.patches import Pointer, parse_pointer
from ..events.records import value_text
from ..events.values import shorten

#: Members that one patch may touch, counted whenever an array or object on its way is written anew. It is less than
#: a tenth of a second.
MAX_WORK: Final = 2_000_000

#: In the place of a value: there is none.
ABSENT: Final[Any] = object()

_INDEX: Final = re.compile(r"(?:0|[1-9][0-9]{0,8})", re.ASCII)


class MisfitError(Exception):
    """A patch cannot be applied to the value that it met. Another one it may fit.

    :ivar code: ``test_failed`` or ``unpatchable``.
    :ivar field: the place in the command, as in ``patch[2]``; None if it is about the whole.
    """

    def __init__(self, message: str, *, code: str = "unpatchable", field: str | None = None) -> None:
        self.code = code
        self.field = field
        super().__init__(message)


class Patched(NamedTuple):
    """What came of a patch."""

    value: Any
    #: As it goes into digests; it is as long as the compact JSON.
    text: bytes


@dataclass(slots=True)
class Effort:
    """What patches have taken, in bytes of values that were read, written or copied, and members that were touched."""

    spent: int = 0


def apply_patch(command: PatchCommand, value: Any, *, max_bytes: int, effort: Effort) -> Patched:
    """Apply a patch to a value.

    :param value: ABSENT if there is none.
    :param max_bytes: the largest value, in bytes of compact JSON.
    :param effort: what it takes is added to it, also if it fails.
    :raises MisfitError: if it does not fit the value, or what came of it could not be kept.
    """
    work = _Work(effort, max_bytes)
    match command.kind:
        case "merge":
            result = _merge(None if value is ABSENT else value, command.patch)
        case "increment":
            result = _increment_all(value, command.patch, work)
        case "json-patch":
            result = _apply_operations(value, command.patch, work)
    try:
        check_value(result)
        text = value_text(result)
    except InvalidError as fault:
        raise MisfitError(f"what comes of it cannot be kept: {fault}") from None
    effort.spent += len(text)
    if len(text) > max_bytes:
        raise MisfitError(f"what comes of it takes {len(text)} bytes, and a value is limited to {max_bytes}")
    return Patched(result, text)


class _Work:
    """What one patch may do."""

    def __init__(self, effort: Effort, max_bytes: int) -> None:
        self._effort = effort
        self._end = effort.spent + MAX_WORK
        self._room = max_bytes

    def touch(self, container: Any) -> None:
        """Count an array or object that is written anew."""
        self._effort.spent += len(container) + 1
        if self._effort.spent > self._end:
            raise MisfitError("it takes more work than one patch may")

    def copy(self, value: Any) -> None:
        """Count a value that will be there once more."""
        try:
            size = len(orjson.dumps(value))
        except TypeError:
            raise MisfitError("what it copies is nested too deeply") from None
        self._room -= size
        self._effort.spent += size
        if self._room < 0:
            raise MisfitError("it copies more than a value may take")


def _merge(target: Any, patch: Any) -> Any:
    """JSON Merge Patch, RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, member in patch.items():
        if member is None:
            result.pop(name, None)
        else:
            result[name] = _merge(result.get(name), member)
    return result


def _increment_all(value: Any, increments: dict[str, Any], work: _Work) -> Any:
    for text, by in increments.items():
        try:
            value = _increment(value, parse_pointer(text), by, work)
        except MisfitError as misfit:
            misfit.field = shorten(f"patch.{text}")
            raise
    return value


def _increment(value: Any, pointer: Pointer, by: float, work: _Work) -> Any:
    """Add to the number at a place. What is missing on the way there is made; what is missing there counts from 0."""
    if not pointer:
        return _sum(0 if value is ABSENT else value, by)
    name, rest = pointer[0], pointer[1:]
    if value is ABSENT:
        return {name: _increment(ABSENT, rest, by, work)}
    if isinstance(value, dict):
        work.touch(value)
        return {**value, name: _increment(value.get(name, ABSENT), rest, by, work)}
    index = _index(name, len(value) - 1) if isinstance(value, list) else None
    if index is None:
        raise MisfitError(f"there is no {shorten(name)!r} to be incremented")
    work.touch(value)
    return [*value[:index], _increment(value[index], rest, by, work), *value[index + 1 :]]


def _sum(number: Any, by: float) -> Any:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise MisfitError("what is there is no number")
    total = number + by
    if isinstance(total, int) and not MIN_INT <= total <= MAX_INT:
        raise MisfitError("the sum is beyond 64 bits")
    if not isfinite(total):
        raise MisfitError("the sum is beyond all doubles")
    return total


def _apply_operations(value: Any, operations: list[dict[str, Any]], work: _Work) -> Any:
    """JSON Patch, RFC 6902: one operation after another, or none of them."""
    for number, operation in enumerate(operations):
        try:
            value = _apply_operation(value, operation, work)
        except MisfitError as misfit:
            misfit.field = f"patch[{number}]"
            raise
    return value


def _apply_operation(value: Any, operation: dict[str, Any], work: _Work) -> Any:
    pointer = parse_pointer(operation["path"])
    match operation["op"]:
        case "add":
            return _add(value, pointer, operation["value"], work)
        case "remove":
            return _remove(value, pointer, work)
        case "replace":
            found = operation["value"]
            return _at(value, pointer, lambda _: found, work)
        case "test":
            if not equal(_get(value, pointer), operation["value"]):
                raise MisfitError("the value is another one", code="test_failed")
            return value
        case "copy":
            found = _get(value, parse_pointer(operation["from"]))
            work.copy(found)
            return _add(value, pointer, found, work)
        case _:
            source = parse_pointer(operation["from"])
            found = _get(value, source)
            if source == pointer:
                return value
            return _add(_remove(value, source, work), pointer, found, work)


def _get(value: Any, pointer: Pointer) -> Any:
    for name in pointer:
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and (index := _index(name, len(value) - 1)) is not None:
            value = value[index]
        else:
            raise _missing(name)
    return value


def _at(value: Any, pointer: Pointer, change: Callable[[Any], Any], work: _Work) -> Any:
    """The value with what is at a place replaced. All that is on the way there is written anew."""
    if not pointer:
        return change(value)
    name, rest = pointer[0], pointer[1:]
    if isinstance(value, dict) and name in value:
        work.touch(value)
        return {**value, name: _at(value[name], rest, change, work)}
    index = _index(name, len(value) - 1) if isinstance(value, list) else None
    if index is None:
        raise _missing(name)
    work.touch(value)
    return [*value[:index], _at(value[index], rest, change, work), *value[index + 1 :]]


def _add(value: Any, pointer: Pointer, new: Any, work: _Work) -> Any:
    if not pointer:
        return new
    name = pointer[-1]

    def add(parent: Any) -> Any:
        if isinstance(parent, dict):
            work.touch(parent)
            return {**parent, name: new}
        if isinstance(parent, list):
            index = len(parent) if name == "-" else _index(name, len(parent))
            if index is not None:
                work.touch(parent)
                return [*parent[:index], new, *parent[index:]]
        raise MisfitError(f"{shorten(name)!r} cannot be added there")

    return _at(value, pointer[:-1], add, work)


def _remove(value: Any, pointer: Pointer, work: _Work) -> Any:
    name = pointer[-1]

    def remove(parent: Any) -> Any:
        if isinstance(parent, dict) and name in parent:
            work.touch(parent)
            return {other: member for other, member in parent.items() if other != name}
        index = _index(name, len(parent) - 1) if isinstance(parent, list) else None
        if index is None:
            raise _missing(name)
        work.touch(parent)
        return parent[:index] + parent[index + 1 :]

    return _at(value, pointer[:-1], remove, work)


def _index(name: str, last: int) -> int | None:
    """The index in an array that a name is, up to the last one that is allowed; None if it is none."""
    if not _INDEX.fullmatch(name):
        return None
    index = int(name)
    return index if index <= last else None


def _missing(name: str) -> MisfitError:
    return MisfitError(f"there is no {shorten(name)!r}")


def equal(one: Any, other: Any) -> bool:
    """Whether two values are equal by RFC 6902: of one JSON type, and numbers by what they amount to."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and len(one) == len(other)
            and all(name in one and equal(one[name], member) for name, member in other.items())
        )
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)
