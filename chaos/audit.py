"""A history against the log: what clients were told is in it, and nothing is in it that no client sent.

Records come one by one, in any order, so that the log may be as long as it likes: of an event only its place is kept.
A long history can be taken in parts, by its keys; of transactions each part has those that name a key of its own.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from holdfast.events import Event, Receipt, Record, Refusal, make_etag

from .commands import FOREVER, canonical, check_complete, is_expired
from .history import HistoryError, Operation, Outcome
from .transactions import Transactions
from .transactions import live_calls as _live

_TYPES = {"save": "saved", "delete": "deleted", "increment": "saved"}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that history and log do not agree on."""

    message: str
    key: str
    #: The command id; None if it is about none.
    id: str | None = None

    def __str__(self) -> str:
        return f"{self.key!r}{f', id {self.id!r}' if self.id is not None else ''}: {self.message}"


class _Place(NamedTuple):
    """As much of an event as what follows it needs."""

    version: int
    id: str
    exists: bool
    #: Of what a patch made.
    value: Any = None


class Audit:
    """Compares the history of one store with its log: ``see`` every record, then ``finish``.

    :param operations: all of the history that is about the keys of the records.
    :param is_mine: whether a key is among these. Records of others are receipts of transactions.
    :raises HistoryError: if an operation does not say what its outcome must say, or one id is used on two keys.
    """

    def __init__(self, operations: Iterable[Operation], *, is_mine: Callable[[str], bool] = lambda _: True) -> None:
        self._transactions = Transactions(is_mine)
        self._calls: dict[str, list[Operation]] = defaultdict(list)
        self._reads: list[Operation] = []
        for operation in operations:
            check_complete(operation)
            if operation.op == "read":
                if operation.outcome is Outcome.OK:
                    self._reads.append(operation)
                continue
            if operation.op == "transact":
                self._transactions.add(operation)
                continue
            calls = self._calls[operation.id]
            if calls and calls[0].key != operation.key:
                raise HistoryError(f"the id {operation.id!r} is used on two keys")
            calls.append(operation)
        self._places: dict[str, list[_Place]] = defaultdict(list)
        self._events: set[str] = set()
        self._refusals: set[str] = set()

    def see(self, record: Record) -> Iterator[Finding]:
        """Take a record in, and say what is wrong with it by itself."""
        if isinstance(record, Receipt) or record.position > 0 or record.id in self._transactions:
            for message in self._transactions.see(record):
                yield Finding(message, record.key, record.id)
            if isinstance(record, Event):
                self._places[record.key].append(_Place(record.version, record.id, record.exists))
            return
        if record.id in self._events or record.id in self._refusals:
            yield Finding("its command id stands in the log more than once", record.key, record.id)
        calls = self._calls.get(record.id)
        messages: Iterator[str]
        if isinstance(record, Event):
            self._events.add(record.id)
            value = None if record.patch is None else record.value
            self._places[record.key].append(_Place(record.version, record.id, record.exists, value))
            # What has expired did so by itself, and when is for the log's own rules to say.
            messages = iter(()) if record.type == "expired" else _event_faults(record, calls)
        else:
            self._refusals.add(record.id)
            messages = _refusal_faults(record, calls)
        for message in messages:
            yield Finding(message, record.key, record.id)

    def finish(self) -> Iterator[Finding]:
        """There are no more records: say what is missing, and what is wrong with their order."""
        for id_, calls in self._calls.items():
            for message in self._missing(id_, calls):
                yield Finding(message, calls[0].key, id_)
        for id_, (key, message) in self._transactions.finish():
            yield Finding(message, key, id_)
        made: dict[tuple[str, int], _Place] = {}
        for key, places in self._places.items():
            places.sort(key=lambda place: place.version)
            yield from self._order_faults(key, places)
            made |= {(key, place.version): place for place in places}
        for read in self._reads:
            yield from self._read_faults(read, made)

    def settled(self) -> Iterator[Operation]:
        """The history with what the log knows of the unknown: it happened, at that version, or it never did.

        A stricter history to be checked for linearizability, and a quicker one. Call it after the last record.
        """
        yield from self._reads
        yield from self._transactions.settled()
        versions = {place.id: place for places in self._places.values() for place in places}
        for id_, calls in self._calls.items():
            place = versions.get(id_)
            if any(call.outcome in (Outcome.OK, Outcome.CONFLICT) for call in calls):
                for call in calls:
                    # Our client is not told the version of a delete.
                    yield replace(call, version=place.version) if place is not None and _changed(call) else call
            else:
                if place is not None:
                    yield _happened(min(_live(calls) or calls, key=lambda call: call.invoked), place)
                # What they were told may contradict it.
                yield from (call for call in calls if call.outcome is Outcome.REFUSED)

    def _asked(self, id_: str, key: str) -> Sequence[Operation]:
        """The calls under an id as what they ask of a key."""
        return self._calls[id_] if id_ in self._calls else self._transactions.asked(id_, key)

    def _missing(self, id_: str, calls: Sequence[Operation]) -> Iterator[str]:
        if id_ not in self._events and any(map(_changed, calls)):
            call = next(call for call in calls if _changed(call))
            yield f"was told ok, but is not in the log: {call}"
        if id_ not in self._refusals and any(map(_is_recorded, calls)):
            call = next(call for call in calls if _is_recorded(call))
            yield f"was told an answer for good, which is not recorded: {call}"

    def _order_faults(self, key: str, places: Sequence[_Place]) -> Iterator[Finding]:
        before: _Place | None = None
        latest = -FOREVER
        for place in places:
            expected = 1 if before is None else before.version + 1
            if place.version != expected:
                yield Finding(f"version {place.version} comes where version {expected} should", key, place.id)
            calls = _live(self._asked(place.id, key))
            if calls and not any(_holds(call, before) for call in calls):
                yield Finding(f"version {place.version} was made although its condition did not hold", key, place.id)
            if calls and calls[0].op == "increment" and place.value != _count_before(before) + calls[0].value:
                yield Finding(f"version {place.version} counts {place.value} on top of {before}", key, place.id)
            if calls:
                begin, end = min(call.invoked for call in calls), min(map(_end, calls))
                if end < latest:
                    yield Finding(
                        f"version {place.version} had ended before an earlier version's command began", key, place.id
                    )
                latest = max(latest, begin)
            before = place

    def _read_faults(self, read: Operation, made: dict[tuple[str, int], _Place]) -> Iterator[Finding]:
        if not read.exists or read.version is None:
            return
        place = made.get((read.key, read.version))
        if place is None or not place.exists or make_etag(place.version, place.id) != read.answer_etag:
            yield Finding(f"a read was told of a state that is not in the log: {read}", read.key)
            return
        calls = self._asked(place.id, read.key)
        values = {canonical(place.value if call.op == "increment" else call.value) for call in calls}
        if values and canonical(read.answer_value) not in values:
            yield Finding(f"a read was told another value than was written: {read}", read.key, place.id)


