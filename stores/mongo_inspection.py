"""Looking through a log in MongoDB as it is. Nothing is taken for granted of its documents and indexes."""

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import bson
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random_exponential

from ..events import Event, InvalidError, Record, StoreUnavailable, check_id, check_key, check_value
from .documents import decode_reply, documents_of, id_of, to_record
from .driver import Driver
from .inspection import EventPage, Malformed, Place, RecordPage
from .interface import Fence
from .mongo_retention import MongoRetention
from .queries import HAS_VERSION, NEWEST_FIRST, MongoFence, read_concern
from .retention import Mark
from .setup import CURRENT_VIEW, FIRST_INDEX, LOG_INDEX, SWEEP_INDEX

#: Documents that are asked for at a time.
_PAGE: Final = 2000
#: More than any reply has, so that none is cut short but by MongoDB's 16 MiB.
_ONE_BATCH: Final = 1_000_000
#: Places that are asked for at a time.
_PLACES: Final = 200

_BY_KEY: Final[dict[str, int]] = NEWEST_FIRST["$sort"]
_BY_ID: Final = {"_id": 1}

_COMMON: Final = frozenset({"_id", "key", "type", "time", "digest"})
_REQUIRED: Final = {
    "saved": _COMMON | {"version", "value"},
    "deleted": _COMMON | {"version"},
    "purged": _COMMON | {"version"},
    "expired": _COMMON | {"version"},
    "refused": _COMMON | {"answer"},
    "transacted": _COMMON | {"answer", "events"},
}
#: A stub is one by what it lacks.
_OF_STUBS: Final = _COMMON | {"version", "stripped"}
_ERASED: Final = frozenset({"value", "patch", "metadata", "messages", "correlation_id", "causation_id"})
_IDS: Final = ("author", "correlation_id", "causation_id")
_OPTIONAL: Final = frozenset({*_IDS, "metadata", "messages", "restored", "first", "closed"})
_OF_RECEIPTS: Final = frozenset({"author", "metadata", "messages", "at"})
#: What only a saved one may have: when it expires, and a mark of the patch that made it.
_OF_SAVED: Final = frozenset({"expires", "patch"})
_MARK: Final = re.compile("[0-9a-f]{32}", re.ASCII)
_DIGEST_BYTES: Final = 8
#: In the place of what is not there.
_DATE: Final = DatetimeMS(0)
_NO_PATCH: Final = "0" * 32

_NAMESPACE_NOT_FOUND: Final = 26

#: What an index may say besides what makes it ours.
_INDEX_TRIVIA: Final = frozenset({"v", "ns", "background"})

#: A change of primaries takes some seconds, and is nothing to give up for.
_patiently = retry(
    retry=retry_if_exception_type(StoreUnavailable),
    wait=wait_random_exponential(multiplier=0.2, max=2),
    stop=stop_after_delay(20),
    reraise=True,
)


class _Undecodable(NamedTuple):
    """A document that the driver cannot read."""

    id: str
    reason: str


class _Page(NamedTuple):
    documents: list[dict[str, Any] | _Undecodable]
    after: MongoFence


