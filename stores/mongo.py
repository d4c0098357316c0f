"""The log in MongoDB: one collection of immutable documents per store, and two unique indexes that decide."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import bson
from bson import Int64
from bson.raw_bson import RawBSONDocument

from ..events import ClosedError, Event, Record, StoreConfigError, StoreError, StoreUnavailable, Topology, mask_url
from ..events.queries import Path
from .documents import MAX_DOCUMENT_BYTES, decode_reply, encode_records, guard, id_of, to_millis, to_record
from .driver import Blocked, Driver
from .indexes import Candidate, IndexQuery, IndexState, Progress
from .interface import AlreadyApplied, Appended, Expiry, ExpiryPage, Fence, Head, KeyPage, Outcome, Transacted
from .mongo_documents import Documents, warn_of_remains
from .mongo_inspection import MongoInspection
from .mongo_retention import MongoRetention
from .names import checked_name
from .projector import Projector
from .queries import (
    HAS_VERSION,
    HEAD_GROUP,
    KEY_GROUP,
    NEWEST_FIRST,
    VERSION_GROUP,
    VERSION_INDEX,
    MongoFence,
    expiring,
    key_range,
    newest,
    read_concern,
)
from .retention import KeyVersion, Mark, Trace
from .setup import prepare
from .timeline import version_at
from .verdicts import DUPLICATE_KEY, Judgement, Verdict, judge

log = logging.getLogger("holdfast.stores")

DEFAULT_TIMEOUT_SECONDS: Final = 5.0

#: How long the server may work on an append, and so how long that waits for somebody's open transaction. A worker that
#: is frozen in the middle of one holds its keys until the server gives it up.
_APPEND_MS: Final = 1000

#: The driver takes no larger command, and this much fits beside the command's own few bytes.
_MAX_INSERT_BYTES: Final = MAX_DOCUMENT_BYTES

#: So many documents share the fences, so that workers do not wait for one another and none is left behind by each.
_FENCE_SLOTS: Final = 256

#: More than any reply of ours has, so that none is cut short but by MongoDB's 16 MiB.
_ONE_BATCH: Final = 1_000_000

_SCAN_PAGE: Final = 1000

#: So often a page of keys is looked for among all versions before the versions are skipped.
_KEY_ROUNDS: Final = 8

#: The collection of messages that may be what kills workers.
_SUSPECTS: Final = "suspects"

_TOPOLOGY_ID: Final = "holdfast"

#: How far the sweep has come, by the stores' names.
_SWEEP: Final = "sweep"


class MongoStore:
    """A log in a MongoDB replica set, 6.0 or newer.

    An event counts as appended when it is on the journal of a majority. Reads see what a majority has, on the primary.

    :param url: ``mongodb://…``; it may name the database.
    :param name: the store's name; its documents are in ``<name>.events``, and the view ``<name>.current`` shows
        those of the keys that are there.
    :param database: goes before the one in the URL; without either it is ``holdfast``.
    :param timeout_seconds: how long the server may work on one command. Finding a server takes up to four seconds more,
        and a server that does not answer at all is given up one second after that time.
    :raises StoreConfigError: if the URL or the name cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "default",
        database: str | None = None,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        self.name = checked_name(name)
        self._url = url
        self._database = database
        self._timeout_seconds = timeout_seconds
        self._log = f"{name}.events"
        self._view = f"{name}.current"
        self._driver: Driver | None = None
        self._ready = False
        self._fields: frozenset[Path] = frozenset()
        self._owner = secrets.token_hex(8)
        self._fence_id = secrets.randbelow(_FENCE_SLOTS)
        self._write_concern = {"w": "majority", "j": True, "wtimeout": round(timeout_seconds * 900)}

    def __repr__(self) -> str:
        return f"MongoStore({mask_url(self._url)!r}, name={self.name!r})"

    async def open(self, *, create: bool = True) -> None:
        """Connect, check the server, create indexes and the view. Repeating it is harmless.

        :param create: False leaves the server unchecked and creates nothing, to look at what may be at fault.
        :raises StoreConfigError: if the server is unfit or refuses access; the message says what to change.
        :raises StoreUnavailable: if it cannot be reached.
        """
        if self._driver is None:
            self._driver = Driver(self._url, self._database, timeout_seconds=self._timeout_seconds)
        if create:
            await prepare(self._driver, self._log, self._view)
            await self._prepare_documents(self._driver)
        self._ready = True

    async def close(self) -> None:
        """Let go of the connections. Repeating it is harmless; the store can be opened again."""
        driver, self._driver, self._ready = self._driver, None, False
        if driver is not None:
            await driver.close()

    async def health(self) -> None:
        """Return if a majority took a write just now.

        :raises StoreUnavailable: if not.
        """
        await self.fence()

    async def service_time(self) -> int:
        """The primary's clock, in milliseconds since 1970."""
        return to_millis((await self._opened.command({"hello": 1}))["localTime"])

    async def agree(self, proposal: Topology) -> Topology:
        """The topology of this database: the proposal, if there is none yet."""
        document = {"_id": _TOPOLOGY_ID, **proposal.model_dump()}
        insert = {"insert": "topology", "documents": [document], "writeConcern": self._write_concern}
        reply = await self._opened.command(insert)
        errors = [error for error in reply.get("writeErrors", ()) if error.get("code") != DUPLICATE_KEY]
        if errors or reply.get("writeConcernError"):
            raise StoreUnavailable("no majority has confirmed the topology")
        find = {"find": "topology", "filter": {"_id": _TOPOLOGY_ID}, "limit": 1}
        rows, _ = await self._rows(find, MongoFence(reply["operationTime"]))
        if not rows:
            raise StoreUnavailable("the topology was removed at this moment")
        return Topology.model_validate(rows[0])

    async def strike(self, mark: str) -> int:
        """Note it once more, on a majority, and say how often it is noted now."""
        reply = await self._opened.command(
            {
                "findAndModify": _SUSPECTS,
                "query": {"_id": mark},
                "update": {"$inc": {"strikes": 1}, "$currentDate": {"time": True}},
                "upsert": True,
                "new": True,
                "writeConcern": self._write_concern,
            }
        )
        if reply.get("writeConcernError"):
            raise StoreUnavailable("no majority has confirmed the note of a suspect")
        return int(reply["value"]["strikes"])

    async def clear(self, mark: str) -> None:
        """Forget it."""
        await self._opened.command(
            {
                "delete": _SUSPECTS,
                "deletes": [{"q": {"_id": mark}, "limit": 1}],
                "writeConcern": self._write_concern,
            }
        )

    async def append(self, records: Sequence[Record]) -> Appended:
        """Append in order, up to the first that fails. At most 1,000 records.

        :raises StoreError: if the database refuses a record for good; nothing at or behind it was written.
        """
        driver = self._opened
        documents = encode_records(records)
        landed = 0
        fence: Fence | None = None
        # Whether the last command ran out of its time. One that does so again, with one document, is blocked, not slow.
        late = False
        try:
            if not documents:
                return Appended([], await self.fence())
            while landed < len(documents):
                part = documents[landed : landed + 1] if late else _part(documents, landed)
                try:
                    reply = await driver.command(
                        {
                            "insert": self._log,
                            "documents": [RawBSONDocument(document) for document in part],
                            "ordered": True,
                            "writeConcern": self._write_concern,
                            "maxTimeMS": min(_APPEND_MS, driver.max_time_ms),
                        }
                    )
                except Blocked:
                    fence = await self.fence()
                    before, landed, stop = landed, *await self._landed(records, fence)
                    if stop is not None:
                        return _stopped(records, landed, stop)
                    if late and landed == before:
                        return _stopped(records, landed, Outcome.BLOCKED)
                    late = True
                    continue
                late = False
                fence = MongoFence(reply["operationTime"])
                judgement = judge(reply, len(part))
                if judgement.verdict is Verdict.UNKNOWN:
                    return _unknown(records)
                landed += judgement.landed
                if judgement.verdict is Verdict.BLOCKED:
                    return _stopped(records, landed, Outcome.BLOCKED)
                if judgement.verdict is Verdict.REFUSED:
                    record = records[landed]
                    raise StoreError(f"MongoDB refused the record {record.id!r} for good: {judgement.reason}")
                if judgement.verdict is not Verdict.DONE:
                    return await self._stopped(records, landed, judgement.verdict, MongoFence(reply["operationTime"]))
        except StoreUnavailable:
            return _unknown(records)
        return Appended([Outcome.APPENDED] * landed, fence)

    async def _landed(self, records: Sequence[Record], after: Fence) -> tuple[int, AlreadyApplied | None]:
        """How many have landed, if the server gave up without saying so, and what stopped it, if that was an id.

        It does no more by itself.
        """
        found = await self.find([record.id for record in records], after=after, with_values=False)
        for landed, record in enumerate(records):
            there = found.get(record.id)
            if there is None:
                return landed, None
            if not _is_same(record, there):
                return landed, AlreadyApplied(there)
        return len(records), None

    async def _stopped(self, records: Sequence[Record], at: int, verdict: Verdict, fence: MongoFence) -> Appended:
        """The outcomes if the record ``at`` was a duplicate. A record that breaks both rules is judged by its id."""
        original = (await self.find([records[at].id], after=fence)).get(records[at].id)
        stop: Outcome | AlreadyApplied
        if original is not None:
            stop = AlreadyApplied(original)
        elif verdict is Verdict.VERSION_TAKEN:
            stop = Outcome.VERSION_TAKEN
        else:
            # It was there and is gone again, as after a change of primaries.
            return _unknown(records)
        return _stopped(records, at, stop)

    async def transact(
        self, records: Sequence[Record], guards: Collection[tuple[str, int]], *, firsts: Collection[str] = ()
    ) -> Transacted:
        """Append all records in one step, or none of them, and only if none of the guarded (key, version) is taken.

        :raises StoreError: if the database refuses a record for good; nothing was written.
        """
        documents = encode_records(records)
        command_id = records[0].id
        placeholders = [
            guard(command_id, number, *place, first=place[0] in firsts) for number, place in enumerate(guards, start=1)
        ]
        documents += [bson.encode(placeholder) for placeholder in placeholders]
        # Whoever waits for it may be cancelled. An open transaction that nobody ends would hold its keys for seconds.
        committing = asyncio.ensure_future(self._transact(records, documents, placeholders))
        committing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(committing)

    async def _transact(
        self, records: Sequence[Record], documents: list[bytes], placeholders: list[dict[str, Any]]
    ) -> Transacted:
        driver = self._opened
        limit = min(_APPEND_MS, driver.max_time_ms)
        try:
            async with driver.transaction(self._write_concern) as session:
                landed = 0
                while landed < len(documents):
                    part = _part(documents, landed)
                    insert = {"insert": self._log, "documents": list(map(RawBSONDocument, part)), "maxTimeMS": limit}
                    judgement = judge(await driver.command(insert, session=session), len(part))
                    landed += judgement.landed
                    if judgement.verdict is not Verdict.DONE:
                        return await self._not_committed(records, judgement)
                if placeholders:
                    deletes = [{"q": {"_id": placeholder["_id"]}, "limit": 1} for placeholder in placeholders]
                    await driver.command({"delete": self._log, "deletes": deletes, "maxTimeMS": limit}, session=session)
                return Transacted(Outcome.APPENDED, MongoFence(await driver.commit(session)))
        except Blocked:
            return Transacted(Outcome.BLOCKED, None)
        except StoreUnavailable:
            return Transacted(Outcome.UNKNOWN, None)

    async def _not_committed(self, records: Sequence[Record], judgement: Judgement) -> Transacted:
        """What stopped a transaction. The server has ended it with that."""
        verdict = judgement.verdict
        if verdict is Verdict.REFUSED:
            raise StoreError(f"MongoDB refused the transaction {records[0].id!r} for good: {judgement.reason}")
        if verdict in (Verdict.ID_TAKEN, Verdict.VERSION_TAKEN):
            # What was met may not be on a majority yet.
            original = (await self.find([records[0].id], after=await self.fence())).get(records[0].id)
            if original is not None:
                return Transacted(AlreadyApplied(original), None)
            return Transacted(Outcome.VERSION_TAKEN if verdict is Verdict.VERSION_TAKEN else Outcome.UNKNOWN, None)
        return Transacted(Outcome.BLOCKED if verdict is Verdict.BLOCKED else Outcome.UNKNOWN, None)

    async def fence(self) -> Fence:
        """Write to the majority's journal, and give the time of that."""
        update = {"q": {"_id": self._fence_id}, "u": {"$inc": {"n": 1}}, "upsert": True}
        reply = await self._opened.command(
            {"update": "fence", "updates": [update], "writeConcern": self._write_concern}
        )
        if reply.get("writeErrors") or reply.get("writeConcernError"):
            raise StoreUnavailable("no majority has confirmed a fence")
        return MongoFence(reply["operationTime"])

    async def heads(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, Head]:
        """The newest event of each key, without its value."""
        rows = await self._newest(keys, HEAD_GROUP, after)
        return {row["_id"]: _head_of(row) for row in rows}

    async def versions(self, keys: Collection[str], *, after: Fence | None = None) -> dict[str, int]:
        """The newest version of each key, out of the index alone."""
        return {row["_id"]: int(row["v"]) for row in await self._newest(keys, VERSION_GROUP, after)}

    async def _newest(self, keys: Collection[str], group: dict[str, Any], after: Fence | None) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        rest = list(keys)
        while rest:
            rows, complete = await self._aggregate(newest({"$in": rest}, group), after)
            found += rows
            if complete:
                break
            seen = {row["_id"] for row in rows}
            rest = [key for key in rest if key not in seen]
        return found

    async def events(
        self, places: Collection[tuple[str, int]], *, after: Fence | None = None
    ) -> dict[tuple[str, int], Event]:
        """The events at (key, version), as far as there are any; some of them, if they are more than 16 MiB."""
        if not places:
            return {}
        # One condition per version is exact, and quicker than one per place: keys share their versions.
        by_version: dict[int, list[str]] = {}
        for key, version in places:
            by_version.setdefault(version, []).append(key)
        conditions = [{"version": version, "key": {"$in": keys}} for version, keys in by_version.items()]
        condition = conditions[0] if len(conditions) == 1 else {"$or": conditions}
        rows, _ = await self._find(condition, after, hint=VERSION_INDEX)
        events = [event for event in map(to_record, rows) if isinstance(event, Event)]
        return {(event.key, event.version): event for event in events}

    async def find(
        self, ids: Collection[str], *, after: Fence | None = None, with_values: bool = True
    ) -> dict[str, Record]:
        """What stands in the log under these command ids."""
        found: dict[str, Record] = {}
        rest = list(ids)
        options: dict[str, Any] = {} if with_values else {"projection": {"value": 0}}
        while rest:
            condition = {"_id": {"$in": [id_of(command_id) for command_id in rest]}}
            rows, complete = await self._find(condition, after, **options)
            found |= {record.id: record for record in map(to_record, rows)}
            if complete:
                break
            rest = [command_id for command_id in rest if command_id not in found]
        return found

    async def history(
        self,
        key: str,
        *,
        after_version: int = 0,
        before_version: int | None = None,
        backward: bool = False,
        limit: int = 100,
        after: Fence | None = None,
    ) -> list[Event]:
        """Events of one key, oldest or newest first; fewer, if they are more than 16 MiB."""
        versions = {"$gt": max(after_version, 0)}
        if before_version is not None:
            versions["$lt"] = before_version
        rows, _ = await self._find(
            {"key": key, "version": versions},
            after,
            sort={"version": -1 if backward else 1},
            limit=limit,
            hint=VERSION_INDEX,
        )
        return [event for event in map(to_record, rows) if isinstance(event, Event)]

    async def version_at(self, key: str, time: int, *, after: Fence | None = None) -> int:
        """The version of a key's newest event at that time or before; 0 if there is none."""
        newest = (await self.versions([key], after=after)).get(key, 0)
        concern = read_concern(after)
        # What is oldest need not be known exactly: what is missing counts as old.
        found = await version_at(lambda versions: self._retention.times(key, versions, concern), 1, newest, time)
        condition = {"key": key, **HAS_VERSION}
        oldest, _ = await self._find(
            condition, after, projection={"version": 1}, sort={"version": 1}, limit=1, hint=VERSION_INDEX
        )
        return found if oldest and int(oldest[0]["version"]) <= found else 0

    async def strip(self, ranges: Sequence[tuple[str, int, int]]) -> int:
        """Erase values and metadata of events."""
        return await self._retention.strip(ranges)

    async def carrying(self, keys: Collection[str], *, after: Fence | None = None) -> set[str]:
        """Those of these keys of which there are receipts that carry messages, out of their index alone."""
        return await self._retention.carrying(keys, read_concern(after))

    async def places(self, *, after: KeyVersion | None = None, limit: int = 1000) -> list[KeyVersion]:
        """Events in the order of the keys, the newest version of each first, out of the index alone."""
        return await self._retention.places(after=after, limit=limit)

    async def traces(self, places: Sequence[KeyVersion]) -> dict[KeyVersion, Trace]:
        """What compaction needs to know of these events."""
        return await self._retention.traces(places)

    async def close_key(self, place: KeyVersion, *, now: int) -> None:
        """Mark an event as closed."""
        await self._retention.close_key(place, now=now)

    async def drop(self, places: Sequence[KeyVersion]) -> int:
        """Remove events in this order."""
        return await self._retention.drop(places)

    async def drop_refusals(self, before: int, *, limit: int) -> int:
        """Remove refusals of before this time."""
        return await self._retention.drop_refusals(before, limit=limit)

    async def mark(self) -> Mark:
        """The log's mark."""
        return await self._retention.mark()

    async def set_mark(self, old: Mark, new: Mark) -> bool:
        """Put a mark in the place of another one."""
        return await self._retention.set_mark(old, new)

    async def prepare_compaction(self) -> None:
        """Make the indexes that compaction needs."""
        await self._retention.prepare_compaction()

    @property
    def _retention(self) -> MongoRetention:
        return MongoRetention(self._opened, self.name, self._log, self._write_concern)

    async def keys(
        self, prefix: str = "", *, after: str | None = None, limit: int = 1000, fence: Fence | None = None
    ) -> KeyPage:
        """Keys that have an event, in byte order, out of the index alone."""
        found: list[str] = []
        for _ in range(_KEY_ROUNDS):
            condition = {"key": key_range(prefix, found[-1] if found else after), **HAS_VERSION}
            rows, complete = await self._find(
                condition,
                fence,
                projection={"_id": 0, "key": 1},
                sort=NEWEST_FIRST["$sort"],
                limit=limit + 1,
                hint=VERSION_INDEX,
            )
            found += dict.fromkeys(row["key"] for row in rows)
            if len(found) > limit or (complete and len(rows) <= limit):
                break
        else:
            found += await self._skip_to_keys(key_range(prefix, found[-1]), limit + 1 - len(found), fence)
        return KeyPage(found[:limit], found[limit - 1] if len(found) > limit else None)

    async def _skip_to_keys(self, condition: dict[str, str], limit: int, fence: Fence | None) -> list[str]:
        """The first keys in a range, one seek each: for keys of many versions.

        For others it costs more than it saves, because MongoDB goes on seeking past the limit, for 4 MiB of keys.
        """
        # A skip scan gives the keys in the index's order, so that the limit cuts off the last ones, but no one has
        # promised that …
        rows, _ = await self._aggregate(newest(condition, KEY_GROUP, {"$limit": limit}), fence)
        keys = [row["_id"] for row in rows]
        if any(one >= other for one, other in pairwise(keys)):
            # … so that without this order the keys have to be sorted before the limit is put on them.
            rows, _ = await self._aggregate(
                newest(condition, KEY_GROUP, {"$sort": {"_id": 1}}, {"$limit": limit}), fence
            )
            keys = [row["_id"] for row in rows]
        return keys

    async def expired(self, *, until: int, after: Expiry | None = None, limit: int = 1000) -> ExpiryPage:
        """Keys that have expired by a time, and whose log does not say so yet, out of the indexes alone."""
        # One more tells whether there are more, and another one is where the last page ended.
        rows, complete = await self._rows({"find": self._log, **expiring(until, after, limit + 2)}, None)
        places = [Expiry(to_millis(row["expires"]), row["key"], int(row["version"])) for row in rows]
        if places and places[0] == after:
            del places[0]
        looked = places[:limit]
        versions = await self.versions({place.key for place in looked}) if looked else {}
        keys = [place.key for place in looked if versions.get(place.key) == place.version]
        return ExpiryPage(keys, looked[-1] if len(places) > limit or (looked and not complete) else None)

    async def swept(self) -> int:
        """The time that was noted last."""
        rows, _ = await self._rows({"find": _SWEEP, "filter": {"_id": self.name}, "limit": 1}, None)
        return int(rows[0]["until"]) if rows else 0

    async def note_swept(self, until: int) -> None:
        """Keep a time; an earlier one changes nothing."""
        update = {"q": {"_id": self.name}, "u": {"$max": {"until": Int64(until)}}, "upsert": True}
        reply = await self._opened.command(
            {"update": _SWEEP, "updates": [update], "writeConcern": self._write_concern}, tolerate=[DUPLICATE_KEY]
        )
        errors = [error for error in reply.get("writeErrors", ()) if error.get("code") != DUPLICATE_KEY]
        if errors or reply.get("writeConcernError"):
            raise StoreUnavailable("no majority has confirmed how far the sweep has come")

    async def scan(self) -> AsyncIterator[Record]:
        """Every record that is there throughout, in the order of the ids."""
        last: dict[str, Any] = {}
        while True:
            rows, complete = await self._find(last, sort={"_id": 1}, limit=_SCAN_PAGE)
            for row in rows:
                yield to_record(row)
            if complete and len(rows) < _SCAN_PAGE:
                return
            last = {"_id": {"$gt": rows[-1]["_id"]}}

    def declare(self, fields: Collection[Path]) -> None:
        """Keep current documents with an index on each of these fields, in ``<name>.documents``."""
        self._fields = frozenset(fields)

    async def _prepare_documents(self, driver: Driver) -> None:
        if self._fields:
            try:
                await self._documents.prepare()
            except StoreUnavailable:
                raise
            except StoreError as error:
                raise StoreConfigError(f"the indexes of {self.name!r} cannot be made: {error}") from None
        elif await warn_of_remains(driver, self.name):
            log.warning(
                "the store %s has no indexes any more, but %s.documents still holds values: drop that collection",
                *(self.name, self.name),
            )

    @property
    def _documents(self) -> Documents:
        if self._driver is None:
            raise ClosedError(f"the store {self.name!r} is not open")
        return Documents(self._driver, self.name, self._fields, self._owner)

    async def index_state(self) -> IndexState:
        """Which indexes are built, and how far they follow the log."""
        return await self._documents.state() if self._fields else IndexState(frozenset(), 0)

    async def candidates(self, query: IndexQuery) -> list[Candidate]:
        """The next keys whose current documents match."""
        return await self._documents.candidates(query)

    async def maintain(self) -> None:
        """Keep the current documents up to date, as long as no other worker does, until cancelled.

        Without declared fields there are none.
        """
        if self._fields:
            await Projector(self, self._opened, self._log, self._documents).maintain()

    async def rebuild(self, progress: Progress) -> None:
        """Make the current documents anew out of the log; a rebuild that was broken off goes on.

        :raises StoreUnavailable: if the database cannot be reached, or somebody else begins the same.
        :raises StoreConfigError: if no fields are declared.
        """
        if not self._fields:
            raise StoreConfigError(f"the store {self.name!r} has no indexes: none are declared for it")
        await self._documents.prepare()
        await Projector(self, self._opened, self._log, self._documents).rebuild(progress)

    def inspection(self) -> MongoInspection:
        """A look through the log as it is."""
        return MongoInspection(self._opened, self._log, self._view, self._retention)

    async def _aggregate(
        self, pipeline: list[dict[str, Any]], after: Fence | None
    ) -> tuple[list[dict[str, Any]], bool]:
        command = {
            "aggregate": self._log,
            "pipeline": pipeline,
            "cursor": {"batchSize": _ONE_BATCH},
            "hint": VERSION_INDEX,
            "readConcern": read_concern(after),
        }
        reply = await self._opened.command(command)
        return await self._first_batch(reply)

    async def _find(
        self, condition: Mapping[str, Any], after: Fence | None = None, **options: Any
    ) -> tuple[list[dict[str, Any]], bool]:
        return await self._rows({"find": self._log, "filter": condition, **options}, after)

    async def _rows(self, command: dict[str, Any], after: Fence | None) -> tuple[list[dict[str, Any]], bool]:
        command["batchSize"] = _ONE_BATCH
        command["readConcern"] = read_concern(after)
        return await self._first_batch(decode_reply(await self._opened.raw_command(command)))

    async def _first_batch(self, reply: dict[str, Any]) -> tuple[list[dict[str, Any]], bool]:
        """The documents of a reply, and whether they are all that was asked for.

        If they are more than fit, the rest is asked for again by whoever asked: a cursor belongs to a session,
        and these commands have none that lasts.
        """
        cursor = reply["cursor"]
        if cursor["id"]:
            await self._opened.command({"killCursors": cursor["ns"].partition(".")[2], "cursors": [cursor["id"]]})
        return cursor["firstBatch"], not cursor["id"]

    @property
    def _opened(self) -> Driver:
        if self._driver is None or not self._ready:
            raise ClosedError(f"the store {self.name!r} is not open")
        return self._driver


