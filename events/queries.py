"""Queries as they stand on the wire, and the typed tree that they are read into. Nothing here does I/O.

A filter is an object of one member, whose name says what it does::

    {"eq": ["address.city", "Oslo"]}              also ne, gt, gte, lt, lte
    {"in": ["state", ["new", "paid"]]}
    {"exists": "deleted_by"}
    {"and": [<filter>, …]}   {"or": [<filter>, …]}   {"not": <filter>}

What comes out of here holds names and plain scalars and nothing else, so that a store which translates it into its
database's language has nothing in its hands that could mean more there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final, Literal, TypeAlias

from .errors import InvalidError
from .limits import MAX_INT, MIN_INT
from .values import shorten

#: Levels of ``and``, ``or`` and ``not`` within one another.
MAX_FILTER_DEPTH: Final = 16
#: Conditions, and values of ``in``, in one filter.
MAX_FILTER_TERMS: Final = 1000
MAX_SORT_FIELDS: Final = 4
MAX_PROJECTION_FIELDS: Final = 100
#: Names in a path, and characters of them together.
MAX_PATH_NAMES: Final = 32
MAX_PATH_LENGTH: Final = 512
#: Characters of a page token.
MAX_TOKEN_LENGTH: Final = 16_384

#: Names of object members, from the outside in. The empty one is for the value itself.
Path: TypeAlias = tuple[str, ...]
Scalar: TypeAlias = bool | int | float | str | None
Comparison = Literal["eq", "gt", "gte", "lt", "lte"]


@dataclass(frozen=True, slots=True)
class Compare:
    """What is at the path is of the same type as the value, and relates to it like that."""

    op: Comparison
    path: Path
    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """What is at the path equals one of the values."""

    path: Path
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Exists:
    """There is something at the path, be it null."""

    path: Path


@dataclass(frozen=True, slots=True)
class And:
    """All of them hold."""

    parts: "tuple[Filter, ...]"


@dataclass(frozen=True, slots=True)
class Or:
    """One of them holds."""

    parts: "tuple[Filter, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """It does not hold."""

    part: "Filter"


Filter: TypeAlias = Compare | OneOf | Exists | And | Or | Not


@dataclass(frozen=True, slots=True)
class Sort:
    """Order by what is at the path."""

    path: Path
    descending: bool = False


def parse_path(data: Any, place: str = "field") -> Path:
    """Read a path: names joined by dots, or an array of names, which may then hold dots themselves.

    :raises InvalidError: if it is none; ``place`` becomes the error's field, and ``bad_<its first word>`` the code.
    """
    if isinstance(data, str):
        path = tuple(data.split(".")) if data else ()
        if "" in path:
            raise _bad(place, "a name in a path is empty; a path that has such names is an array of them")
    elif isinstance(data, list):
        path = tuple(data)
    else:
        raise _bad(place, "a field is a text such as address.city, or an array of names")
    if len(path) > MAX_PATH_NAMES:
        raise _bad(place, f"a path is limited to {MAX_PATH_NAMES} names")
    if not all(isinstance(name, str) for name in path):
        raise _bad(place, "names are texts")
    if sum(map(len, path)) > MAX_PATH_LENGTH:
        raise _bad(place, f"a path is limited to {MAX_PATH_LENGTH} characters")
    if any("\0" in name for name in path):
        raise _bad(place, "names must not hold the character NUL")
    return path


def parse_filter(data: Any) -> Filter:
    """Read a filter.

    :raises InvalidError: if it is none; its code is ``bad_filter``, and its field says where.
    """
    return _Reader().filter(data, "filter", MAX_FILTER_DEPTH)


def parse_sort(data: Any) -> tuple[Sort, ...]:
    """Read an order: an array of ``{"field": …, "order": "asc" or "desc"}``.

    :raises InvalidError: if it is none; its code is ``bad_sort``.
    """
    if not isinstance(data, list) or len(data) > MAX_SORT_FIELDS:
        raise _bad("sort", f"is an array of {MAX_SORT_FIELDS} at most")
    sorts = []
    for number, item in enumerate(data):
        place = f"sort[{number}]"
        if not isinstance(item, dict) or "field" not in item or not item.keys() <= {"field", "order"}:
            raise _bad(place, "is an object of a field, and perhaps an order")
        order = item.get("order", "asc")
        if order not in ("asc", "desc"):
            raise _bad(place, "order is asc or desc")
        sorts.append(Sort(parse_path(item["field"], place), descending=order == "desc"))
    if len({sort.path for sort in sorts}) != len(sorts):
        raise _bad("sort", "a field stands there twice")
    return tuple(sorts)


def parse_projection(data: Any) -> tuple[Path, ...]:
    """Read a projection: an array of paths, none of them the value itself.

    :raises InvalidError: if it is none; its code is ``bad_projection``.
    """
    if not isinstance(data, list) or len(data) > MAX_PROJECTION_FIELDS:
        raise _bad("projection", f"is an array of {MAX_PROJECTION_FIELDS} fields at most")
    paths = tuple(parse_path(item, f"projection[{number}]") for number, item in enumerate(data))
    if () in paths:
        raise _bad("projection", "leave it out for the whole value")
    return paths


class _Reader:
    """Reads one filter, and counts what is in it."""

    def __init__(self) -> None:
        self._terms = 0

    def filter(self, data: Any, place: str, depth: int) -> Filter:
        if not isinstance(data, dict) or len(data) != 1:
            raise _bad(place, 'a filter is an object of one member, such as {"eq": ["name", "Ada"]}')
        if depth == 0:
            raise _bad(place, f"nested deeper than {MAX_FILTER_DEPTH} levels")
        ((op, operand),) = data.items()
        read = _READ.get(op)
        if read is None:
            raise _bad(place, f"{shorten(repr(op))} is none of {', '.join(_READ)}")
        return read(self, op, operand, f"{place}.{op}", depth)

    def comparison(self, op: Any, operand: Any, place: str, _: int) -> Filter:
        path, value = self._pair(operand, place)
        if op in ("eq", "ne"):
            equal = Compare("eq", path, self._scalar(value, place))
            return equal if op == "eq" else Not(equal)
        if value is None or isinstance(value, bool):
            raise _bad(place, "there is an order among numbers and among texts only")
        return Compare(op, path, self._scalar(value, place))

    def one_of(self, _: Any, operand: Any, place: str, __: int) -> Filter:
        path, values = self._pair(operand, place)
        if not isinstance(values, list):
            raise _bad(place, "takes a field and an array of values")
        return OneOf(path, tuple(self._scalar(value, place) for value in values))

    def exists(self, _: Any, operand: Any, place: str, __: int) -> Filter:
        self._count(place)
        return Exists(parse_path(operand, place))

    def several(self, op: Any, operand: Any, place: str, depth: int) -> Filter:
        if not isinstance(operand, list) or not operand:
            raise _bad(place, "takes an array of filters, one at least")
        parts = tuple(self.filter(part, f"{place}[{number}]", depth - 1) for number, part in enumerate(operand))
        return And(parts) if op == "and" else Or(parts)

    def negation(self, _: Any, operand: Any, place: str, depth: int) -> Filter:
        return Not(self.filter(operand, place, depth - 1))

    def _pair(self, operand: Any, place: str) -> tuple[Path, Any]:
        if not isinstance(operand, list) or len(operand) != 2:
            raise _bad(place, "takes an array of a field and what it is compared with")
        return parse_path(operand[0], place), operand[1]

    def _scalar(self, value: Any, place: str) -> Scalar:
        self._count(place)
        if value is None or isinstance(value, bool | str):
            return value
        if isinstance(value, int) and MIN_INT <= value <= MAX_INT:
            return value
        if isinstance(value, float) and isfinite(value):
            return value
        raise _bad(place, "is compared with a text, a number of 64 bits, true, false or null")

    def _count(self, place: str) -> None:
        self._terms += 1
        if self._terms > MAX_FILTER_TERMS:
            raise _bad(place, f"a filter is limited to {MAX_FILTER_TERMS} conditions and values")


_READ: Final[dict[str, Callable[[_Reader, Any, Any, str, int], Filter]]] = {
    **dict.fromkeys(("eq", "ne", "gt", "gte", "lt", "lte"), _Reader.comparison),
    "in": _Reader.one_of,
    "exists": _Reader.exists,
    "and": _Reader.several,
    "or": _Reader.several,
    "not": _Reader.negation,
}


def _bad(place: str, message: str) -> InvalidError:
    field = place.partition(".")[0].partition("[")[0]
    return InvalidError(message, code=f"bad_{field}", field=shorten(place))