class MongoInspection:
    """A look through the log in one collection."""

    def __init__(self, driver: Driver, log: str, view: str, retention: MongoRetention) -> None:
        self._driver = driver
        self._log = log
        self._view = view
        self._retention = retention

    @_patiently
    async def mark(self) -> Mark:
        """As it is at this moment."""
        return await self._retention.mark()

    async def count(self) -> int:
        """About how many documents there are, from the collection's statistics. It is not tried again."""
        return int((await self._driver.command({"count": self._log}))["n"])

    async def definition_faults(self) -> list[str]:
        """What is wrong with the indexes, the view and the collection."""
        listing = {"listCollections": 1, "filter": {"name": {"$in": [self._log, self._view]}}, "cursor": {}}
        found = {one["name"]: one for one in (await self._command(listing))["cursor"]["firstBatch"]}
        if self._log not in found:
            return [f"the collection {self._log} does not exist"]
        faults = _collection_faults(self._log, found[self._log])
        faults += _index_faults(await self._indexes())
        view = found.get(self._view)
        if view is None:
            faults.append(f"the view {self._view} does not exist")
        elif view["type"] != "view" or view["options"] != {"viewOn": self._log, "pipeline": CURRENT_VIEW}:
            faults.append(f"{self._view} is not the view that a worker creates")
        return faults

    async def events(self) -> AsyncIterator[EventPage]:
        """Every event, key by key, the newest version of each first.

        Without the index the database sorts all events for each page, which takes its time.
        """
        indexes = [index["name"] for index in await self._indexes() if _serves(index)]
        scan = _Scan(self, HAS_VERSION, _BY_KEY, index=indexes[0] if indexes else None)
        async for page in scan.pages():
            records = map(_record, page.documents)
            yield EventPage([record for record in records if isinstance(record, Event | Malformed)], page.after)

    async def records(self) -> AsyncIterator[RecordPage]:
        """Every record, in the order of the ids."""
        scan = _Scan(self, {}, _BY_ID, index="_id_", projection={"version": 1})
        async for page in scan.pages():
            ids: list[Place] = []
            wanted: list[Any] = []
            others: list[Record | Malformed] = []
            for document in page.documents:
                if isinstance(document, _Undecodable):
                    others.append(_malformed(document))
                    continue
                version = document.get("version")
                # Only what the index on (key, version) holds comes with the events.
                is_event = isinstance(version, int | float) and version > 0
                command_id = _command_id(document["_id"])
                if command_id is not None:
                    ids.append(Place(command_id, _position(document["_id"]), is_event))
                if not is_event:
                    wanted.append(document["_id"])
            others += [one for _, one in await self._find(wanted, page.after)]
            yield RecordPage(ids, others, page.after)

    async def find(self, ids: Collection[str], after: Fence) -> dict[str, Record | Malformed]:
        """What stands in the log under these command ids."""
        found = await self._find([id_of(command_id) for command_id in sorted(ids)], after)
        return {document["_id"]["c"]: record for document, record in found if not isinstance(document, _Undecodable)}

    async def at(self, places: Collection[tuple[str, int]], after: Fence) -> dict[tuple[str, int], Record | Malformed]:
        """What stands in the log at (key, version)."""
        found: dict[tuple[str, int], Record | Malformed] = {}
        rest = set(places)
        while rest:
            chunk = list(rest)[:_PLACES]
            conditions = [{"key": key, "version": version} for key, version in chunk]
            page = await self.page({"filter": {"$or": conditions}, "readConcern": read_concern(after)})
            readable = [document for document in page.documents if not isinstance(document, _Undecodable)]
            seen = {(document["key"], document["version"]): _record(document) for document in readable}
            found |= seen
            # What is missing may not have fit into the reply; if nothing came, there is nothing.
            rest -= seen.keys() if seen else set(chunk)
        return found

    async def _find(
        self, ids: Sequence[Any], after: Fence
    ) -> list[tuple[dict[str, Any] | _Undecodable, Record | Malformed]]:
        """Documents by their ids, in the order of the ids."""
        found: list[tuple[dict[str, Any] | _Undecodable, Record | Malformed]] = []
        while ids:
            options = {"filter": {"_id": {"$in": ids}}, "sort": _BY_ID, "readConcern": read_concern(after)}
            page = await self.page(options)
            found += [(document, _record(document)) for document in page.documents]
            # A reply holds at most 16 MiB.
            seen = {_name(document) for document in page.documents}
            rest = [id_ for id_ in ids if repr(id_) not in seen]
            if len(rest) == len(ids):
                break
            ids = rest
        return found

    async def page(self, options: Mapping[str, Any]) -> _Page:
        """Documents as far as they fit into one reply, and the point in the log that they are of."""
        command = {"find": self._log, "readConcern": read_concern(None), **options}
        # What does not fit into one reply is asked for again, by its place.
        command |= {"batchSize": _ONE_BATCH, "singleBatch": True}
        documents: list[dict[str, Any] | _Undecodable]
        reply = await self._raw_command(command)
        try:
            decoded = decode_reply(reply)
            documents, time = decoded["cursor"]["firstBatch"], decoded["operationTime"]
        except (BSONError, UnicodeError, ValueError, OverflowError):
            raws, time = documents_of(reply)
            documents = [_decode(raw) for raw in raws]
        return _Page(documents, MongoFence(time))

    async def _indexes(self) -> list[dict[str, Any]]:
        listing = await self._command({"listIndexes": self._log, "cursor": {}}, tolerate=[_NAMESPACE_NOT_FOUND])
        return [dict(index) for index in listing["cursor"]["firstBatch"]] if listing["ok"] else []

    @_patiently
    async def _command(self, command: Mapping[str, Any], *, tolerate: Sequence[int] = ()) -> dict[str, Any]:
        return await self._driver.command(dict(command), tolerate=tolerate)

    @_patiently
    async def _raw_command(self, command: Mapping[str, Any]) -> bytes:
        return await self._driver.raw_command(dict(command))


