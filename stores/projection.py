"""Current documents as a MongoStore keeps them for queries, and what is asked of them. Plain functions, no I/O.

::

    {_id: <key>, version, value, time, author, metadata, command, x: {<field>: <what is ordered and compared>}}

Under ``x`` is what a field of the value stands for in an order: texts cut, every object or array as one empty object,
and what is not there as MinKey, so that MongoDB's order of these is the order of ranks, and none of its rules for
arrays and missing fields apply. What a filter is about are these members alone, under names that are made here, and
scalars: there is no way in for an operator.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bson import Int64, MinKey

from ..events.queries import And, Compare, Exists, Filter, Not, OneOf, Or, Path
from .indexes import IndexQuery
from .matching import MISSING, ORDERED_CHARACTERS, Position, at, rank
from .queries import key_range
from .scopes import KeyScope

#: Changes with what stands under ``x``.
FORMAT: Final = 1

#: Of the log's document, besides the value: under these names people know them from the view.
_KEPT: Final = ("time", "author", "metadata", "expires")

#: What stands for each kind of rank, as MongoDB calls its type.
_KINDS: Final = ("minKey", "null", "number", "string", "object", "bool")


def slot(path: Path) -> str:
    """The name of a field under ``x``: its path as a JSON pointer without the first slash (RFC 6901)."""
    return "/".join(name.replace("~", "~0").replace("/", "~1") for name in path)


def place_of(path: Path) -> str:
    """Where a field stands in a document, as MongoDB names it."""
    return f"x.{slot(path)}"


def index_of(path: Path) -> dict[str, Any]:
    """The definition of the index on a field."""
    place = place_of(path)
    return {"name": place, "key": {place: 1, "_id": 1}}


def to_current(record: Mapping[str, Any], fields: Iterable[Path]) -> dict[str, Any]:
    """The current document of a saved event's document in the log."""
    value = record.get("value")
    document: dict[str, Any] = {
        "_id": record["key"],
        "version": Int64(record["version"]),
        "command": record["_id"]["c"],
        "value": value,
    }
    document |= {name: record[name] for name in _KEPT if name in record}
    document["x"] = {slot(path): _kept(at(value, path)) for path in fields}
    return document


def _kept(found: Any) -> Any:
    if isinstance(found, str):
        return found[:ORDERED_CHARACTERS]
    if found is MISSING:
        return MinKey()
    return {} if isinstance(found, dict | list) else found


def position_of(document: Mapping[str, Any], query: IndexQuery) -> Position:
    """Where the indexes have a document."""
    if query.sort is None:
        return (), document["_id"]
    kept = document["x"][slot(query.sort.path)]
    return (rank(MISSING if isinstance(kept, MinKey) else kept),), document["_id"]


def condition_of(query: IndexQuery) -> dict[str, Any]:
    """What the documents have to be that a question is about."""
    conditions = [_in_scope(query.keys)]
    if query.filter is not None:
        conditions.append(_translate(query.filter))
    if query.after is not None:
        conditions.append(_behind(query.after, query))
    return {"$and": conditions}


def order_of(query: IndexQuery) -> dict[str, int]:
    """The order that a question asks for."""
    if query.sort is None:
        return {"_id": 1}
    direction = -1 if query.sort.descending else 1
    return {place_of(query.sort.path): direction, "_id": direction}


def _in_scope(keys: KeyScope) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"_id": key_range(prefix, None)} for prefix in keys.prefixes]
    if keys.exact:
        parts.append({"_id": {"$in": list(keys.exact)}})
    return {"$or": parts} if parts else {"_id": {"$in": []}}


def _translate(filter_: Filter) -> dict[str, Any]:
    match filter_:
        case Compare("eq", path, value):
            return {place_of(path): {"$eq": value}}
        case Compare(op, path, value):
            return {place_of(path): {f"${op}": value}}
        case OneOf(path, values):
            return {place_of(path): {"$in": list(values)}}
        case Exists(path):
            return {place_of(path): {"$type": list(_KINDS[1:])}}
        case And(parts):
            return {"$and": [_translate(part) for part in parts]}
        case Or(parts):
            return {"$or": [_translate(part) for part in parts]}
        case Not(part):
            return {"$nor": [_translate(part)]}


def _behind(after: Position, query: IndexQuery) -> dict[str, Any]:
    ranks, key = after
    if query.sort is None:
        return {"_id": {"$gt": key}}
    (kind, value), place, descending = ranks[0], place_of(query.sort.path), query.sort.descending
    beyond = "$lt" if descending else "$gt"
    same: Any = {0: MinKey(), 1: None, 4: {}, 5: bool(value)}.get(kind, value)
    parts: list[dict[str, Any]] = [{place: {"$eq": same}, "_id": {beyond: key}}]
    if kind in (2, 3, 5):
        # Of the same type: MongoDB keeps to that in comparisons.
        parts.append({place: {beyond: same}})
    others = _KINDS[:kind] if descending else _KINDS[kind + 1 :]
    if others:
        parts.append({place: {"$type": list(others)}})
    return {"$or": parts}
