"""What filters, orders and projections mean for a value. Plain functions; every way to an answer ends in these.

A path leads through objects only: where it meets an array, or anything else that has no members, there is nothing at
its end. What is there is compared as a whole. Types don't mix: ``18`` and ``"18"`` are different, neither is less than
the other, and ``true`` is no number.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final, TypeAlias

from ..events.limits import MAX_INT, MIN_INT
from ..events.queries import And, Compare, Exists, Filter, Not, OneOf, Or, Path, Scalar, Sort

#: So many characters of a text count for an order; texts that are equal so far are ordered by key.
ORDERED_CHARACTERS: Final = 256

#: Stands for nothing being there.
MISSING: Final = object()

#: Where something stands in an order: what kind of thing it is, and its place among its kind.
Rank: TypeAlias = tuple[int, int | float | str]

_NOTHING: Final[Rank] = (0, 0)
_NULL: Final[Rank] = (1, 0)
_NUMBER: Final = 2
_TEXT: Final = 3
_STRUCTURE: Final[Rank] = (4, 0)
_BOOLEAN: Final = 5


def at(value: Any, path: Path) -> Any:
    """What is at the path in a value; MISSING if nothing is."""
    for name in path:
        if type(value) is not dict or name not in value:
            return MISSING
        value = value[name]
    return value


def matches(filter_: Filter, value: Any) -> bool:
    """Whether the filter holds for a value."""
    match filter_:
        case Compare(op, path, wanted):
            return _compares(op, at(value, path), wanted)
        case OneOf(path, values):
            found = at(value, path)
            return any(_compares("eq", found, wanted) for wanted in values)
        case Exists(path):
            return at(value, path) is not MISSING
        case And(parts):
            return all(matches(part, value) for part in parts)
        case Or(parts):
            return any(matches(part, value) for part in parts)
        case Not(part):
            return not matches(part, value)


def _compares(op: str, found: Any, wanted: Scalar) -> bool:
    if _kind(found) != _kind(wanted):
        return False
    match op:
        case "eq":
            return bool(found == wanted)
        case "gt":
            return bool(found > wanted)
        case "gte":
            return bool(found >= wanted)
        case "lt":
            return bool(found < wanted)
        case "lte":
            return bool(found <= wanted)
    raise ValueError(f"no comparison: {op!r}")


def _kind(value: Any) -> str:
    # A bool is an int to Python.
    kind = type(value)
    return "number" if kind is int or kind is float else kind.__name__


def rank(value: Any) -> Rank:
    """Where something stands in an order: nothing, null, numbers, texts, structures (all alike), false, true."""
    kind = type(value)
    if kind is str:
        return (_TEXT, value[:ORDERED_CHARACTERS])
    if kind is int or kind is float:
        return (_NUMBER, value)
    if kind is bool:
        return (_BOOLEAN, int(value))
    if kind is dict or kind is list:
        return _STRUCTURE
    return _NULL if value is None else _NOTHING


def is_rank(data: Any) -> bool:
    """Whether something that a stranger gives is a rank."""
    if type(data) is not tuple or len(data) != 2 or type(data[0]) is not int:
        return False
    kind, place = data
    if kind in (_NOTHING[0], _NULL[0], _STRUCTURE[0]):
        return type(place) is int and place == 0
    if kind == _NUMBER:
        return type(place) is float or (type(place) is int and MIN_INT <= place <= MAX_INT)
    if kind == _TEXT:
        return type(place) is str and len(place) <= ORDERED_CHARACTERS
    return kind == _BOOLEAN and type(place) is int and place in (0, 1)


class Descending:
    """Something in an order that runs backwards."""

    __slots__ = ("_inner",)

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __lt__(self, other: "Descending") -> bool:
        return bool(other._inner < self._inner)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Descending) and bool(self._inner == other._inner)

    __hash__ = None  # type: ignore[assignment]  # it is for sorting


Position: TypeAlias = tuple[tuple[Rank, ...], str]
"""Where a key stands in an order: the rank of each field, and the key, which decides between equals."""


def position(value: Any, key: str, sorts: Sequence[Sort]) -> Position:
    """Where a key with this value stands."""
    return tuple(rank(at(value, sort.path)) for sort in sorts), key


def sort_key(place: Position, sorts: Sequence[Sort]) -> tuple[Any, ...]:
    """What a position is sorted by. Among equals, keys go the way of the first field: up, if there is none."""
    ranks, key = place
    parts: list[Any] = [Descending(one) if sort.descending else one for one, sort in zip(ranks, sorts, strict=True)]
    parts.append(Descending(key) if sorts and sorts[0].descending else key)
    return tuple(parts)


def project(value: Any, paths: Collection[Path]) -> dict[str, Any]:
    """An object of those members of a value that the paths lead to, as far as they are there, where they stand."""
    projected: dict[str, Any] = {}
    for path in paths:
        found = at(value, path)
        # What is within another one comes with that.
        if found is MISSING or any(path[:length] in paths for length in range(1, len(path))):
            continue
        parent = projected
        for name in path[:-1]:
            parent = parent.setdefault(name, {})
        parent[path[-1]] = found
    return projected