class _Scan:
    """All documents that meet a condition, a page at a time, in the order of an index."""

    def __init__(
        self,
        inspection: MongoInspection,
        condition: Mapping[str, Any],
        order: Mapping[str, int],
        *,
        index: str | None,
        projection: Mapping[str, int] | None = None,
    ) -> None:
        self._inspection = inspection
        self._options: dict[str, Any] = {"sort": dict(order)}
        self._condition = condition
        self._order = order
        if projection is not None:
            self._options["projection"] = projection
        self._indexed = index is not None
        if index is not None:
            self._options["hint"] = index
        else:
            # An index has one order for what has the same place; a sort has to be told.
            self._options["sort"] = {**order, "_id": 1}
            self._options["allowDiskUse"] = True
        #: Where the next page begins, and the ids of what was shown from there on.
        self._place: dict[str, Any] | None = None
        self._shown: set[str] = set()

    async def pages(self) -> AsyncIterator[_Page]:
        """The pages. While one is looked at, the next one is on its way."""
        coming = asyncio.ensure_future(self._next())
        try:
            while (page := await coming).documents:
                coming = asyncio.ensure_future(self._next())
                yield page
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)

    async def _next(self) -> _Page:
        # What is shown again at the beginning must not be all there is on a page.
        options = {**self._options, "filter": self._condition, "limit": _PAGE + len(self._shown)}
        if self._place is not None and self._indexed:
            # Unlike a condition with $gt this goes on past the end of a BSON type.
            options["min"] = self._place
        elif self._place is not None:
            options["filter"] = {"$and": [self._condition, {"$expr": _from(self._place, self._order)}]}
        documents, after = await self._inspection.page(options)
        # It begins with what was shown of its place.
        again = len(self._shown)
        fresh = [document for document in documents[:again] if _name(document) not in self._shown] + documents[again:]
        self._go_on_from(fresh)
        return _Page(fresh, after)

    def _go_on_from(self, documents: Sequence[dict[str, Any] | _Undecodable]) -> None:
        """The next page begins where the last document is that can be read: several may have one place."""
        for document in reversed(documents):
            if not isinstance(document, _Undecodable):
                # The order of the fields is the index's.
                place = {name: document.get(name) for name in self._order}
                break
        else:
            self._shown.update(map(_name, documents))
            return
        if place != self._place:
            self._place = place
            self._shown = set()
        for document in reversed(documents):
            if not isinstance(document, _Undecodable) and any(document.get(name) != place[name] for name in place):
                break
            self._shown.add(_name(document))


def _from(place: Mapping[str, Any], order: Mapping[str, int]) -> dict[str, Any]:
    """The condition on what is at a place or behind it, as an expression: these compare values of all types."""
    conditions: list[dict[str, Any]] = []
    equal: list[dict[str, Any]] = []
    for name, direction in order.items():
        sides = [f"${name}", {"$literal": place[name]}]
        conditions.append({"$and": [*equal, {"$gt" if direction > 0 else "$lt": sides}]})
        equal.append({"$eq": sides})
    return {"$or": [*conditions, {"$and": equal}]}


