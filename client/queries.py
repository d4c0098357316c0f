"""Queries: filters built out of typed pieces, and the pages that they find. ``query`` and ``iter_query`` are methods of
:class:`Client`.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

import uuid_utils

from ..events import Reply
from ..events.limits import MAX_PAGE
from ..events.queries import Scalar, parse_filter, parse_projection, parse_sort
from .caller import Caller
from .calls import Wire
from .entry import Entry, to_datetime

#: A field of values: names joined by dots, or one by one where they hold dots themselves. ``""`` is the value itself.
FieldPath: TypeAlias = str | Sequence[str]


class Condition:
    """What a value has to be. Combine them with ``&``, ``|`` and ``~``; ``field`` makes them.

    :ivar wire: it as it goes over the wire, see docs/queries.md.
    """

    __slots__ = ("wire",)

    def __init__(self, wire: Wire) -> None:
        """Take a filter as it stands on the wire.

        :raises InvalidError: if it is none.
        """
        parse_filter(wire)
        self.wire: Final = wire

    def __and__(self, other: "Condition") -> "Condition":
        return Condition({"and": [*_parts(self, "and"), *_parts(other, "and")]})

    def __or__(self, other: "Condition") -> "Condition":
        return Condition({"or": [*_parts(self, "or"), *_parts(other, "or")]})

    def __invert__(self) -> "Condition":
        return Condition({"not": self.wire})

    def __bool__(self) -> bool:
        """Python's ``and``, ``or`` and ``not`` would silently drop one side."""
        raise TypeError("conditions are combined by &, | and ~")

    def __repr__(self) -> str:
        return f"Condition({self.wire!r})"


def _parts(condition: Condition, op: str) -> list[Wire]:
    # What is joined by the same word already is joined to it: chains stay flat.
    parts: list[Wire] | None = condition.wire.get(op)
    return [condition.wire] if parts is None else parts


@dataclass(frozen=True, slots=True)
class Order:
    """One field of an order."""

    path: FieldPath
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Field:
    """A field of values, to compare. Comparisons are of one type: a text is neither less nor greater than a number."""

    path: FieldPath

    def eq(self, value: Scalar) -> Condition:
        """It is there and equals this; ``eq(None)``: it is there and null."""
        return self._compare("eq", value)

    def ne(self, value: Scalar) -> Condition:
        """It does not equal this, or is not there."""
        return self._compare("ne", value)

    def gt(self, value: float | str) -> Condition:
        """It is greater."""
        return self._compare("gt", value)

    def gte(self, value: float | str) -> Condition:
        """It is greater or equal."""
        return self._compare("gte", value)

    def lt(self, value: float | str) -> Condition:
        """It is less."""
        return self._compare("lt", value)

    def lte(self, value: float | str) -> Condition:
        """It is less or equal."""
        return self._compare("lte", value)

    def is_in(self, values: Iterable[Scalar]) -> Condition:
        """It equals one of these."""
        return Condition({"in": [self._wire, list(values)]})

    def exists(self) -> Condition:
        """It is there, be it null."""
        return Condition({"exists": self._wire})

    def ascending(self) -> Order:
        """To sort by, the least first; before all others what has no such field."""
        return Order(self.path)

    def descending(self) -> Order:
        """To sort by, the greatest first."""
        return Order(self.path, descending=True)

    def _compare(self, op: str, value: Scalar) -> Condition:
        return Condition({op: [self._wire, value]})

    @property
    def _wire(self) -> str | list[str]:
        return _path(self.path)


def field(path: FieldPath) -> Field:
    """A field of values, such as ``field("address.city")``."""
    return Field(path)


@dataclass(frozen=True, slots=True)
class QueryPage:
    """What a query has found."""

    entries: list[Entry]
    #: Give it as ``token`` for the next page, with the same query; None on the last one.
    token: str | None
    #: No index serves the query: every key was looked at, or would be.
    scan: bool
    #: Service time, in milliseconds since 1970: every write that was acknowledged before is seen.
    as_of_ms: int

    @property
    def as_of(self) -> datetime:
        """Every write that was acknowledged before this service time is seen."""
        return to_datetime(self.as_of_ms)


