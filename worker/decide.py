"""What a command means for a key in a given state. Plain functions of their arguments: no I/O, no clock.

The table is the one in docs/protocol.md. What comes out is provisional until the append has returned.
"""

from collections.abc import Container
from dataclasses import dataclass
from typing import Any, Final, Literal

from ..events import (
    ChangesCommand,
    DeleteCommand,
    Event,
    HistoryCommand,
    KeysCommand,
    Mutation,
    PatchCommand,
    PurgeCommand,
    QueryCommand,
    ReadCommand,
    Record,
    Refusal,
    RestoreCommand,
    SaveCommand,
    Status,
    TransactCommand,
    WatchCommand,
    make_etag,
)
from ..events.limits import DEFAULT_MAX_VALUE_BYTES, FENCE_WINDOW_MS, FOREVER
from ..events.records import patch_digest, patch_mark
from ..events.replies import error
from ..stores import Head
from .patching import ABSENT, Effort, MisfitError, Patched, apply_patch

Answer = dict[str, Any]
#: Commands that change nothing, and are not answered when they come too late.
Look = ReadCommand | HistoryCommand | QueryCommand | KeysCommand | WatchCommand | ChangesCommand

LATE: Final[Answer] = error(Status.EXPIRED, "deadline", "the deadline had passed before the command was applied")
TOO_OLD: Final[Answer] = error(Status.EXPIRED, "too_old", "sent more than seven days ago, before the fence window")

_TYPES: Final[dict[str, Literal["saved", "deleted", "purged"]]] = {
    "save": "saved",
    "restore": "saved",
    "delete": "deleted",
    "purge": "purged",
}

#: A key that never had an event.
NEVER = Head(version=0, exists=False, id="", time=0)


@dataclass(frozen=True, slots=True)
class Rejection:
    """An answer that changes nothing."""

    answer: Answer
    #: Whether later state could reverse it, so that it has to be recorded like an event.
    recorded: bool
    #: Whether it rests on the state of the key, and so needs proof that the state was known exactly.
    about_key: bool


def decide(
    command: Mutation,
    head: Head,
    *,
    now: int,
    author: str | None,
    digest: bytes,
    source: Event | None = None,
    value: Any = ABSENT,
    max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES,
    effort: Effort | None = None,
    lifetime: int | None = None,
    carried: Container[str] = (),
) -> Event | Rejection:
    """Decide one write against the newest event of its key, which has not expired unless an event says so.

    :param source: of a restore, the event whose value is to come back, if there is one.

    An etag always wins over ``concurrency``; null is no etag, any other string that is not the current one is a
    mismatch, also the empty one. A key that is absent has no etag, so that nothing stale can create it again.

    :param value: of the newest event, if the command is a patch and the key is there.
    :param max_value_bytes: of what comes of a patch.
    :param effort: what a patch takes is added to it.
    :param lifetime: seconds that a value lives whose command does not say how long; None if it stays.
    :param carried: keys without an event, of which there are messages all the same: something to be purged.
    """
    if is_too_old(command, now):
        return Rejection(TOO_OLD, recorded=True, about_key=False)
    if has_moved_on(command, head):
        # For good, since versions only grow, so that it needs no record.
        return Rejection(conflict(command, head), recorded=False, about_key=True)
    refused: Answer | None = None
    if command.etag is not None:
        if not head.exists or command.etag != make_etag(head.version, head.id):
            # Before the deadline: it leaves no record, and a repeat past the deadline is to be told the same.
            return Rejection(conflict(command, head), recorded=False, about_key=True)
    elif type(command) is SaveCommand:
        if command.concurrency == "first-write" and head.exists:
            refused = conflict(command, head)
    elif type(command) is PatchCommand:
        if command.kind == "json-patch" and not head.exists:
            refused = conflict(command, head)
    elif (type(command) is DeleteCommand or type(command) is PurgeCommand) and is_done(command, head, carried):
        refused = {"status": "ok", "exists": False, "changed": False, "etag": None, "version": head.version}
    if type(command) is RestoreCommand and (source is None or not has_value(source)):
        refused = conflict(command, head, source=source)
        if command.etag is not None:
            # For good: at this etag there never is another value, and at another one it is a mismatch.
            return Rejection(refused, recorded=False, about_key=True)
    if is_late(command, now):
        return Rejection(LATE, recorded=True, about_key=False)
    if refused is not None:
        return Rejection(refused, recorded=True, about_key=True)
    # Clocks of two owners may differ by a little: the times of one key never run backwards.
    time = max(now, head.time)
    if type(command) is PatchCommand:
        try:
            patched = apply_patch(command, value, max_bytes=max_value_bytes, effort=effort or Effort())
        except MisfitError as misfit:
            return Rejection(misfit_conflict(command, head, misfit), recorded=True, about_key=True)
        return _patch_event(command, head, patched, time=time, author=author, digest=digest, lifetime=lifetime)
    value, rare = None, _rare(command, head)
    if type(command) is SaveCommand or type(command) is RestoreCommand:
        value = command.value if type(command) is SaveCommand else source.value if source is not None else None
        seconds = command.ttl_seconds or lifetime
        if seconds is not None and seconds != FOREVER:
            rare["expires"] = time + seconds * 1000
    if (type(command) is SaveCommand or type(command) is DeleteCommand) and command.messages is not None:
        rare["messages"] = command.messages
    return Event(
        id=command.id,
        key=command.key,
        time=time,
        author=author,
        digest=digest,
        metadata=command.metadata,
        type=_TYPES[command.op],
        version=head.version + 1,
        value=value,
        **rare,
    )


