"""Transactions in a history against the log: all of one or nothing, once, and what its callers were told.

For each of its keys a transaction is the conditional write or the check that it asks for. That is how it gets into the
histories of its keys; that all of it was at one moment is for serializability.py.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.events import Event, Receipt, Record, Refusal

from .commands import canonical, is_expired
from .history import HistoryError, Operation, Outcome, Step, Told

_TYPES = {"save": "saved", "delete": "deleted"}

#: What is wrong, and about which key.
Fault = tuple[str, str]


@dataclass(slots=True)
class _Logged:
    """What the log has under the id of a transaction."""

    receipt: Receipt | None = None
    refusal: Refusal | None = None
    #: The events by their positions, as (key, version).
    events: dict[int, tuple[str, int]] = field(default_factory=dict)

    def results(self) -> list[Told]:
        """What its receipt tells of each step."""
        results = () if self.receipt is None else self.receipt.answer.get("results", ())
        return [Told(**{name: result.get(name) for name in _TOLD}) for result in results]


_TOLD = ("key", "exists", "version", "etag", "changed")


class Transactions:
    """Compares the transactions of a history with the log: ``see`` their records, then ``finish``.

    :param is_mine: whether a key is among those whose events are seen. Receipts are seen of all.
    """

    def __init__(self, is_mine: Callable[[str], bool]) -> None:
        self._is_mine = is_mine
        self._calls: dict[str, list[Operation]] = defaultdict(list)
        self._logged: dict[str, _Logged] = defaultdict(_Logged)

    def __contains__(self, id_: str) -> bool:
        return id_ in self._calls

    def add(self, call: Operation) -> None:
        """Take a call in.

        :raises HistoryError: if one of its keys stands in two steps: what it was told of it would be two things.
        """
        if len(set(call.keys)) < len(call.steps):
            raise HistoryError(f"a transaction names a key twice: {call}")
        calls = self._calls[call.id]
        if calls and calls[0].steps != call.steps:
            raise HistoryError(f"the id {call.id!r} is of two transactions")
        calls.append(call)

    def asked(self, id_: str, key: str) -> list[Operation]:
        """The calls under an id as what they ask of a key."""
        return [part_of_call(call, step) for call in self._calls.get(id_, ()) for step in call.steps if step.key == key]

    def see(self, record: Record) -> Iterator[str]:
        """Take a record in, and say what is wrong with it by itself."""
        logged = self._logged[record.id]
        calls = self._calls.get(record.id)
        if isinstance(record, Receipt):
            if logged.receipt is not None:
                yield "has two receipts"
            logged.receipt = record
        elif isinstance(record, Refusal):
            if logged.refusal is not None:
                yield "has two recorded refusals"
            logged.refusal = record
        elif record.position in logged.events:
            yield f"has two events at position {record.position}"
        else:
            logged.events[record.position] = (record.key, record.version)
        if not calls:
            if self._is_mine(record.key):
                yield "is of a transaction, and no client sent it"
        elif isinstance(record, Event):
            yield from _event_faults(record, calls)

    def finish(self) -> Iterator[tuple[str, Fault]]:
        """There are no more records: say what is missing, and what is there in part. By id."""
        for id_, logged in self._logged.items():
            calls = self._calls.get(id_, [])
            for fault in self._wholeness_faults(logged):
                yield id_, fault
            for message in _answer_faults(logged, calls):
                if self._is_mine(calls[0].key):
                    yield id_, (calls[0].key, message)
        for id_, calls in self._calls.items():
            if self._is_mine(calls[0].key):
                for message in _missing(self._logged.get(id_, _Logged()), calls):
                    yield id_, (calls[0].key, message)

    def _wholeness_faults(self, logged: _Logged) -> Iterator[Fault]:
        """All of its events, or none."""
        if logged.receipt is None:
            for key, version in logged.events.values():
                yield key, f"version {version} is a part of a transaction that was not committed: there is no receipt"
            return
        changes = [(told.key, told.version) for told in logged.results() if told.changed]
        if logged.receipt.events != len(changes) and self._is_mine(logged.receipt.key):
            message = f"its receipt tells of {logged.receipt.events} events, and of {len(changes)} changes"
            yield logged.receipt.key, message
        for position, change in enumerate(changes, start=1):
            found = logged.events.get(position)
            if self._is_mine(change[0]) and found != change:
                message = f"a part of a transaction is missing: its event {position}, version {change[1]}"
                yield change[0], message if found is None else f"{message}; {found} is in its place"
        for position, (key, version) in logged.events.items():
            if not 0 < position <= len(changes):
                yield key, f"version {version} is more than its transaction made, event {position} of {len(changes)}"

    def settled(self) -> Iterator[Operation]:
        """What they were for each of their keys. The log decides what nobody was told, for all keys alike."""
        for id_, calls in self._calls.items():
            live = live_calls(calls)
            told = next((call for call in live if call.outcome is Outcome.OK), None)
            logged = self._logged.get(id_, _Logged())
            if told is not None or logged.receipt is not None:
                results = logged.results() if told is None else told.results
                yield from self._mine(_committed(live or calls, results))
            else:
                yield from self._mine(_conflicts(live))

    def _mine(self, operations: Iterable[Operation]) -> Iterator[Operation]:
        return (operation for operation in operations if self._is_mine(operation.key))


def live_calls(calls: Iterable[Operation]) -> list[Operation]:
    """Those that were not refused, and so can have had an effect."""
    return [call for call in calls if call.outcome is not Outcome.REFUSED]


def part_of_call(call: Operation, step: Step) -> Operation:
    """A call as what it asks of the key of one of its steps; of an answer, only whether it was one."""
    return Operation(
        client=call.client,
        id=call.id,
        store=call.store,
        key=step.key,
        op=step.op,
        value=step.value,
        etag=step.etag,
        concurrency=step.concurrency,
        demands=step.demands,
        invoked=call.invoked,
        returned=call.returned,
        outcome=call.outcome,
        error=call.error,
    )


def _committed(calls: Sequence[Operation], results: Sequence[Told]) -> Iterator[Operation]:
    """Each step with what came of it. It was between the first call and the first answer."""
    first = min(calls, key=lambda call: call.invoked)
    returns = [call.returned for call in calls if call.outcome is Outcome.OK and call.returned is not None]
    by_key = {told.key: told for told in results}
    for step in first.steps:
        told = by_key.get(step.key)
        if told is not None:
            yield replace(
                part_of_call(first, step),
                outcome=Outcome.OK,
                returned=min(returns, default=None),
                exists=told.exists,
                version=told.version,
                answer_etag=told.etag,
                changed=told.changed,
                error=None,
            )


def _conflicts(calls: Sequence[Operation]) -> Iterator[Operation]:
    """The step that met a conflict, once for each call that was told of one. Nothing is known of the other steps."""
    begin = min((call.invoked for call in calls), default=0)
    for call in calls:
        if call.outcome is Outcome.CONFLICT and call.at_step is not None:
            yield replace(
                part_of_call(call, call.steps[call.at_step]),
                # A repeat may be told what one before it met.
                invoked=begin,
                exists=call.exists,
                version=call.version,
                answer_etag=call.answer_etag,
            )


def _event_faults(event: Event, calls: Sequence[Operation]) -> Iterator[str]:
    step = next((step for step in calls[0].steps if step.key == event.key), None)
    if event.position == 0:
        yield f"made version {event.version} as if it were no transaction"
    if step is None:
        yield f"made version {event.version} of a key that it does not name"
    elif _TYPES.get(step.op) != event.type or (step.op == "save" and canonical(step.value) != canonical(event.value)):
        yield f"asked for something else than version {event.version} is: {step}"


def _answer_faults(logged: _Logged, calls: Sequence[Operation]) -> Iterator[str]:
    """What callers were told, given what there is."""
    if not calls:
        return
    if logged.receipt is not None:
        if logged.refusal is not None:
            yield "was committed, and has a recorded refusal"
        if not live_calls(calls):
            yield f"was committed, but was refused: {calls[0]}"
        results = logged.results()
        for call in calls:
            if is_expired(call) or call.outcome is Outcome.CONFLICT:
                yield f"was committed, but was told that it was not: {call}"
            elif call.outcome is Outcome.OK and list(call.results) != results:
                yield f"was told other results than are recorded, {results}: {call}"
    elif logged.refusal is not None:
        yield from _refusal_faults(logged.refusal.answer, calls)


def _refusal_faults(answer: dict[str, Any], calls: Sequence[Operation]) -> Iterator[str]:
    status = answer["status"]
    for call in calls:
        if call.outcome is Outcome.OK:
            yield f"has a recorded refusal, but was told ok: {call}"
        elif _is_recorded(call) and call.outcome is Outcome.CONFLICT and _told(call) != _recorded(answer):
            yield f"has another recorded answer than it was told: {call}"
        elif is_expired(call) and status != "expired":
            yield f"has the recorded answer {status}, but was told that it had expired: {call}"


def _told(call: Operation) -> tuple[Any, ...]:
    key = None if call.at_step is None else call.steps[call.at_step].key
    return "conflict", call.at_step, key, call.exists, call.version, call.answer_etag


def _recorded(answer: dict[str, Any]) -> tuple[Any, ...]:
    error = answer.get("error") or {}
    told = (error.get("operation"), error.get("key"), answer.get("exists"), answer.get("version"), error.get("actual"))
    return answer["status"], *told


def _missing(logged: _Logged, calls: Sequence[Operation]) -> Iterator[str]:
    told = next((call for call in calls if call.outcome is Outcome.OK), None)
    if told is not None and logged.receipt is None:
        yield f"was told ok, but is not in the log: {told}"
    refused = next(filter(_is_recorded, calls), None)
    if refused is not None and logged.refusal is None:
        yield f"was told an answer for good, which is not recorded: {refused}"


def _is_recorded(call: Operation) -> bool:
    """Whether the answer is one that later state could reverse. What an etag demands can never become right."""
    if call.outcome is Outcome.CONFLICT:
        return call.at_step is not None and call.steps[call.at_step].etag is None
    return is_expired(call)
