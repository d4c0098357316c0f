"""The collections that queries of a MongoStore rest on: current documents, and how far they are known to be."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import bson
from bson import Int64, Timestamp
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument

from ..events import StoreUnavailable
from ..events.queries import Path
from .documents import decode_reply
from .driver import Driver
from .indexes import Candidate, IndexQuery, IndexState, QueryTimeoutError
from .projection import FORMAT, condition_of, index_of, order_of, position_of, slot, to_current
from .verdicts import DUPLICATE_KEY

#: Milliseconds for which a projector holds its office without saying so again.
LEASE_MS: Final = 10_000

#: Bytes of one write. With one document more it is still one that MongoDB takes.
_WRITE_BYTES: Final = 2 * 1024 * 1024

_LONG_AGO: Final = DatetimeMS(0)

_ONE_BATCH: Final = 1_000_000
_MAX_TIME_EXPIRED: Final = 50
_NAMESPACE_NOT_FOUND: Final = 26


class Building(NamedTuple):
    """A rebuild that has begun."""

    #: The slots of the fields that it is for.
    fields: list[str]
    #: The last key that is done; None before the first.
    after: str | None
    #: When it began, in the replica set's log.
    start: Timestamp
    #: Events that it has passed, of about so many.
    done: int
    total: int


class Standing(NamedTuple):
    """How far the documents are."""

    #: The slots that all documents have.
    built: list[str]
    #: Service time; what was acknowledged before is in them.
    as_of: int
    #: Where to follow the log from: a resume token, or else a time.
    token: Mapping[str, Any] | None
    start: Timestamp | None
    building: Building | None


class Documents:
    """The current documents of one store."""

    def __init__(self, driver: Driver, name: str, fields: Collection[Path], owner: str) -> None:
        """Make one.

        :param owner: who this is, when it comes to holding the office of the projector.
        """
        self.collection = f"{name}.documents"
        self.fields = tuple(sorted(fields))
        #: As they are noted.
        self.slots = sorted(map(slot, fields))
        self._driver = driver
        self._name = name
        self._owner = owner

    async def prepare(self) -> None:
        """Make the collection and its indexes, and drop those that are declared no longer.

        :raises StoreUnavailable: if the database cannot be reached.
        """
        wanted = [index_of(path) for path in self.fields]
        command = {"createIndexes": self.collection, "indexes": wanted, "writeConcern": {"w": "majority"}}
        await self._driver.command(command)
        listed = await self._driver.command({"listIndexes": self.collection, "cursor": {"batchSize": _ONE_BATCH}})
        names = {index["name"] for index in wanted} | {"_id_"}
        for index in listed["cursor"]["firstBatch"]:
            if index["name"] not in names:
                await self._driver.command({"dropIndexes": self.collection, "index": index["name"]})
        # Whose the office is, is decided by updates of this document, so that it has to be there.
        document = {"_id": self._name, "built": [], "as_of": Int64(0), "format": FORMAT}
        insert = {"insert": "projectors", "documents": [document], "writeConcern": {"w": "majority"}}
        _check(await self._driver.command(insert), tolerate=DUPLICATE_KEY)

    # -- for queries

    async def state(self) -> IndexState:
        """What the documents can be used for."""
        standing = await self.standing()
        built = set(standing.built)
        return IndexState(frozenset(path for path in self.fields if slot(path) in built), standing.as_of)

    async def candidates(self, query: IndexQuery) -> list[Candidate]:
        """The next keys whose documents match.

        :raises QueryTimeoutError: if the server takes longer than it may.
        """
        command = {
            "find": self.collection,
            "filter": condition_of(query),
            "sort": order_of(query),
            "limit": query.limit,
            "batchSize": _ONE_BATCH,
            "projection": {"x": 1},
            "allowDiskUse": True,
            "readConcern": {"level": "majority"},
        }
        reply = decode_reply(await self._driver.raw_command(command, tolerate=[_MAX_TIME_EXPIRED]))
        if not reply["ok"]:
            raise QueryTimeoutError("the indexes took too long")
        return [Candidate(one["_id"], position_of(one, query)) for one in reply["cursor"]["firstBatch"]]

    # -- for the projector

    async def standing(self) -> Standing:
        """How far the documents are."""
        find = {"find": "projectors", "filter": {"_id": self._name}, "readConcern": {"level": "majority"}}
        rows = decode_reply(await self._driver.raw_command(find))["cursor"]["firstBatch"]
        if not rows or rows[0].get("format") != FORMAT:
            return Standing([], 0, None, None, None)
        row = rows[0]
        building = row.get("building")
        return Standing(
            built=row["built"],
            as_of=row["as_of"],
            token=row.get("token"),
            start=row.get("start"),
            building=None if building is None else Building(**building),
        )

    async def take_office(self, *, by_force: bool = False) -> bool:
        """Become the projector, if nobody is; says whether this is it now.

        :param by_force: also if somebody else is. Two at once do no harm, since nothing goes back to an older version.
        """
        free = {"$lt": [{"$ifNull": ["$until", _LONG_AGO]}, "$$NOW"]}
        condition = {} if by_force else {"$expr": {"$or": [{"$eq": ["$owner", {"$literal": self._owner}]}, free]}}
        return await self._update({"_id": self._name, **condition}, {})

    async def leave_office(self) -> None:
        """Let another one have it at once."""
        await self._update({"_id": self._name, "owner": self._owner}, {"until": _LONG_AGO})

    async def note(self, **changes: Any) -> bool:
        """Note how far it is, and hold the office on. False if another one has it.

        :param changes: fields with their values; one that is None is removed.
        """
        removed = [name for name, value in changes.items() if value is None]
        values = {name: {"$literal": value} for name, value in changes.items() if value is not None}
        return await self._update({"_id": self._name, "owner": self._owner}, values, removed)

    async def _update(self, condition: dict[str, Any], values: dict[str, Any], removed: Sequence[str] = ()) -> bool:
        until = {"$add": ["$$NOW", LEASE_MS]}
        pipeline: list[dict[str, Any]] = [{"$set": {"owner": {"$literal": self._owner}, "until": until, **values}}]
        if removed:
            pipeline.append({"$unset": list(removed)})
        update = {"q": condition, "u": pipeline}
        write_concern = {"w": "majority", "j": True, "wtimeout": self._driver.max_time_ms * 9 // 10}
        reply = await self._driver.command({"update": "projectors", "updates": [update], "writeConcern": write_concern})
        _check(reply)
        return bool(reply["n"])

    async def put(self, records: Iterable[Mapping[str, Any]], *, anew: bool = False) -> None:
        """Bring documents up to these, out of the log. Those that are newer stay as they are.

        :param anew: replace those of the same version, too.
        """
        older = "$lte" if anew else "$lt"
        updates: list[bytes] = []
        deletes: list[bytes] = []
        for record in records:
            version = Int64(record["version"])
            if record["type"] == "saved" and "value" in record:
                document = to_current(record, self.fields)
                condition = {"_id": record["key"], "version": {older: version}}
                updates.append(bson.encode({"q": condition, "u": document, "upsert": True}))
            else:
                condition = {"_id": record["key"], "version": {"$lte": version}}
                deletes.append(bson.encode({"q": condition, "limit": 1}))
        for part in _parts(updates):
            reply = await self._driver.command({"update": self.collection, "updates": part, "ordered": False})
            # There is a newer one, so that the condition found none, and no other can be put in its place.
            _check(reply, tolerate=DUPLICATE_KEY)
        for part in _parts(deletes):
            _check(await self._driver.command({"delete": self.collection, "deletes": part, "ordered": False}))

    async def keep_only(self, keys: Collection[str], *, after: str | None, up_to: str | None) -> None:
        """Remove the documents of other keys between these two: greater than the one, not greater than the other."""
        span: dict[str, Any] = {"$nin": list(keys)}
        span |= {} if after is None else {"$gt": after}
        span |= {} if up_to is None else {"$lte": up_to}
        delete = {"q": {"_id": span}, "limit": 0}
        _check(await self._driver.command({"delete": self.collection, "deletes": [delete]}))


async def warn_of_remains(driver: Driver, name: str) -> bool:
    """Whether there are documents that are of no use any more, but still hold values."""
    listing = {"listCollections": 1, "filter": {"name": f"{name}.documents"}, "nameOnly": True, "cursor": {}}
    return bool((await driver.command(listing))["cursor"]["firstBatch"])


def _parts(statements: Sequence[bytes]) -> Iterable[list[RawBSONDocument]]:
    part: list[RawBSONDocument] = []
    size = 0
    for statement in statements:
        if part and size + len(statement) > _WRITE_BYTES:
            yield part
            part, size = [], 0
        part.append(RawBSONDocument(statement))
        size += len(statement)
    if part:
        yield part


def _check(reply: Mapping[str, Any], tolerate: int | None = None) -> None:
    errors = [error for error in reply.get("writeErrors", ()) if error.get("code") != tolerate]
    if errors or reply.get("writeConcernError"):
        raise StoreUnavailable("a write of the current documents was not confirmed")