def _name(document: dict[str, Any] | _Undecodable) -> str:
    return document.id if isinstance(document, _Undecodable) else repr(document["_id"])


def _decode(raw: bytes) -> dict[str, Any] | _Undecodable:
    try:
        return decode_reply(raw)
    except (BSONError, UnicodeError, ValueError, OverflowError) as error:
        try:
            name = repr(bson.decode(raw, bson.CodecOptions(unicode_decode_error_handler="backslashreplace"))["_id"])
        except (BSONError, UnicodeError, ValueError, OverflowError):
            name = raw[:64].hex()
        return _Undecodable(name, f"cannot be decoded: {error}")


def _record(document: dict[str, Any] | _Undecodable) -> Record | Malformed:
    if isinstance(document, _Undecodable):
        return _malformed(document)
    reason = fault_of(document)
    if reason is None:
        return to_record(document)
    key, version = document.get("key"), document.get("version")
    return Malformed(
        _text_of_id(document["_id"]),
        key if isinstance(key, str) else None,
        int(version) if isinstance(version, int | float) and version == version // 1 else None,
        reason,
    )


def _malformed(document: _Undecodable) -> Malformed:
    return Malformed(document.id, None, None, document.reason)


def fault_of(document: Mapping[str, Any]) -> str | None:
    """What keeps a document from being one that a worker writes; None if nothing does."""
    kind = document.get("type")
    kind = kind if type(kind) is str else repr(kind)
    fault = _id_fault(document["_id"], is_event="version" in _REQUIRED.get(kind, ()))
    if fault is not None:
        return fault
    required = _REQUIRED.get(kind)
    if required is None:
        return f"type is {document.get('type')!r}"
    names = document.keys()
    if names != required:
        if kind != "refused" and "stripped" in names:
            required = _OF_STUBS
            if document["stripped"] is not True:
                return f"stripped is {document['stripped']!r}"
            if names & _ERASED:
                return f"is a stub, and has the field {_list(names & _ERASED)}"
        if not names >= required:
            return f"lacks {_list(required - names)}"
        optional = _OF_RECEIPTS if kind == "transacted" else _OPTIONAL | (_OF_SAVED if kind == "saved" else frozenset())
        if not names <= required | optional:
            return f"has the unknown field {_list(names - required - optional)}"
        for name in _IDS:
            if type(document.get(name, "")) is not str:
                return f"{name} is no text"
        metadata = document.get("metadata", {})
        if type(metadata) is not dict or any(type(text) is not str for text in metadata.values()):
            return "metadata is no object of texts"
    for name in ("time", "expires"):
        if type(document.get(name, _DATE)) is not datetime and not isinstance(document.get(name, _DATE), DatetimeMS):
            return f"{name} is no date"
    mark = document.get("patch", _NO_PATCH)
    if type(mark) is not str or not _MARK.fullmatch(mark):
        return "patch is not 32 hex digits"
    if type(document["digest"]) is not bytes or len(document["digest"]) != _DIGEST_BYTES:
        return f"digest is not {_DIGEST_BYTES} bytes"
    if type(document["key"]) is not str:
        return "key is no text"
    try:
        check_key(document["key"])
        if kind == "transacted" and (type(document["events"]) is not int or document["events"] < 0):
            return f"events is {document['events']!r}"
        if "answer" not in document:
            return _event_fault(document)
        return _answer_fault(document["answer"]) or _carrying_fault(document)
    except InvalidError as error:
        return f"cannot be read: {error}"


