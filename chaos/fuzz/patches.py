"""Patches: what docs/protocol.md says one looks like, and such as are made to be tried. None of Holdfast's own code."""

import re
from random import Random
from typing import Any

MOST = 1000
LEVELS = 100
KINDS = ("merge", "json-patch", "increment")

_POINTER = re.compile(r"(?:/(?:[^~/\0]|~[01])*)*", re.DOTALL)
_WITH_VALUE = ("add", "replace", "test")
_WITH_FROM = ("move", "copy")

_PATHS = ("", "/", "/a", "/a/b", "/0", "/-", "/a/0", "/~0", "/~1", "/00", "/a" * LEVELS, "/ä")
_ODD_PATHS: tuple[Any, ...] = ("a", "/~", "/~2", "/a" * (LEVELS + 1), "/\0", 1, None, [])


def is_pointer(text: Any) -> bool:
    """Whether a text is a JSON Pointer (RFC 6901), of no more levels than there can be."""
    return isinstance(text, str) and _POINTER.fullmatch(text) is not None and text.count("/") <= LEVELS


def is_patch(kind: str, patch: Any) -> bool:
    """Whether JSON data is a patch of that kind, whatever value it meets."""
    if kind == "merge":
        return True
    if kind == "increment":
        return isinstance(patch, dict) and 1 <= len(patch) <= MOST and all(map(_is_increment, patch.items()))
    return isinstance(patch, list) and len(patch) <= MOST and all(map(_is_operation, patch))


def _is_increment(item: tuple[str, Any]) -> bool:
    return is_pointer(item[0]) and type(item[1]) in (int, float)


def _is_operation(operation: Any) -> bool:
    if not isinstance(operation, dict) or not is_pointer(operation.get("path")):
        return False
    op, path = operation.get("op"), operation["path"]
    if op in _WITH_VALUE:
        return "value" in operation
    if op == "remove":
        return bool(path != "")
    if op not in _WITH_FROM or not is_pointer(operation.get("from")):
        return False
    return bool(op == "copy" or path == operation["from"] or not f"{path}/".startswith(f"{operation['from']}/"))


def conflicts(kind: str) -> set[str]:
    """The conflicts that a patch without an etag may meet."""
    common = {"conflict unpatchable"}
    return common | {"conflict absent", "conflict test_failed"} if kind == "json-patch" else common


def patch(rng: Random, kind: str, value: Any) -> Any:
    """A patch, right for most of the time."""
    path = rng.choice(_PATHS) if rng.random() < 0.95 else rng.choice(_ODD_PATHS)
    if kind == "merge":
        return value if rng.random() < 0.5 else {"a": value, "b": None}
    if kind == "increment":
        return {str(path): rng.choice((1, -1, 0.5, 2**63 - 1, 1e308, 0)), "/n": 1}
    operations = []
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        operation = {"op": rng.choice((*_WITH_VALUE, *_WITH_FROM, "remove")), "path": path, "value": value}
        if rng.random() < 0.7:
            operation["from"] = rng.choice(_PATHS)
        if rng.random() < 0.05:
            del operation[rng.choice(list(operation))]
        operations.append(operation)
    if rng.random() < 0.02:
        # Doubled and doubled again.
        operations = [{"op": "copy", "from": "", "path": f"/{number}"} for number in range(60)]
    return operations