def _head_of(row: Mapping[str, Any]) -> Head:
    expires = row["expires"]
    return Head(
        int(row["v"]),
        row["type"] == "saved",
        row["c"],
        int(row["time"]),
        None if expires is None else int(expires),
        row["closed"] is not None,
    )


def _part(documents: list[bytes], start: int) -> list[bytes]:
    """As many documents from ``start`` on as fit into one command, at least one."""
    size = 0
    for index in range(start, len(documents)):
        size += len(documents[index])
        if size > _MAX_INSERT_BYTES:
            return documents[start:index]
    return documents[start:]


def _unknown(records: Sequence[Record]) -> Appended:
    return Appended([Outcome.UNKNOWN] * len(records), None)


def _stopped(records: Sequence[Record], at: int, stop: Outcome | AlreadyApplied) -> Appended:
    outcomes = [Outcome.APPENDED] * at + [stop] + [Outcome.NOT_TRIED] * (len(records) - at - 1)
    return Appended(outcomes, None)


def _is_same(record: Record, there: Record) -> bool:
    """Whether what stands under a record's id was written by this very append, as far as anybody could care."""
    if isinstance(record, Event) != isinstance(there, Event) or record.digest != there.digest:
        return False
    one, other = (getattr(each, "version", 0) for each in (record, there))
    return (record.key, record.time, one) == (there.key, there.time, other)
