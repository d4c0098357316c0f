"""Queries, as docs/protocol.md tells of them: good ones and such as are nearly, and which of them are which."""

from random import Random
from typing import Any

_FIELDS: list[Any] = ["n", "a.b", "", ["a.b"], ["$gt"], "$where", ["", ""], "x" * 512, ".".join("x" * 32)]
_BAD_FIELDS: list[Any] = ["a..b", ".", None, 1, {}, [1], "a\0", ["\0"], "x" * 513, ".".join("x" * 33), {"$expr": 1}]
_SCALARS: list[Any] = [None, True, 0, -1.5, 2**63 - 1, "", "a", "$gt", '{"$ne": null}', "ä", "x" * 300]
_BAD_SCALARS: list[Any] = [{}, [], {"$gt": ""}, {"$regex": ".*"}, [1], 2**63, -(2**63) - 1]
_TOKENS: list[Any] = ["", "W10=", "x", "é", "=" * 7, "bnVsbA==", "x" * 16_384]
_BAD_TOKENS: list[Any] = [1, [], {}, "x" * 16_385]


def query(rng: Random, command: dict[str, Any]) -> None:
    """Make a command one, which is wrong now and then."""
    if rng.random() < 0.7:
        command["filter"] = some_filter(rng, 4)
    if rng.random() < 0.4:
        command["prefix"] = rng.choice(("", "k1", "$", "ä", "x" * 512, "x" * 513, "\0", None, {"$regex": ""}))
    if rng.random() < 0.3:
        orders = [{"field": _some(rng, _FIELDS, _BAD_FIELDS)} for _ in range(rng.choice((0, 1, 1, 2, 4, 5)))]
        for order in orders:
            if rng.random() < 0.5:
                order["order"] = rng.choice(("asc", "desc", "desc", "down", 1, {"$meta": 1}))
        command["sort"] = rng.choice((orders, orders, orders, "n", None, [1]))
    if rng.random() < 0.2:
        command["projection"] = rng.choice(
            (None, [], ["n"], [_some(rng, _FIELDS, _BAD_FIELDS)], ["n"] * 100, ["n"] * 101, "n", {"n": 1})
        )
    if rng.random() < 0.2:
        command["limit"] = rng.choice((1, 2, 1000, 0, 1001, "1", 1.0))
    if rng.random() < 0.2:
        command["token"] = _some(rng, _TOKENS, _BAD_TOKENS)
    if rng.random() < 0.1:
        command["explain"] = rng.choice((True, False, 1, "yes"))


def _some(rng: Random, good: list[Any], bad: list[Any]) -> Any:
    return rng.choice(good if rng.random() < 0.95 else bad)


def some_filter(rng: Random, depth: int) -> Any:
    """A filter, or what is nearly one."""
    kind = rng.random()
    if depth and kind < 0.3:
        return {rng.choice(("and", "or")): [some_filter(rng, depth - 1) for _ in range(rng.choice((1, 1, 2, 3, 0)))]}
    if depth and kind < 0.4:
        return {"not": some_filter(rng, depth - 1)}
    if kind < 0.5:
        return {"exists": _some(rng, _FIELDS, _BAD_FIELDS)}
    field, operand = _some(rng, _FIELDS, _BAD_FIELDS), _some(rng, _SCALARS, _BAD_SCALARS)
    if kind < 0.6:
        return {"in": [field, [operand, *_SCALARS[:3]]]}
    if kind < 0.97:
        return {rng.choice(("eq", "ne", "gt", "gte", "lt", "lte")): [field, operand]}
    odd: list[Any] = [
        {},
        [],
        None,
        {"$where": "1"},
        {"eq": field},
        {"eq": [field]},
        {"in": [field, 1]},
        {"a": 1, "b": 2},
    ]
    return rng.choice(odd)


def is_path(data: Any) -> bool:
    """Whether it is a field."""
    if isinstance(data, str):
        names = data.split(".") if data else []
        if "" in names:
            return False
    elif isinstance(data, list) and all(isinstance(name, str) for name in data):
        names = data
    else:
        return False
    return len(names) <= 32 and len("".join(names)) <= 512 and not any("\0" in name for name in names)


def is_filter(data: Any) -> bool:
    """Whether it is one, or null."""
    if data is None:
        return True
    terms = 0
    level = [(data, 1)]
    while level:
        part, depth = level.pop()
        if not isinstance(part, dict) or len(part) != 1 or depth > 16:
            return False
        ((name, operand),) = part.items()
        if name in ("and", "or"):
            if not isinstance(operand, list) or not operand:
                return False
            level += [(each, depth + 1) for each in operand]
        elif name == "not":
            level.append((operand, depth + 1))
        elif name == "exists":
            terms += 1
            if not is_path(operand):
                return False
        elif name in ("eq", "ne", "gt", "gte", "lt", "lte", "in"):
            if not isinstance(operand, list) or len(operand) != 2 or not is_path(operand[0]):
                return False
            values = operand[1] if name == "in" else [operand[1]]
            if not isinstance(values, list) or not all(_is_scalar(value, name) for value in values):
                return False
            terms += len(values)
        else:
            return False
    return terms <= 1000


def _is_scalar(value: Any, name: str) -> bool:
    if value is None or isinstance(value, bool):
        return name in ("eq", "ne", "in")
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return isinstance(value, str | float)


def is_sort(data: Any) -> bool:
    """Whether it is an order."""
    if not isinstance(data, list) or len(data) > 4:
        return False
    seen = []
    for item in data:
        if not isinstance(item, dict) or not {"field"} <= item.keys() <= {"field", "order"}:
            return False
        if item.get("order", "asc") not in ("asc", "desc") or not is_path(item["field"]):
            return False
        field = item["field"]
        seen.append(field.split(".") if isinstance(field, str) and field else list(field))
    return all(seen.count(one) == 1 for one in seen)


def is_projection(data: Any) -> bool:
    """Whether it is a list of fields, or null."""
    if data is None:
        return True
    return isinstance(data, list) and len(data) <= 100 and all(one not in ("", []) and is_path(one) for one in data)


def is_token(data: Any) -> bool:
    """Whether it may be one."""
    return data is None or (isinstance(data, str) and len(data) <= 16_384)


def is_prefix(data: Any) -> bool:
    """Whether keys can begin with it."""
    return isinstance(data, str) and "\0" not in data and len(data.encode()) <= 512
