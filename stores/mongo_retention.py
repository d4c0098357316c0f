"""Erasing and dropping in MongoDB. What is dropped is asked of the primary, and has to be gone on a majority."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, fields
from typing import Any, Final

from bson import Int64
from bson.datetime_ms import DatetimeMS

from ..events import StoreUnavailable
from .documents import to_millis
from .driver import Driver
from .queries import CARRIES_AT, HAS_VERSION, NEWEST_FIRST, RECEIPT_INDEX, VERSION_INDEX, read_concern
from .retention import KeyVersion, Mark, Trace
from .setup import FIRST_INDEX, REFUSAL_INDEX, create_indexes
from .verdicts import DUPLICATE_KEY

#: The collection of the marks, one document for each store.
_MARKS: Final = "retention"
_TRACE: Final = {
    "_id": 0,
    "key": 1,
    "version": 1,
    "type": 1,
    "time": 1,
    "stripped": 1,
    "closed": 1,
    # Whether there are any, and not which.
    "carries": {"$isArray": "$messages"},
}
#: What is erased of an event.
_ERASED: Final = dict.fromkeys(("value", "patch", "messages", "metadata", "correlation_id", "causation_id"), "")
#: More than any reply has, so that none is cut short but by MongoDB's 16 MiB, which these never reach.
_ONE_BATCH: Final = 1_000_000
_FIELDS: Final = tuple(field.name for field in fields(Mark))


class MongoRetention:
    """The part of a :class:`MongoStore` that erases and drops."""

    def __init__(self, driver: Driver, name: str, log: str, write_concern: dict[str, Any]) -> None:
        self._driver = driver
        self._name = name
        self._log = log
        self._write_concern = write_concern

    async def strip(self, ranges: Sequence[tuple[str, int, int]]) -> int:
        """Erase values and metadata of events."""
        if not ranges:
            return 0
        # First, because nobody comes back to them once the events are stubs.
        await self._strip_receipts(ranges)
        updates = [
            {
                # Not from 0 on: of what has no version the index does not know.
                "q": {"key": key, "version": {"$gte": max(first, 1), "$lte": last}, "stripped": {"$ne": True}},
                "u": {"$unset": _ERASED, "$set": {"stripped": True}},
                "multi": True,
                "hint": VERSION_INDEX,
            }
            for key, first, last in ranges
        ]
        return await self._write({"update": self._log, "updates": updates}, "nModified")

    async def _strip_receipts(self, ranges: Sequence[tuple[str, int, int]]) -> None:
        updates = [
            {
                "q": {"key": key, "at": {"$gte": max(first, 0), "$lte": last}},
                "u": {"$unset": {"messages": "", "at": ""}},
                "multi": True,
                "hint": RECEIPT_INDEX,
            }
            for key, first, last in ranges
        ]
        await self._write({"update": self._log, "updates": updates}, "nModified")

    async def carrying(self, keys: Collection[str], concern: dict[str, Any]) -> set[str]:
        """Those of these keys of which there are receipts that carry messages, out of their index alone."""
        command = {
            "aggregate": self._log,
            "pipeline": [{"$match": {"key": {"$in": list(keys)}, **CARRIES_AT}}, {"$group": {"_id": "$key"}}],
            "cursor": {"batchSize": _ONE_BATCH},
            "hint": RECEIPT_INDEX,
            "readConcern": concern,
        }
        return {row["_id"] for row in (await self._driver.command(command))["cursor"]["firstBatch"]}

    async def places(self, *, after: KeyVersion | None = None, limit: int = 1000) -> list[KeyVersion]:
        """Events in the order of the keys, the newest version of each first, out of the index alone."""
        command: dict[str, Any] = {
            "find": self._log,
            "filter": HAS_VERSION,
            "projection": {"_id": 0, "key": 1, "version": 1},
            "sort": NEWEST_FIRST["$sort"],
            "limit": limit,
        }
        if after is not None:
            # The index goes on from there; the place itself comes first, if it is still there.
            command["min"] = {"key": after[0], "version": Int64(after[1])}
            command["limit"] = limit + 1
        rows = await self._rows(command)
        return [place for row in rows if (place := (row["key"], int(row["version"]))) != after][:limit]

    async def traces(self, places: Sequence[KeyVersion]) -> dict[KeyVersion, Trace]:
        """What compaction needs to know of these events."""
        if not places:
            return {}
        rows = await self._rows({"find": self._log, "filter": _at(places, "version"), "projection": _TRACE})
        # Afterwards: none is added at a place that has a successor.
        receipts = await self._receipts_at(places)
        return {
            (row["key"], int(row["version"])): Trace(
                row["key"],
                int(row["version"]),
                row["type"],
                to_millis(row["time"]),
                bool(row.get("stripped")),
                to_millis(row["closed"]) if "closed" in row else None,
                bool(row["carries"]) or (row["key"], int(row["version"])) in receipts,
            )
            for row in rows
        }

    async def _receipts_at(self, places: Sequence[KeyVersion]) -> set[KeyVersion]:
        """Those of these places at which receipts that carry messages stand, out of their index alone."""
        command = {
            "find": self._log,
            "filter": _at(places, "at"),
            "projection": {"_id": 0, "key": 1, "at": 1},
            "hint": RECEIPT_INDEX,
        }
        return {(row["key"], int(row["at"])) for row in await self._rows(command)}

    async def times(self, key: str, versions: Sequence[int], concern: dict[str, Any]) -> dict[int, int]:
        """Service times of a key's events."""
        condition = {"key": key, "version": {"$in": list(versions)}}
        rows = await self._rows(
            {"find": self._log, "filter": condition, "projection": {"_id": 0, "version": 1, "time": 1}}, concern
        )
        return {int(row["version"]): to_millis(row["time"]) for row in rows}

    async def close_key(self, place: KeyVersion, *, now: int) -> None:
        """Mark an event as closed."""
        update = {
            "q": {"key": place[0], "version": place[1], "closed": {"$exists": False}},
            "u": {"$set": {"closed": DatetimeMS(now)}},
            "hint": VERSION_INDEX,
        }
        await self._write({"update": self._log, "updates": [update]}, "nModified")

    async def drop(self, places: Sequence[KeyVersion]) -> int:
        """Remove events in this order."""
        if not places:
            return 0
        if receipts := await self._receipts_at(places):
            await self._strip_receipts([(key, version, version) for key, version in receipts])
        deletes = [
            {"q": {"key": key, "version": version}, "limit": 1, "hint": VERSION_INDEX} for key, version in places
        ]
        return await self._write({"delete": self._log, "deletes": deletes, "ordered": True}, "n")

    async def drop_refusals(self, before: int, *, limit: int) -> int:
        """Remove refusals of before this time."""
        condition = {"type": "refused", "time": {"$lt": DatetimeMS(before)}}
        rows = await self._rows(
            {
                "find": self._log,
                "filter": condition,
                "projection": {"_id": 1},
                "limit": limit,
                "hint": REFUSAL_INDEX["name"],
            }
        )
        if not rows:
            return 0
        # Of the condition too, in case there is another record under the id by then.
        deletes = [{"q": {**condition, "_id": {"$in": [row["_id"] for row in rows]}}, "limit": 0}]
        return await self._write({"delete": self._log, "deletes": deletes}, "n")

    async def mark(self) -> Mark:
        """The log's mark."""
        rows = await self._rows({"find": _MARKS, "filter": {"_id": self._name}, "limit": 1})
        return _mark_of(rows[0]) if rows else Mark()

    async def set_mark(self, old: Mark, new: Mark) -> bool:
        """Put a mark in the place of another one."""
        if old == Mark():
            # The first one, or one that looks like it.
            document = {"_id": self._name, **_fields_of(old)}
            insert = {"insert": _MARKS, "documents": [document], "writeConcern": self._write_concern}
            reply = await self._driver.command(insert)
            errors = [error for error in reply.get("writeErrors", ()) if error.get("code") != DUPLICATE_KEY]
            if errors or reply.get("writeConcernError"):
                raise StoreUnavailable("no majority has confirmed a mark")
        update = {"q": {"_id": self._name, **_fields_of(old)}, "u": {"$set": _fields_of(new)}}
        return await self._write({"update": _MARKS, "updates": [update]}, "n") == 1

    async def prepare_compaction(self) -> None:
        """Make the indexes: that of the events that begin a key, and that of refusals."""
        await create_indexes(self._driver, self._log, FIRST_INDEX, REFUSAL_INDEX)

    async def _rows(self, command: dict[str, Any], concern: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        if command["find"] == self._log:
            command.setdefault("hint", VERSION_INDEX)
        command |= {"batchSize": _ONE_BATCH, "singleBatch": True, "readConcern": concern or read_concern(None)}
        rows: list[dict[str, Any]] = (await self._driver.command(command))["cursor"]["firstBatch"]
        return rows

    async def _write(self, command: dict[str, Any], counts: str) -> int:
        reply = await self._driver.command({**command, "writeConcern": self._write_concern})
        if reply.get("writeErrors") or reply.get("writeConcernError"):
            raise StoreUnavailable("no majority has confirmed that something was erased")
        return int(reply[counts])


def _at(places: Sequence[KeyVersion], field: str) -> dict[str, Any]:
    """The condition that a document is of one of these keys, and has its version in this field."""
    by_key: dict[str, list[int]] = {}
    for key, version in places:
        by_key.setdefault(key, []).append(version)
    conditions = [{"key": key, field: {"$in": versions}} for key, versions in by_key.items()]
    return conditions[0] if len(conditions) == 1 else {"$or": conditions}


def _fields_of(mark: Mark) -> dict[str, Any]:
    return {name: Int64(value) if isinstance(value, int) else value for name, value in asdict(mark).items()}


def _mark_of(document: dict[str, Any]) -> Mark:
    known: dict[str, Any] = {name: document[name] for name in _FIELDS if document.get(name) is not None}
    known |= {name: int(value) for name, value in known.items() if isinstance(value, int)}
    return Mark(**known)