def _event_fault(document: Mapping[str, Any]) -> str | None:
    version = document["version"]
    if type(version) is not int or version < 1:
        return f"version is {version!r}"
    if "value" in document:
        check_value(document["value"])
    restored = document.get("restored", 1)
    if type(restored) is not int or not 1 <= restored <= version:
        return f"restored is {restored!r}"
    if document.get("first", True) is not True:
        return f"first is {document['first']!r}"
    closed = document.get("closed", document["time"])
    if type(closed) is not datetime and not isinstance(closed, DatetimeMS):
        return "closed is no date"
    if document["type"] == "saved" and "closed" in document:
        return "is closed, and the key is there"
    return None


def _answer_fault(answer: Any) -> str | None:
    check_value(answer)
    return None if type(answer) is dict and "status" in answer else "answer is none"


def _carrying_fault(document: Mapping[str, Any]) -> str | None:
    """What would keep the messages of a receipt from being found when they are to be erased."""
    at = document.get("at", 0)
    if type(at) is not int or at < 0 or ("at" in document) != ("messages" in document):
        return f"has {'messages' if 'messages' in document else 'none'}, and at is {document.get('at')!r}"
    return None


def _id_fault(id_: Any, *, is_event: bool) -> str | None:
    if type(id_) is not dict or tuple(id_) != ("c", "n") or type(id_["c"]) is not str or type(id_["n"]) is not int:
        return "_id is not a command id and a position"
    if id_["n"] < 0 or (id_["n"] > 0 and not is_event):
        return f"_id has the position {id_['n']}, where only events of a transaction have one, from 1 on"
    try:
        check_id(id_["c"])
    except InvalidError as error:
        return f"_id is no command id: {error}"
    return None


def _command_id(id_: Any) -> str | None:
    """The command id in an ``_id``, whatever stands beside it. They come in its order if it comes first."""
    return id_["c"] if type(id_) is dict and next(iter(id_), None) == "c" and type(id_["c"]) is str else None


def _position(id_: dict[str, Any]) -> int:
    position = id_.get("n")
    return position if type(position) is int else 0


def _text_of_id(id_: Any) -> str:
    return _command_id(id_) or repr(id_)


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(map(repr, names)))


def _collection_faults(name: str, found: Mapping[str, Any]) -> list[str]:
    if found["type"] != "collection":
        return [f"{name} is a {found['type']} and no plain collection"]
    # A capped collection forgets, a collation makes different keys equal, and a validator refuses what must go in.
    strange = found["options"].keys() - {"storageEngine", "indexOptionDefaults"}
    return [f"the collection {name} has the option {option}, which no worker sets" for option in sorted(strange)]


def _index_faults(indexes: Sequence[Mapping[str, Any]]) -> list[str]:
    faults: list[str] = []
    named = {index["name"]: index for index in indexes}
    by_id = {"name": "_id_", "key": {"_id": 1}}
    wanted = {index["name"]: index for index in (by_id, LOG_INDEX, SWEEP_INDEX)}
    for name, definition in wanted.items():
        index = named.get(name)
        if index is None:
            faults.append(f"the index {name} does not exist")
        elif _definition(index) != _definition(definition):
            faults.append(f"the index {name} is not the one that decides: it is {_definition(index)}")
    for name, index in named.items():
        if name in wanted or (name == FIRST_INDEX["name"] and _definition(index) == _definition(FIRST_INDEX)):
            continue
        if index.get("unique"):
            faults.append(f"the unique index {name} is not Holdfast's and can refuse events")
        if "expireAfterSeconds" in index:
            faults.append(f"the index {name} deletes documents after {index['expireAfterSeconds']} s")
    return faults


def _serves(index: Mapping[str, Any]) -> bool:
    """Whether events can be read along an index, unique or not."""
    partial = index.get("partialFilterExpression", HAS_VERSION)
    return list(index["key"].items()) == list(_BY_KEY.items()) and partial == HAS_VERSION and "collation" not in index


def _definition(index: Mapping[str, Any]) -> dict[str, Any]:
    # Objects compare without the order of their members, which an index's key has.
    plain = {name: item for name, item in index.items() if name not in _INDEX_TRIVIA}
    return {**plain, "key": list(index["key"].items())}
