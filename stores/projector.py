"""The projector: keeps a MongoStore's current documents up to date with its log.

It follows the log by a change stream, from where it was, and notes where it is behind what it has written: whoever
goes on there repeats some of it at worst, which changes nothing, because no document goes back to an older version.
Of all workers one holds the office, by a lease; should two of them hold it for a moment, both write the same.

A rebuild goes through the log key by key, and then follows it from the time when it began.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from bson import Int64

from ..events import StoreError, StoreUnavailable
from .documents import GUARD, decode_reply
from .driver import Driver
from .indexes import Progress
from .interface import EventStore
from .mongo_documents import Building, Documents, Standing
from .projection import FORMAT
from .queries import MongoFence

log = logging.getLogger("holdfast.stores")

#: Seconds until the office is asked for again, and after an error.
PAUSE = 2.0
#: Milliseconds that the server waits for something to come.
AWAIT_MS = 1000
#: Events that are taken at a time.
BATCH = 500
#: Keys of a rebuild between two notes of how far it is.
PAGE = 500

#: ChangeStreamHistoryLost, ChangeStreamFatalError, InvalidResumeToken: there is no way from there to here.
_LOST: Final = (286, 280, 260)
#: CursorNotFound, CursorKilled, QueryPlanKilled: as after a change of primaries.
_GONE: Final = (43, 237, 175)


class LeftBehindError(StoreError):
    """There is no way from where the documents are to what is appended now."""


class Projector:
    """Keeps the documents of one store."""

    def __init__(self, store: EventStore, driver: Driver, log_name: str, documents: Documents) -> None:
        self._store = store
        self._driver = driver
        self._log = log_name
        self._documents = documents

    async def maintain(self) -> None:
        """Work until cancelled, whenever the office is free."""
        while True:
            try:
                if await self._documents.take_office():
                    await self._hold_office()
            except StoreError as fault:
                log.warning("the indexes of %s are not kept up to date, again in %g s: %s", self._log, PAUSE, fault)
            except asyncio.CancelledError:
                await self._leave()
                raise
            except Exception:
                log.exception("the indexes of %s are not kept up to date, again in %g s", self._log, PAUSE)
            await asyncio.sleep(PAUSE)

    async def rebuild(self, progress: Progress) -> None:
        """Take the office, and build all anew; go on with what was begun."""
        await self._documents.take_office(by_force=True)
        try:
            standing = await self._documents.standing()
            if standing.building is None or standing.building.fields != self._documents.slots:
                await self._begin()
            await self._build(progress)
        finally:
            await self._leave()

    async def _leave(self) -> None:
        try:
            await self._documents.leave_office()
        except StoreError as fault:
            # It ends by itself, soon.
            log.info("the projector's office was not given back: %s", fault)

    async def _hold_office(self) -> None:
        standing = await self._documents.standing()
        if standing.building is not None and standing.building.fields == self._documents.slots:
            await self._build(_untold)
        elif standing.built != self._documents.slots or (standing.token is None and standing.start is None):
            await self._begin()
            await self._build(_untold)
        try:
            await self._follow(await self._documents.standing())
        except LeftBehindError as lost:
            log.warning("the indexes of %s are built anew: %s", self._log, lost)
            await self._begin()

    # -- from the beginning

    async def _begin(self) -> None:
        fence = await self._store.fence()
        if not isinstance(fence, MongoFence):
            raise TypeError(f"not a fence of this store: {fence!r}")
        total = int((await self._driver.command({"count": self._log}))["n"])
        building = Building(self._documents.slots, None, fence.time, 0, total)
        # What was built goes on being used, unless it is of another format.
        built = (await self._documents.standing()).built
        await self._note(building=building._asdict(), built=built, format=FORMAT)

    async def _build(self, progress: Progress) -> None:
        """Go through all keys, from where it was."""
        building = (await self._documents.standing()).building
        if building is None:
            raise StoreUnavailable("the rebuild was ended by somebody else")
        log.info("the indexes of %s are being built, from %s", self._log, building.after or "the beginning")
        after: str | None = building.after
        done = building.done
        while True:
            progress(min(done, building.total), building.total)
            page = await self._store.keys(after=after, limit=PAGE)
            last = page.next
            records, seen = await self._newest(page.keys)
            await self._documents.put(records.values(), anew=True)
            there = [key for key, record in records.items() if record["type"] == "saved"]
            await self._documents.keep_only(there, after=after, up_to=last)
            done += seen
            if last is None:
                break
            after = last
            await self._note(building={**building._asdict(), "after": after, "done": done})
        progress(building.total, building.total)
        as_of = Int64(building.start.time * 1000)
        await self._note(built=self._documents.slots, building=None, token=None, start=building.start, as_of=as_of)
        log.info("the indexes of %s are built", self._log)

    async def _newest(self, keys: list[str]) -> tuple[dict[str, Mapping[str, Any]], int]:
        """The newest documents of these keys in the log, and how many events they have, about."""
        records: dict[str, Mapping[str, Any]] = {}
        missing = keys
        while missing:
            # Not their values together with the look for the newest, which would hold all of them.
            versions = await self._store.versions(missing)
            found = await self._documents_at(versions)
            if not found:
                break
            records |= found
            missing = [key for key in missing if key not in records]
        return records, sum(record["version"] for record in records.values())

    async def _documents_at(self, versions: Mapping[str, int]) -> dict[str, Mapping[str, Any]]:
        by_version: dict[int, list[str]] = {}
        for key, version in versions.items():
            by_version.setdefault(version, []).append(key)
        conditions = [{"version": Int64(version), "key": {"$in": keys}} for version, keys in by_version.items()]
        if not conditions:
            return {}
        find = {"find": self._log, "filter": {"$or": conditions}, "singleBatch": True, "batchSize": len(versions)}
        find["readConcern"] = {"level": "majority"}
        rows = decode_reply(await self._driver.raw_command(find))["cursor"]["firstBatch"]
        return {row["key"]: row for row in rows}

    async def _note(self, **changes: Any) -> None:
        if not await self._documents.note(**changes):
            raise StoreUnavailable("another worker keeps them now")

    # -- from there on

    async def _follow(self, standing: Standing) -> None:
        """Take in what is appended, until the office is lost.

        :raises LeftBehindError: if there is no way from there to here.
        """
        options: dict[str, Any] = {}
        if standing.token is not None:
            options["resumeAfter"] = standing.token
        else:
            options["startAtOperationTime"] = standing.start
        # Guards of transactions were gone again before anybody could see them, but here they are told of.
        only_events = {
            "operationType": "insert",
            "fullDocument.version": {"$gt": 0},
            "fullDocument.type": {"$ne": GUARD},
        }
        command = {
            "aggregate": self._log,
            "pipeline": [{"$changeStream": options}, {"$match": only_events}],
            "cursor": {"batchSize": 0},
            "readConcern": {"level": "majority"},
        }
        async with self._driver.session() as session:
            cursor = (await self._ask(command, session))["cursor"]
            as_of = standing.as_of
            while True:
                now = await self._store.service_time()
                # A majority write between the time and the look: a deposed primary has nothing new to tell, and does
                # not get that far.
                await self._note(as_of=Int64(as_of), token=cursor["postBatchResumeToken"], start=None)
                wait = min(AWAIT_MS, self._driver.max_time_ms // 2)
                more = {"getMore": Int64(cursor["id"]), "collection": self._log, "batchSize": BATCH, "maxTimeMS": wait}
                cursor = (await self._ask(more, session))["cursor"]
                events = cursor["nextBatch"]
                if events:
                    latest: dict[str, Mapping[str, Any]] = {}
                    for event in events:
                        record = event["fullDocument"]
                        if record["key"] not in latest or latest[record["key"]]["version"] < record["version"]:
                            latest[record["key"]] = record
                    await self._documents.put(latest.values())
                    # They come in the order of these times.
                    reached = events[-1]["clusterTime"].time * 1000
                    as_of = max(as_of, reached) if reached <= now else as_of
                else:
                    # There was nothing left of what came before.
                    as_of = max(as_of, now)
                if not cursor["id"]:
                    raise LeftBehindError("the log was dropped, as before a restore")

    async def _ask(self, command: dict[str, Any], session: Any) -> dict[str, Any]:
        reply = decode_reply(await self._driver.raw_command(command, tolerate=[*_LOST, *_GONE], session=session))
        if reply["ok"]:
            return reply
        if reply["code"] in _LOST:
            raise LeftBehindError("the oplog does not reach back to where they are; see that it holds more than a day")
        raise StoreUnavailable("the log's change stream was cut off")


def _untold(done: int, total: int) -> None:
    """Nobody asks."""
