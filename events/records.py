"""Records: the documents of the log. They are written once and never changed."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Literal, final

import orjson
from pydantic import BaseModel, ConfigDict

from .commands import DeleteCommand, Mutation, PatchCommand, RestoreCommand, SaveCommand, TransactCommand
from .etags import make_etag
from .outbox import OutboxMessage, messages_text


class _Kept:
    """A text that is made when it is first asked for, and then kept in the object's own dict, where it is found first.

    As ``cached_property``, whose lock takes longer than what it guards: 0.5 µs of every save. Python 3.12 has taken the
    lock away, so that this can go with 3.11.
    """

    def __init__(self, make: Callable[[Any], str]) -> None:
        self._make = make
        self._name = make.__name__

    def __get__(self, instance: Any, owner: type | None = None) -> str:
        text = vars(instance)[self._name] = self._make(instance)
        return text


class _Record(BaseModel):
    # Made by workers from checked commands and read back from the store: no second check of the value.
    model_config = ConfigDict(frozen=True, extra="ignore", ignored_types=(_Kept,))

    #: The id of the command that made it.
    id: str
    key: str
    #: Service time in milliseconds.
    time: int
    #: The broker's validated user-id, if the message had one.
    author: str | None = None
    #: Tells a repeat of a command from another command under the same id.
    digest: bytes
    metadata: dict[str, str] | None = None
    #: 0, but for the events of a transaction: 1, 2, 3, … in their order, behind its receipt.
    position: int = 0


@final
class Event(_Record):
    """One version of one key."""

    #: An ``expired`` event has no command: a worker makes it when the time of the event before it has come, and its
    #: time is that moment.
    type: Literal["saved", "deleted", "expired", "purged"]
    #: Per key 1, 2, 3, … without gaps, on through deletes and expiries.
    version: int
    value: Any = None
    #: Of a saved one: the service time in milliseconds from which on the key is absent.
    expires: int | None = None
    #: Of a saved one that came of a patch: see :func:`patch_mark`.
    patch: str | None = None
    #: To be published, at least once.
    messages: tuple[OutboxMessage, ...] | None = None
    #: What its command belongs to, and what led to it, as the command said.
    correlation_id: str | None = None
    causation_id: str | None = None
    #: The version whose value this is, if it was restored.
    restored: int | None = None
    #: Retention or a purge has erased value, messages, metadata and the two ids above: what remains is a stub.
    stripped: bool = False
    #: It begins a key that has no event, or only one that is about to be dropped. No two of a key do.
    first: bool = False

    @_Kept
    def etag(self) -> str:
        """The etag of the state that this event made."""
        return make_etag(self.version, self.id)

    @property
    def exists(self) -> bool:
        """Whether the key is there after this event, until it expires."""
        return self.type == "saved"


@final
class Refusal(_Record):
    """The recorded answer to a command that was refused, or changed nothing, for a reason that could pass.

    Without it a second delivery of the command might be applied after its sender was told that it was not.
    """

    type: Literal["refused"] = "refused"
    #: The reply, without what belongs to one delivery alone.
    answer: dict[str, Any]


@final
class Receipt(_Record):
    """The recorded answer to a transaction that was committed, in one step with its events.

    It stands in the place of the id, so that a transaction is recognised also if it changed nothing.
    """

    type: Literal["transacted"] = "transacted"
    #: As of a refusal.
    answer: dict[str, Any]
    #: How many events it made. They have the positions from 1 up to this.
    events: int
    #: As of an event: to be published, at least once. They are of the receipt's key, and are erased with its version
    #: ``at``; what remains is the answer.
    messages: tuple[OutboxMessage, ...] | None = None

    @property
    def at(self) -> int:
        """The version that its key has behind it; 0 if it was never there."""
        results = self.answer.get("results", ())
        return next((int(one["version"]) for one in reversed(results) if one["key"] == self.key), 0)


Record = Event | Refusal | Receipt


def digest_of(command: Mutation) -> tuple[bytes, int]:
    """Eight bytes over what the command means, and the size of its value or patch in bytes of compact JSON.

    When it was sent and its deadline play no part, since a retry may renew them. The order of an object's
    members plays none either.
    """
    value, concurrency, ttl_seconds, messages = b"", None, None, None
    size: int | None = None
    if type(command) is SaveCommand:
        value, concurrency, ttl_seconds = value_text(command.value), command.concurrency, command.ttl_seconds
        messages = command.messages
    elif type(command) is DeleteCommand:
        messages = command.messages
    elif type(command) is RestoreCommand:
        value, ttl_seconds = restored_text(command.at_version), command.ttl_seconds
    elif type(command) is PatchCommand:
        size, value, ttl_seconds = len(value_text(command.patch)), patch_digest(command), command.ttl_seconds
        messages = command.messages
    digest = make_digest(
        command.op, command.store, command.key, command.etag, concurrency, command.metadata, value, ttl_seconds
    )
    if messages:
        digest = with_messages(digest, messages_text(messages))
    return digest, len(value) if size is None else size


def with_messages(digest: bytes, carried: bytes) -> bytes:
    """The digest of a command that carries messages, out of its digest without them."""
    return blake2b(digest + carried, digest_size=8).digest()


def digest_of_transaction(command: TransactCommand) -> bytes:
    """Eight bytes over what a transaction means: its operations in their order, each with its digest, and messages."""
    digest = blake2b(digest_size=8)
    digest.update(orjson.dumps(["transact", command.store, len(command.operations)]))
    for part in operation_digests(command):
        digest.update(part)
    if command.messages:
        return with_messages(digest.digest(), messages_text(command.messages))
    return digest.digest()


def operation_digests(command: TransactCommand) -> list[bytes]:
    """The digest of each operation. A save's and a delete's are those of commands by themselves, and so are those of
    the events that they make.
    """
    digests = []
    for one in command.operations:
        value = b""
        condition: str | None = None
        ttl_seconds: int | None = None
        if one.op == "save":
            value, condition, ttl_seconds = value_text(one.value), one.concurrency, one.ttl_seconds
        elif one.op == "check":
            condition = None if one.exists is None else "exists" if one.exists else "absent"
        digests.append(
            make_digest(one.op, command.store, one.key, one.etag, condition, command.metadata, value, ttl_seconds)
        )
    return digests


def restored_text(version: int) -> bytes:
    """What stands in a restore's digest in the place of the value: the version that it is taken from."""
    return b"%d" % version