async def query(
    self: Caller,
    condition: Condition | None = None,
    *,
    prefix: str = "",
    sort: Sequence[Order | str] = (),
    projection: Sequence[FieldPath] | None = None,
    limit: int = 100,
    token: str | None = None,
    explain: bool = False,
    store: str | None = None,
    timeout: float | None = None,
) -> QueryPage:
    """A page of the current values that match; of keys that this user may both query and read.

    Each entry was in the log like that when it was looked up: none of them is deleted or expired. What was written
    after the page's ``as_of`` may be missing, and entries may stand where they stood before it.

    :param condition: such as ``field("age").gte(18) & ~field("left").exists()``; None for all.
    :param prefix: what the keys begin with.
    :param sort: orders or names of fields, up to four; by key without any.
    :param projection: fields of the values that are wanted; None for all.
    :param limit: entries at most, up to 1,000. A page may be shorter, and even empty, with more behind it.
    :param token: of the page before, which was asked for by the same condition, prefix and sort.
    :param explain: find nothing, and tell only whether every key would be looked at.
    :raises InvalidError: if the query is wrong, or (code ``scan``) would look at every key where that is forbidden.
    :raises Unavailable: if it takes too long (an index may help), or the store is away.
    """
    command = query_command(
        condition, prefix=prefix, sort=sort, projection=projection, limit=limit, token=token, explain=explain
    )
    store = self._name_store(command, store)
    # It is about no one key: any partition will do, and each time another one spreads the work.
    route = str(uuid_utils.uuid7())
    return query_page(await self._call(command, store, route, timeout, route, mutates=False), store)


async def iter_query(
    self: Caller,
    condition: Condition | None = None,
    *,
    prefix: str = "",
    sort: Sequence[Order | str] = (),
    projection: Sequence[FieldPath] | None = None,
    store: str | None = None,
    timeout: float | None = None,
) -> AsyncGenerator[Entry, None]:
    """All entries that match, read a page at a time as the loop over them goes on. See :meth:`query`.

    :param timeout: seconds for each page.
    """
    token: str | None = None
    while True:
        page = await query(
            self,
            condition,
            prefix=prefix,
            sort=sort,
            projection=projection,
            limit=MAX_PAGE,
            token=token,
            store=store,
            timeout=timeout,
        )
        for entry in page.entries:
            yield entry
        token = page.token
        if token is None:
            return


def query_command(
    condition: Condition | None,
    *,
    prefix: str,
    sort: Sequence[Order | str],
    projection: Sequence[FieldPath] | None,
    limit: int,
    token: str | None,
    explain: bool,
) -> Wire:
    """The command, without what is the default.

    :raises InvalidError: if a part of it is wrong.
    """
    command: Wire = {"op": "query", "limit": limit}
    if prefix:
        command["prefix"] = prefix
    if condition is not None:
        command["filter"] = condition.wire
    if sort:
        orders = [one if isinstance(one, Order) else Order(one) for one in sort]
        command["sort"] = [{"field": _path(one.path), "order": "desc" if one.descending else "asc"} for one in orders]
        parse_sort(command["sort"])
    if projection is not None:
        command["projection"] = [_path(path) for path in projection]
        parse_projection(command["projection"])
    if token is not None:
        command["token"] = token
    if explain:
        command["explain"] = True
    return command


def query_page(reply: Reply, store: str) -> QueryPage:
    """What the reply tells."""
    entries = [
        Entry(one.key, one.value, one.etag, one.version, one.updated_at, store, one.expires)
        for one in reply.entries or ()
    ]
    return QueryPage(entries, reply.token, bool(reply.scan), reply.as_of or 0)


def _path(path: FieldPath) -> str | list[str]:
    return path if isinstance(path, str) else list(path)
