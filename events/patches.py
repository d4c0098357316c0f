"""Patches: what they may look like. What they do to a value is the worker's to say, see worker/patching.py."""

import re
from typing import Annotated, Any, Final, Literal

from pydantic import PlainValidator

from .errors import InvalidError
from .limits import MAX_DEPTH, MAX_PATCH_OPERATIONS
from .values import check_value, shorten

PatchKind = Literal["merge", "json-patch", "increment"]

#: A place in a value: the names and indexes on the way to it.
Pointer = tuple[str, ...]

_BAD_ESCAPE: Final = re.compile("~(?![01])")

#: The operations of JSON Patch with the members that they have to have beside ``op`` and ``path``.
_OPERATIONS: Final[dict[str, str | None]] = {
    "add": "value",
    "remove": None,
    "replace": "value",
    "move": "from",
    "copy": "from",
    "test": "value",
}


def _check_json(patch: Any) -> Any:
    return check_value(patch, field="patch")


Patch = Annotated[Any, PlainValidator(_check_json)]


def check_patch(kind: PatchKind, patch: Any) -> None:
    """See that JSON data is a patch of that kind, whatever value it will meet.

    :raises InvalidError: if not; ``field`` names the place, as in ``patch[3].path``.
    """
    match kind:
        case "json-patch":
            _check_operations(patch)
        case "increment":
            _check_increments(patch)
        case "merge":
            pass  # every value is one


def parse_pointer(text: str) -> Pointer:
    """The names in a JSON Pointer (RFC 6901).

    :raises ValueError: if it is none, or leads deeper than any value.
    """
    if not text:
        return ()
    if text[0] != "/":
        raise ValueError("a JSON Pointer is empty or begins with '/'")
    if "\0" in text:
        raise ValueError("names cannot hold the character NUL")
    names = text.split("/", MAX_DEPTH + 1)[1:]
    if len(names) > MAX_DEPTH:
        raise ValueError(f"leads deeper than {MAX_DEPTH} levels")
    if "~" in text:
        return tuple(map(_unescape, names))
    return tuple(names)


def _unescape(name: str) -> str:
    if _BAD_ESCAPE.search(name):
        raise ValueError("'~' stands in a JSON Pointer only as '~0' or '~1'")
    return name.replace("~1", "/").replace("~0", "~")


def _check_operations(patch: Any) -> None:
    if not isinstance(patch, list):
        raise _bad("a JSON Patch is an array of operations")
    if len(patch) > MAX_PATCH_OPERATIONS:
        raise _bad(f"is limited to {MAX_PATCH_OPERATIONS} operations, not {len(patch)}")
    for number, operation in enumerate(patch):
        place = f"[{number}]"
        if not isinstance(operation, dict):
            raise _bad("an operation is an object", place)
        op = operation.get("op")
        if not isinstance(op, str) or op not in _OPERATIONS:
            raise _bad(f"must be one of {', '.join(_OPERATIONS)}", f"{place}.op")
        wanted = _OPERATIONS[op]
        if wanted is not None and wanted not in operation:
            raise _bad("is required", f"{place}.{wanted}")
        path = _pointer_in(operation, "path", place)
        if op == "remove" and not path:
            raise _bad("the whole value cannot be removed: delete the key", f"{place}.path")
        if wanted == "from":
            source = _pointer_in(operation, "from", place)
            if op == "move" and source == path[: len(source)] and source != path:
                raise _bad("a value cannot be moved into itself", f"{place}.path")


def _pointer_in(operation: dict[str, Any], name: str, place: str) -> Pointer:
    text = operation.get(name)
    if not isinstance(text, str):
        raise _bad("a JSON Pointer is a text", f"{place}.{name}")
    try:
        return parse_pointer(text)
    except ValueError as fault:
        raise _bad(str(fault), f"{place}.{name}") from None


def _check_increments(patch: Any) -> None:
    if not isinstance(patch, dict) or not patch:
        raise _bad("increments are an object of JSON Pointers and numbers, of one at least")
    if len(patch) > MAX_PATCH_OPERATIONS:
        raise _bad(f"is limited to {MAX_PATCH_OPERATIONS} increments, not {len(patch)}")
    for text, number in patch.items():
        if type(number) is not int and type(number) is not float:
            raise _bad("is a number", f".{text}")
        try:
            parse_pointer(text)
        except ValueError as fault:
            raise _bad(str(fault), f".{text}") from None


def _bad(message: str, place: str = "") -> InvalidError:
    return InvalidError(message, code="bad_patch", field=shorten(f"patch{place}"))