def value_text(value: Any) -> bytes:
    """A value as the JSON text that goes into a digest."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def make_digest(
    op: str,
    store: str,
    key: str,
    etag: str | None,
    concurrency: str | None,
    metadata: dict[str, str] | None,
    value: bytes,
    ttl_seconds: int | None = None,
) -> bytes:
    """The digest of a command, out of its parts. A delete has no concurrency and an empty value text.

    :param value: of a patch its own digest, so that it can be made again from what the event keeps.
    """
    parts: list[Any] = [op, store, key, etag, concurrency, metadata]
    if ttl_seconds is not None:
        parts.append(ttl_seconds)
    digest = blake2b(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS), digest_size=8)
    digest.update(value)
    return digest.digest()


def patch_digest(command: PatchCommand) -> bytes:
    """Eight bytes over a patch."""
    return blake2b(value_text([command.kind, command.patch]), digest_size=8).digest()


def patch_mark(patch: bytes, value: bytes) -> str:
    """What an event keeps of the patch that made it, to be checked by: its digest, and that of what came of it.

    The patch itself is not kept: it may say as much as the value does, and whoever erases that must not forget it.

    :param value: the value's text.
    :returns: 32 hex digits.
    """
    return patch.hex() + blake2b(value, digest_size=8).hexdigest()


def expiry_digest(key: str, etag: str) -> bytes:
    """The digest of an ``expired`` event: no command has it.

    :param etag: of the state that expires.
    """
    return make_digest("expire", "", key, etag, None, None, b"")