def _patch_event(
    command: PatchCommand,
    head: Head,
    patched: Patched,
    *,
    time: int,
    author: str | None,
    digest: bytes,
    lifetime: int | None,
) -> Event:
    # What is there keeps its time, or stays, unless the patch says otherwise. What is not begins as if it were saved.
    seconds = command.ttl_seconds or (None if head.exists else lifetime)
    expires = head.expires if head.exists and command.ttl_seconds is None else None
    if seconds is not None and seconds != FOREVER:
        expires = time + seconds * 1000
    return Event(
        id=command.id,
        key=command.key,
        time=time,
        author=author,
        digest=digest,
        metadata=command.metadata,
        type="saved",
        version=head.version + 1,
        value=patched.value,
        expires=expires,
        patch=patch_mark(patch_digest(command), patched.text),
        messages=command.messages,
        **_rare(command, head),
    )


def _rare(command: Mutation, head: Head) -> dict[str, Any]:
    """What few events have: to leave it out is quicker than to say that there is none."""
    rare: dict[str, Any] = {}
    if command.correlation_id is not None:
        rare["correlation_id"] = command.correlation_id
    if command.causation_id is not None:
        rare["causation_id"] = command.causation_id
    if type(command) is RestoreCommand:
        rare["restored"] = command.at_version
    if head.opens:
        rare["first"] = True
    return rare


def is_done(command: DeleteCommand | PurgeCommand, head: Head, carried: Container[str] = ()) -> bool:
    """Whether there is nothing to be done: nothing to be deleted, or nothing that ever was, to be purged."""
    if head.exists:
        return False
    return isinstance(command, DeleteCommand) or not (head.id or command.key in carried)


def has_value(event: Event) -> bool:
    """Whether an event has a value that can be told: none that was deleted has one, and no stub."""
    return event.type == "saved" and not event.stripped


def expiry(command: Look, now: int) -> Answer | None:
    """The refusal of a read or another question that comes too late, or None if it is in time."""
    if is_too_old(command, now):
        return TOO_OLD
    return LATE if is_late(command, now) else None


def is_late(command: Mutation | TransactCommand | Look, now: int) -> bool:
    """Whether the deadline has passed."""
    return command.deadline is not None and now > command.deadline


def is_too_old(command: Mutation | TransactCommand | Look, now: int) -> bool:
    """Whether it comes from before the fence window."""
    return command.sent_at is not None and now - command.sent_at > FENCE_WINDOW_MS


def has_moved_on(command: Mutation, head: Head) -> bool:
    """Whether the key is past the last version that the command may follow."""
    return command.max_version is not None and head.version > command.max_version


def conflict(command: Mutation, head: Head, *, source: Event | None = None) -> Answer:
    """The typed answer to a command whose key is not in the state that it demands."""
    actual = make_etag(head.version, head.id) if head.exists else None
    if has_moved_on(command, head):
        code, message = "newer", "the key has a later version than the command may follow"
    elif isinstance(command, RestoreCommand) and (
        command.etag is None or (head.exists and command.etag == make_etag(head.version, head.id))
    ):
        code, message = "no_value", "there is no such version, or it has no value, so that none can be restored"
        if source is not None and source.stripped:
            code, message = "stripped", "the value of that version was erased, so that it cannot be restored"
    elif isinstance(command, PatchCommand) and command.etag is None:
        code, message = "absent", "the key is absent, so that there is nothing to apply a JSON Patch to"
    elif command.etag is None:
        code, message = "exists", "the key exists, and a first-write save demands that it does not"
    elif head.exists:
        code, message = "etag_mismatch", "the key is at another etag"
    else:
        code, message = "absent", "the key is absent, so no etag matches"
    return _conflict(head, code, message, expected=command.etag, actual=actual, winner=head.id or None)


def misfit_conflict(command: PatchCommand, head: Head, misfit: MisfitError) -> Answer:
    """The typed answer to a patch that does not fit the value that it met."""
    actual = make_etag(head.version, head.id) if head.exists else None
    details = {"expected": command.etag, "actual": actual, "winner": head.id or None}
    if misfit.field is not None:
        details["field"] = misfit.field
    return _conflict(head, misfit.code, str(misfit), **details)


def _conflict(head: Head, code: str, message: str, **details: Any) -> Answer:
    answer = error(Status.CONFLICT, code, message, **details)
    answer["exists"] = head.exists
    answer["version"] = head.version
    return answer


def refusal(command: Mutation, rejection: Rejection, *, now: int, author: str | None, digest: bytes) -> Refusal:
    """The record of a rejection."""
    return Refusal(id=command.id, key=command.key, time=now, author=author, digest=digest, answer=rejection.answer)


def head_of(event: Event) -> Head:
    """What decisions need to know of an event."""
    return Head(event.version, event.exists, event.id, event.time, event.expires)


def answer_to(event: Event) -> Answer:
    """The answer to the command that made this event."""
    exists = event.exists
    answer = {
        "status": "ok",
        "exists": exists,
        "changed": True,
        "etag": event.etag if exists else None,
        "version": event.version,
        "updated_at": event.time,
    }
    if event.expires is not None:
        answer["expires"] = event.expires
    return answer


def answer_again(record: Record, command: Mutation | TransactCommand, *, author: str | None, digest: bytes) -> Answer:
    """The answer to a command whose id stands in the log: the same as the first time, or ``id_reused``.

    The comparison keeps one user's record from being shown to another who guesses its id.
    """
    if record.key != command.key or record.author != author or record.digest != digest:
        return id_reused()
    if isinstance(record, Event):
        return answer_to(record)
    return dict(record.answer)


def id_reused() -> Answer:
    """The refusal of an id that belongs to another command."""
    return error(
        Status.INVALID, "id_reused", "this id belongs to an earlier command of other content or author", field="id"
    )
