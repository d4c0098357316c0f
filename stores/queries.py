"""Questions to the log, in the forms that its index on (key, version) answers by seeks."""

from dataclasses import dataclass
from typing import Any, Final

from bson import Int64, Timestamp
from bson.datetime_ms import DatetimeMS

from .interface import Expiry, Fence

#: The unique index on (key, version). Refusals have no version and stay out of it.
VERSION_INDEX: Final = "key_version"

#: The index on (key, at) of the receipts that carry messages.
RECEIPT_INDEX: Final = "key_receipt"

#: The index on what expires, with the key and version: a page of it can be read without its documents. All other events
#: stay out of it.
EXPIRY_INDEX: Final = "expires"
EXPIRY_ORDER: Final[dict[str, Any]] = {"expires": 1, "key": 1, "version": 1}

HAS_VERSION: Final[dict[str, Any]] = {"version": {"$gt": 0}}
CARRIES_AT: Final[dict[str, Any]] = {"at": {"$gte": 0}}
NEWEST_FIRST: Final[dict[str, Any]] = {"$sort": {"key": 1, "version": -1}}

#: The newest event of each key, as far as decisions need it.
HEAD_GROUP: Final[dict[str, Any]] = {
    "$group": {
        "_id": "$key",
        "v": {"$first": "$version"},
        "type": {"$first": "$type"},
        "c": {"$first": "$_id.c"},
        # A number is decoded faster than a date.
        "time": {"$first": {"$toLong": "$time"}},
        "closed": {"$first": "$closed"},
        "expires": {"$first": {"$toLong": "$expires"}},
    }
}
#: The newest version of each key: the index alone answers it.
VERSION_GROUP: Final[dict[str, Any]] = {"$group": {"_id": "$key", "v": {"$first": "$version"}}}
KEY_GROUP: Final[dict[str, Any]] = {"$group": {"_id": "$key"}}


@dataclass(frozen=True, slots=True)
class MongoFence:
    """The time of a majority write in the replica set's log. A majority read after it sees all that came before."""

    time: Timestamp


def newest(keys: Any, group: dict[str, Any], *rest: dict[str, Any]) -> list[dict[str, Any]]:
    """The pipeline that looks at the newest event of each key in a condition on ``key``.

    The server plans it as DISTINCT_SCAN: one seek into the index per key, however many versions there are.
    """
    return [{"$match": {"key": keys, **HAS_VERSION}}, NEWEST_FIRST, group, *rest]


def expiring(until: int, after: Expiry | None, limit: int) -> dict[str, Any]:
    """A ``find`` of the events that expire up to a time, in that order, from a place on, which it includes.

    The index has all that it asks for, so that no document is read.
    """
    found: dict[str, Any] = {
        # In place of a condition: together with "min" that would be tried on each document that comes later, too.
        "filter": {},
        "max": {"expires": DatetimeMS(until + 1), "key": "", "version": Int64(0)},
        "projection": {"_id": 0, **EXPIRY_ORDER},
        "sort": EXPIRY_ORDER,
        "limit": limit,
        "hint": EXPIRY_INDEX,
    }
    if after is not None:
        found["min"] = {"expires": DatetimeMS(after.time), "key": after.key, "version": Int64(after.version)}
    return found


def key_range(prefix: str, after: str | None) -> dict[str, str]:
    """The condition on keys that start with the prefix and come after another key."""
    condition = {"$gte": prefix}
    if after is not None and after >= prefix:
        condition = {"$gt": after}
    # The first text that no longer starts with the prefix: its last character that has a successor is moved on.
    # Between U+D7FF and U+E000 there are no characters.
    stem = prefix.rstrip("\U0010ffff")
    if stem:
        code = ord(stem[-1]) + 1
        condition["$lt"] = stem[:-1] + chr(0xE000 if code == 0xD800 else code)
    return condition


def read_concern(after: Fence | None) -> dict[str, Any]:
    if after is None:
        return {"level": "majority"}
    if not isinstance(after, MongoFence):
        raise TypeError(f"not a fence of this store: {after!r}")
    return {"level": "majority", "afterClusterTime": after.time}
