"""Indexes on fields of current values: what a store that keeps some is asked, and what a filter leaves for them to do.

An index may be behind the log and tell of too many keys, never of values: whoever asks looks every key up in the log,
and decides by what is there. So all that has to be right about an index is what it does not tell of.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import NamedTuple

from ..events import StoreError
from ..events.queries import And, Compare, Exists, Filter, Not, OneOf, Or, Path, Sort
from .matching import ORDERED_CHARACTERS, Position
from .scopes import KeyScope

#: Told how much is done, and about how much there is.
Progress = Callable[[int, int], None]


class QueryTimeoutError(StoreError):
    """A question to the indexes took longer than the store's time limit."""


class IndexState(NamedTuple):
    """What a store's indexes can be used for."""

    #: The fields whose index tells of every key.
    ready: frozenset[Path]
    #: Service time in milliseconds: they know of every write that was acknowledged before.
    as_of: int


@dataclass(frozen=True, slots=True)
class IndexQuery:
    """A question to the indexes."""

    keys: KeyScope
    #: About indexed fields alone; None for all keys.
    filter: Filter | None
    #: By an indexed field; None orders by key.
    sort: Sort | None
    #: Only what comes behind it in that order.
    after: Position | None
    limit: int


class Candidate(NamedTuple):
    """A key whose value may match, and where the index has it."""

    key: str
    position: Position


def narrow(filter_: Filter | None, ready: Collection[Path]) -> Filter | None:
    """What has to hold of the indexed fields wherever the filter holds; None if that is nothing."""
    return None if filter_ is None else _narrow(filter_, ready)[0]


def _narrow(filter_: Filter, ready: Collection[Path]) -> tuple[Filter | None, bool]:
    """The same, and whether the filter in turn holds wherever that does."""
    match filter_:
        case Compare(_, path, value):
            fits = path in ready and not _is_long(value)
            return (filter_, True) if fits else (None, False)
        case OneOf(path, values):
            fits = path in ready and not any(map(_is_long, values))
            return (filter_, True) if fits else (None, False)
        case Exists(path):
            return (filter_, True) if path in ready else (None, False)
        case And(parts):
            narrowed = [_narrow(part, ready) for part in parts]
            kept = tuple(part for part, _ in narrowed if part is not None)
            return (And(kept) if kept else None), all(exact for _, exact in narrowed)
        case Or(parts):
            narrowed = [_narrow(part, ready) for part in parts]
            kept = tuple(part for part, _ in narrowed if part is not None)
            if len(kept) < len(parts):
                return None, False
            return Or(kept), all(exact for _, exact in narrowed)
        case Not(part):
            inner, exact = _narrow(part, ready)
            # Less than what is to be excluded must not be excluded.
            return (Not(inner), True) if exact and inner is not None else (None, False)


def _is_long(value: object) -> bool:
    # An index holds the head of a text.
    return isinstance(value, str) and len(value) >= ORDERED_CHARACTERS
