"""The rules of a log, as plain functions of its records. What breaks one is a fault of the log, whoever made it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .events import Event, Receipt, Record, Refusal, Status
from .events.limits import FOREVER
from .events.outbox import messages_text
from .events.records import expiry_digest, make_digest, patch_mark, restored_text, value_text, with_messages
from .stores import Head, Malformed, Mark, Place


class Rule(StrEnum):
    """What is broken."""

    #: Both indexes, the view and the collection are as a worker makes them.
    DEFINITION = "definition"
    #: Every document is a record, with the fields of its type and no others, and can be read.
    RECORD = "record"
    #: A command id stands in the log once, but for the events of a transaction, which have positions.
    ID = "id"
    #: The versions of a key are 1, 2, 3, … without gaps and without repeats, but for the oldest, if they were dropped.
    VERSION = "version"
    #: A key's times never run backwards.
    TIME = "time"
    #: What was absent is not deleted.
    DELETE = "delete"
    #: What expires does so at its time: the next event says so, unless it is of before that time.
    EXPIRY = "expiry"
    #: An event's digest is that of a command that could have made it: of its key, value, metadata and predecessor. A
    #: patch is not kept, but for its own digest and that of the value that came of it. Of a stub it cannot be told.
    DIGEST = "digest"
    #: A value that was restored is the one of its version, as long as that has it.
    RESTORED = "restored"
    #: The recorded answer of a refusal is one that was right at some time.
    ANSWER = "answer"
    #: A transaction is there as a whole: its receipt, and exactly the events that this tells of.
    TRANSACTION = "transaction"
    #: The newest event of a key is what lookups say.
    CURRENT = "current"


@dataclass(frozen=True, slots=True)
class Fault:
    """A rule that is broken, and where."""

    rule: Rule
    message: str
    key: str | None = None
    version: int | None = None
    #: The command id.
    id: str | None = None

    def __str__(self) -> str:
        place = [f"key {self.key!r}"] if self.key is not None else []
        place += [f"version {self.version}"] if self.version is not None else []
        place += [f"id {self.id!r}"] if self.id is not None else []
        return f"{self.rule}: {', '.join(place)}{': ' if place else ''}{self.message}"


def malformed_fault(document: Malformed) -> Fault:
    """The fault of a document that is no record."""
    return Fault(Rule.RECORD, document.reason, document.key, document.version, document.id)


class Succession:
    """Follows events key by key, the newest version of each key first.

    An event is judged when its predecessor is known, one step later.
    """

    def __init__(self, store: str) -> None:
        self._store = store
        #: What compaction has noted, not before the events were read.
        self.mark = Mark()
        #: Of this key: versions that younger events say they were restored from, and those events' values.
        self._restored: dict[int, list[tuple[Event, bytes]]] = {}
        self._key: str | None = None
        self._version = 0
        #: The event at that place; None if it is malformed.
        self._event: Event | None = None
        #: Keys so far.
        self.keys = 0

    def begins(self, event: Event) -> bool:
        """Whether an event that comes next is the newest of its key."""
        return event.key != self._key

    def step(self, item: Event | Malformed) -> Iterator[Fault]:
        """Take the next event in, and say what is wrong up to the one before it."""
        if item.key is None or item.version is None:
            return
        event = item if isinstance(item, Event) else None
        if item.key != self._key:
            yield from self.finish()
            self.keys += 1
        elif item.version == self._version:
            yield self._fault(Rule.VERSION, "stands in the log more than once", item)
            # Nobody knows which of them the next one follows.
            event = None
        elif item.version != self._version - 1:
            first, last = item.version + 1, self._version - 1
            missing = f"version {first} is" if first == last else f"versions {first} to {last} are"
            yield self._fault(Rule.VERSION, f"{missing} missing before it")
        elif self._event is not None and event is not None:
            yield from self._judge(self._event, event)
        self._key, self._version, self._event = item.key, item.version, event
        if event is not None:
            yield from self._compare(event)

    def _compare(self, event: Event) -> Iterator[Fault]:
        """Values that were restored from an event are its own."""
        others = self._restored.pop(event.version, ()) if self._restored else ()
        if event.restored is not None and not event.stripped:
            self._restored.setdefault(event.restored, []).append((event, value_text(event.value)))
        if event.stripped or not others:
            return
        for other, text in others:
            if event.type != "saved" or value_text(event.value) != text:
                message = f"its value is not the one of version {event.version}, from which it was restored"
                yield Fault(Rule.RESTORED, message, other.key, other.version, other.id)

    def finish(self) -> Iterator[Fault]:
        """There are no more events of this key: say what is wrong with its first one."""
        if self._key is None:
            return
        self._restored.clear()
        first = self._event
        if self._version > 1 and first is not None and first.first and self._version <= self.mark.floor + 1:
            # A key that was dropped begins anew.
            yield from self._judge(first, None)
        elif self._version > 1 and (first is None or first.time >= self.mark.horizon):
            missing = "version 1 is" if self._version == 2 else f"versions 1 to {self._version - 1} are"
            yield self._fault(Rule.VERSION, f"{missing} missing before it")
        elif self._version == 1 and first is not None:
            yield from self._judge(first, None)
        self._key = None

    def _judge(self, event: Event, predecessor: Event | None) -> Iterator[Fault]:
        there = predecessor is not None and predecessor.exists
        if predecessor is not None and event.time < predecessor.time:
            yield self._fault(
                Rule.TIME, f"its time is {predecessor.time - event.time} ms before that of its predecessor"
            )
        yield from (self._fault(Rule.EXPIRY, message) for message in expiry_faults(event, predecessor))
        if event.type == "deleted" and not there:
            yield self._fault(Rule.DELETE, "deletes what was absent")
        elif not event.stripped and not digest_fits(event, predecessor, self._store):
            yield self._fault(Rule.DIGEST, "its digest is not that of a command that could have made it")

    def _fault(self, rule: Rule, message: str, item: Event | Malformed | None = None) -> Fault:
        id_ = item.id if item is not None else self._event.id if self._event is not None else None
        return Fault(rule, message, self._key, self._version, id_)


def digest_fits(event: Event, predecessor: Event | None, store: str) -> bool:
    """Whether the digest is that of a command on that key which was right to make this event after that one.

    The command's etag and concurrency are not kept, but there are few that can have led here.
    """
    etag = predecessor.etag if predecessor is not None and predecessor.type == "saved" else None
    key, metadata, digest = event.key, event.metadata, event.digest
    # What the command said of it, or nothing: then it was the store's, or, of a patch, that of what was there.
    lifetimes = (None, FOREVER) if event.expires is None else ((event.expires - event.time) // 1000, None)
    carried = messages_text(event.messages) if event.messages else None

    def carrying(plain: bytes) -> bytes:
        return plain if carried is None else with_messages(plain, carried)

    if event.type == "expired":
        return etag is not None and expiry_digest(key, etag) == digest
    if event.patch is not None:
        patch, value = bytes.fromhex(event.patch[:16]), value_text(event.value)
        return event.patch == patch_mark(patch, value) and any(
            carrying(make_digest("patch", store, key, condition, None, metadata, patch, ttl)) == digest
            for ttl in lifetimes
            for condition in {etag, None}
        )
    op, value, concurrency = {"deleted": "delete", "purged": "purge"}.get(event.type, "restore"), b"", None
    if event.restored is not None:
        value = restored_text(event.restored)
    elif event.type == "saved":
        op, value, concurrency = "save", value_text(event.value), "last-write"

    def fits(etag: str | None, concurrency: str | None, ttl: int | None) -> bool:
        return carrying(make_digest(op, store, key, etag, concurrency, metadata, value, ttl)) == digest

    return any(
        fits(None, concurrency, ttl)
        or (etag is not None and fits(etag, concurrency, ttl))
        # With an etag it plays no part, and without one it demands that there is nothing.
        or (op == "save" and fits(etag, "first-write", ttl))
        for ttl in lifetimes
    )


def expiry_faults(event: Event, predecessor: Event | None) -> Iterator[str]:
    """What is wrong with when an event expires, or its predecessor did."""
    if event.expires is not None and event.expires <= event.time:
        yield "expires before it was made"
    expires = None if predecessor is None or not predecessor.exists else predecessor.expires
    if event.type == "expired":
        if expires is None:
            yield "says that something has expired which does not"
        elif event.time != expires:
            yield f"says that it expired at {event.time}, which it did at {expires}"
    elif expires is not None and event.time >= expires:
        yield f"follows a state that had expired {event.time - expires} ms before, without an event that says so"
    if event.expires is None or (event.expires - event.time) % 1000 == 0:
        return
    # A patch may have left it as it was.
    if event.patch is None or event.expires != expires:
        yield "does not expire whole seconds after it was made"


class Identity:
    """Follows command ids in order."""

    def __init__(self) -> None:
        self._last: Place | None = None

    def step(self, places: Sequence[Place]) -> Iterator[Fault]:
        """Take the next ids in, and say which came before."""
        for place in places:
            last, self._last = self._last, place
            if last is not None and (last.id, last.position) == (place.id, place.position):
                kinds = {True: "events", False: "refusals"}
                both = kinds[place.is_event] if place.is_event == last.is_event else "an event and a refusal"
                yield Fault(Rule.ID, f"stands in the log more than once, as {both}", id=place.id)


def answer_places(refusals: Sequence[Refusal]) -> tuple[set[str], set[tuple[str, int]]]:
    """What has to be looked up to judge recorded answers: command ids, and (key, version)."""
    ids: set[str] = set()
    places: set[tuple[str, int]] = set()
    for refusal in refusals:
        winner, place = _error(refusal).get("winner"), place_of(refusal)
        if isinstance(winner, str):
            ids.add(winner)
        elif place is not None:
            places.add(place)
    return ids, places


def winner_of(refusal: Refusal) -> str:
    """The command that made the state which a recorded conflict met; empty if it tells of none."""
    winner = _error(refusal).get("winner")
    return winner if isinstance(winner, str) else ""


def place_of(refusal: Refusal) -> tuple[str, int] | None:
    """The (key, version) of the state that a recorded answer tells of, if there was an event."""
    key, version = _key(refusal), refusal.answer.get("version")
    return (key, version) if isinstance(version, int) and version > 0 else None


def answer_fault(
    refusal: Refusal,
    found: Mapping[str, Record | Malformed],
    events: Mapping[tuple[str, int], Record | Malformed],
    mark: Mark = Mark(),  # noqa: B008 - it cannot be changed
) -> Fault | None:
    """What is wrong with a recorded answer, given what is in the log at its places, and what may have been dropped.

    Of a winner that is a transaction its event is at its place, and under its id is the receipt.
    """
    answer, error = refusal.answer, _error(refusal)
    place = place_of(refusal)
    event = events.get(place) if place is not None else None
    match answer["status"]:
        case Status.EXPIRED:
            message = None
        case Status.CONFLICT:
            winner = error.get("winner")
            if isinstance(winner, str) and not isinstance(found.get(winner), Receipt):
                event = found.get(winner)
            dropped = event is None and refusal.time < mark.horizon
            message = None if winner == refusal.id or dropped else _conflict_fault(refusal, event, mark)
        case Status.OK:
            version = answer.get("version")
            absent = not event.exists if isinstance(event, Event) else isinstance(event, Malformed)
            if event is None and isinstance(version, int):
                # There was nothing, or it may have been dropped.
                absent = version <= mark.floor or refusal.time < mark.horizon
            message = None if absent and answer.get("changed") is False else f"tells that version {version} was absent"
        case other:
            message = f"has the status {other!r}, which is not recorded"
    return (
        None
        if message is None
        else Fault(Rule.ANSWER, f"its recorded answer {message}", _key(refusal), None, refusal.id)
    )


def _conflict_fault(refusal: Refusal, event: Record | Malformed | None, mark: Mark) -> str | None:
    """What is wrong with a recorded conflict. One that rests on operations of its own transaction is not asked for."""
    answer, error = refusal.answer, _error(refusal)
    version, winner, actual = answer.get("version"), error.get("winner"), error.get("actual")
    if isinstance(event, Malformed):
        # That is told already.
        return None
    if winner is None and isinstance(version, int) and version <= mark.floor and answer.get("exists") is False:
        # A transaction that demanded a key which never was, or a restore or a JSON Patch of one.
        return None
    if not isinstance(event, Event) or (event.key, event.version, event.id) != (_key(refusal), version, winner):
        return f"tells of version {version} by {winner!r}, which is not in the log"
    if event.exists and event.expires is not None and refusal.time >= event.expires:
        return f"tells of version {version}, which had expired by then"
    if event.exists != answer.get("exists", True) or actual != (event.etag if event.exists else None):
        return f"tells of the etag {actual!r}, which that version has not"
    return None


def _key(refusal: Refusal) -> str:
    """The key that an answer is about: that of one operation, if it is a transaction's."""
    key = _error(refusal).get("key")
    return key if isinstance(key, str) else refusal.key


def _head_of(event: Event) -> Head:
    return Head(event.version, event.exists, event.id, event.time, event.expires)


def _error(refusal: Refusal) -> dict[str, Any]:
    error = refusal.answer.get("error")
    return error if isinstance(error, dict) else {}


def current_fault(event: Event, holds: Record | Malformed | None, head: Head | None, version: int) -> str | None:
    """What is wrong with a lookup, given the newest event that was seen and what the log holds under its id."""
    if head is None:
        return "a lookup says that there is nothing"
    if head.version < event.version:
        return f"a lookup says that version {head.version} is the newest"
    if version < head.version:
        return f"a lookup says that version {head.version} is the newest, another one that it is {version}"
    if not isinstance(holds, Event) or head._replace(opens=False) != _head_of(holds):
        return f"a lookup tells of version {head.version} by {head.id!r}, which is not what the log holds"
    return None