def audit(operations: Iterable[Operation], records: Iterable[Record]) -> Iterator[Finding]:
    """Everything that the history of one store and its log do not agree on."""
    both = Audit(operations)
    for record in records:
        yield from both.see(record)
    yield from both.finish()


def _event_faults(event: Event, calls: Sequence[Operation] | None) -> Iterator[str]:
    if not calls:
        yield "is in the log, and no client sent it"
        return
    if event.key != calls[0].key:
        yield f"was sent for the key {calls[0].key!r}"
    for call in calls:
        if is_expired(call) or call.outcome is Outcome.CONFLICT or (call.outcome is Outcome.OK and not _changed(call)):
            yield f"made version {event.version}, but was told that it did not: {call}"
    live = _live(calls)
    if not live:
        yield f"made version {event.version}, but was refused: {calls[0]}"
    elif not any(_asked_for(call, event) for call in live):
        yield f"asked for something else than version {event.version} is: {live[0]}"
    for call in calls:
        if _changed(call) and call.version is not None and call.version != event.version:
            yield f"made version {event.version}, but was told another one: {call}"
        if _changed(call) and call.op != "delete" and call.answer_etag != event.etag:
            yield f"made the etag {event.etag}, but was told another one: {call}"
        if _changed(call) and call.answer_value is not None and canonical(call.answer_value) != canonical(event.value):
            yield f"made the value {event.value!r}, but was told another one: {call}"


def _refusal_faults(refusal: Refusal, calls: Sequence[Operation] | None) -> Iterator[str]:
    if not calls:
        yield "has a recorded answer, and no client sent it"
        return
    if refusal.key != calls[0].key:
        yield f"was sent for the key {calls[0].key!r}"
    for call in calls:
        status = refusal.answer["status"]
        if _changed(call):
            yield f"has a recorded refusal, but was told that it changed something: {call}"
        elif call.outcome is Outcome.OK and status != "ok":
            yield f"has the recorded answer {status}, but was told ok: {call}"
        elif call.outcome is Outcome.CONFLICT and not _same_conflict(call, refusal.answer):
            yield f"has another recorded answer than it was told: {call}"
        elif is_expired(call) and status != "expired":
            yield f"has the recorded answer {status}, but was told that it had expired: {call}"


def _same_conflict(call: Operation, answer: dict[str, Any]) -> bool:
    actual = (answer.get("error") or {}).get("actual")
    told = (answer["status"], answer.get("exists"), answer.get("version"), actual)
    return told == ("conflict", call.exists, call.version, call.answer_etag)


def _changed(call: Operation) -> bool:
    return call.outcome is Outcome.OK and not (call.op == "delete" and call.changed is False)


def _is_recorded(call: Operation) -> bool:
    """Whether the answer is one that later state could reverse, so that it has to be in the log."""
    if call.outcome is Outcome.CONFLICT:
        return call.etag is None
    return is_expired(call) or (call.outcome is Outcome.OK and not _changed(call))


def _asked_for(call: Operation, event: Event) -> bool:
    if _TYPES[call.op] != event.type or (call.op == "increment") is (event.patch is None):
        return False
    # What came of an increment depends on what was there.
    return call.op != "save" or canonical(call.value) == canonical(event.value)


def _holds(call: Operation, before: _Place | None) -> bool:
    exists = before is not None and before.exists
    if call.etag is not None:
        return before is not None and exists and call.etag == make_etag(before.version, before.id)
    if call.op == "save":
        return call.concurrency == "last-write" or not exists
    return exists or call.op == "increment"


def _count_before(before: _Place | None) -> Any:
    """What an increment adds to."""
    return before.value if before is not None and before.exists else 0


def _end(call: Operation) -> int:
    return FOREVER if call.outcome is not Outcome.OK or call.returned is None else call.returned


def _happened(call: Operation, place: _Place) -> Operation:
    etag = make_etag(place.version, place.id) if place.exists else None
    return replace(
        call,
        outcome=Outcome.OK,
        returned=None,
        exists=place.exists,
        version=place.version,
        answer_etag=etag,
        changed=True,
        error=None,
    )
