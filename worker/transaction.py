"""What a transaction means for its keys in a given state. Plain functions of their arguments: no I/O, no clock.

Each operation is decided as if it were a command by itself, in the order in which they stand, on what those before it
have made of their keys. The first whose condition does not hold is the refusal of the whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..events import (
    CheckOperation,
    DeleteCommand,
    DeleteOperation,
    Event,
    Mutation,
    Receipt,
    Record,
    Refusal,
    SaveCommand,
    SaveOperation,
    Status,
    TransactCommand,
    make_etag,
    operation_digests,
)
from ..events.replies import error
from ..stores import Head
from .decide import LATE, NEVER, TOO_OLD, Answer, Rejection, answer_to, decide, head_of, is_late, is_too_old


@dataclass(frozen=True, slots=True)
class Commit:
    """All operations hold: this is what goes into the log in one step."""

    receipt: Receipt
    #: In order.
    events: list[Event]
    #: (key, version) that nobody may have taken: what was looked at and not written.
    guards: list[tuple[str, int]]
    #: Keys among these that have no event: nobody may begin them either, whatever he takes for the floor.
    firsts: frozenset[str]
    answer: Answer

    @property
    def records(self) -> list[Record]:
        """The receipt, and the events behind it."""
        return [self.receipt, *self.events]


def keys_of(command: TransactCommand) -> tuple[str, ...]:
    """The keys that a transaction is about, each once; first the one whose owner applies it."""
    return tuple(dict.fromkeys(operation.key for operation in command.operations))


def decide_transaction(
    command: TransactCommand,
    heads: Mapping[str, Head],
    *,
    now: int,
    author: str | None,
    digest: bytes,
    lifetime: int | None = None,
) -> Commit | Rejection:
    """Decide a transaction against the newest events of its keys; a key without one may be left out.

    :param lifetime: seconds that values live which are not told how long; None if they stay.
    """
    if is_too_old(command, now):
        return Rejection(TOO_OLD, recorded=True, about_key=False)
    own: dict[str, Head] = {}
    seen: dict[str, Head] = {}
    events: list[Event] = []
    results: list[Answer] = []
    refused: Rejection | None = None
    for number, (operation, part) in enumerate(zip(command.operations, operation_digests(command), strict=True)):
        key = operation.key
        head = own.get(key) or heads.get(key, NEVER)
        if isinstance(operation, CheckOperation):
            decision: Event | Rejection = _check(operation, head)
        else:
            single = as_command(command, operation)
            decision = decide(single, head, now=now, author=author, digest=part, lifetime=lifetime)
        if isinstance(decision, Event):
            event = decision.model_copy(update={"position": len(events) + 1})
            events.append(event)
            own[key] = head_of(event)
            results.append({"key": key, **_result(answer_to(event))})
        elif decision.answer["status"] == Status.OK:
            # It rests on the state, and leaves it as it is.
            seen[key] = head
            results.append({"key": key, **_result(decision.answer)})
        else:
            refused = _named(decision, number, key)
            break
    if refused is not None and not refused.recorded:
        # Before the deadline, as for every command: a repeat past it is to be told the same.
        return refused
    if is_late(command, now):
        return Rejection(LATE, recorded=True, about_key=False)
    if refused is not None:
        return refused
    answer: Answer = {"status": "ok", "results": results}
    # Without the metadata: they are in its events, and are erased there.
    receipt = Receipt(
        id=command.id,
        key=command.key,
        time=now,
        author=author,
        digest=digest,
        answer=answer,
        events=len(events),
        messages=command.messages or None,
    )
    # A key that is written is proved by the version that its event takes.
    guards = [(key, head.version + 1) for key, head in seen.items() if key not in own]
    firsts = frozenset(key for key, head in seen.items() if key not in own and head.opens)
    return Commit(receipt, events, guards, firsts, answer)


def as_command(command: TransactCommand, operation: SaveOperation | DeleteOperation) -> Mutation:
    """The operation as a command by itself, without a deadline: that is the whole transaction's."""
    model = SaveCommand if isinstance(operation, SaveOperation) else DeleteCommand
    fields = {name: getattr(operation, name) for name in type(operation).model_fields}
    fields |= {"id": command.id, "store": command.store, "metadata": command.metadata}
    return model.model_construct(**fields)


def _check(operation: CheckOperation, head: Head) -> Rejection:
    """A check changes nothing, so that it is a rejection also if it holds: one that says ok."""
    etag = make_etag(head.version, head.id) if head.exists else None
    found = {"exists": head.exists, "etag": etag, "version": head.version}
    if operation.etag is not None:
        if etag == operation.etag:
            return Rejection({"status": "ok", **found}, recorded=False, about_key=True)
        code, message = "etag_mismatch", "the key is at another etag"
        if etag is None:
            code, message = "absent", "the key is absent, so no etag matches"
    elif operation.exists == head.exists:
        return Rejection({"status": "ok", **found}, recorded=False, about_key=True)
    elif head.exists:
        code, message = "exists", "the key exists, and the check demands that it does not"
    else:
        code, message = "absent", "the key is absent, and the check demands that it exists"
    answer = error(Status.CONFLICT, code, message, expected=operation.etag, actual=etag, winner=head.id or None)
    # What an etag demands can never become right; whether a key is there can change at any time.
    return Rejection(
        {**answer, "exists": head.exists, "version": head.version}, recorded=operation.etag is None, about_key=True
    )


def _named(rejection: Rejection, number: int, key: str) -> Rejection:
    """A refusal that says which operation it is of."""
    answer = rejection.answer
    return Rejection(
        {**answer, "error": {**answer["error"], "operation": number, "key": key}},
        recorded=rejection.recorded,
        about_key=rejection.about_key,
    )


def _result(answer: Answer) -> dict[str, Any]:
    return {name: item for name, item in answer.items() if name != "status"}


def refusal_of(
    command: TransactCommand, rejection: Rejection, *, now: int, author: str | None, digest: bytes
) -> Refusal:
    """The record of a refused transaction."""
    return Refusal(id=command.id, key=command.key, time=now, author=author, digest=digest, answer=rejection.answer)
