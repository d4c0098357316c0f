"""Commands: what clients ask for. The models are the strict definition of the wire format, see docs/protocol.md."""

from typing import Annotated, Any, Final, Literal, Self, final, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    ValidationInfo,
    model_validator,
)

from .errors import InvalidError, SeveralStoresError
from .limits import (
    FOREVER,
    MAX_ETAG_LENGTH,
    MAX_ID_BYTES,
    MAX_INT,
    MAX_KEY_BYTES,
    MAX_METADATA_BYTES,
    MAX_METADATA_ENTRIES,
    MAX_OPERATIONS,
    MAX_PAGE,
    MAX_STORE_LENGTH,
    MAX_TTL_SECONDS,
    PROTOCOL_VERSION,
)
from .outbox import Messages
from .patches import Patch, PatchKind, check_patch
from .queries import MAX_TOKEN_LENGTH, parse_filter, parse_projection, parse_sort
from .topology import DEFAULT_STORE
from .values import check_value, shorten


def check_key(key: str) -> str:
    """Give the key back if it is one: 1 to 512 bytes of UTF-8, no NUL.

    :raises InvalidError: if it is not.
    """
    return _check_text(key, "key", MAX_KEY_BYTES)


def check_id(command_id: str) -> str:
    """Give the command id back if it is one: 1 to 128 bytes of UTF-8, no NUL.

    :raises InvalidError: if it is not.
    """
    return _check_text(command_id, "id", MAX_ID_BYTES)


def _check_text(text: str, field: str, limit: int) -> str:
    if not text:
        raise InvalidError("must not be empty", code=f"bad_{field}", field=field)
    if "\0" in text:
        raise InvalidError("must not hold the character NUL", code=f"bad_{field}", field=field)
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise InvalidError("is not Unicode text", code=f"bad_{field}", field=field) from None
    if size > limit:
        raise InvalidError(f"is limited to {limit} bytes, not {size}", code=f"bad_{field}", field=field)
    return text


def _check_metadata(metadata: Any) -> dict[str, str]:
    # Not left to the model's own rules: they go through all entries, also if there are hundreds of thousands, and
    # list everything that is wrong with them.
    if not isinstance(metadata, dict):
        raise InvalidError("is an object", code="bad_metadata", field="metadata")
    if len(metadata) > MAX_METADATA_ENTRIES:
        raise InvalidError(f"is limited to {MAX_METADATA_ENTRIES} entries", code="bad_metadata", field="metadata")
    size = 0
    for name, text in metadata.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise InvalidError("is a text", code="bad_metadata", field=shorten(f"metadata.{name}"))
        if "\0" in name:
            raise InvalidError("names must not hold the character NUL", code="bad_metadata", field="metadata")
        try:
            size += len(name.encode()) + len(text.encode())
        except UnicodeEncodeError:
            raise InvalidError("is not Unicode text", code="bad_metadata", field="metadata") from None
    if size > MAX_METADATA_BYTES:
        raise InvalidError(f"is limited to {MAX_METADATA_BYTES} bytes", code="bad_metadata", field="metadata")
    return dict(metadata)


def _check_ttl(seconds: int) -> int:
    if seconds != FOREVER and not 1 <= seconds <= MAX_TTL_SECONDS:
        raise InvalidError(
            f"is 1 to {MAX_TTL_SECONDS} seconds, or {FOREVER} for ever", code="bad_ttl_seconds", field="ttl_seconds"
        )
    return seconds


def _check_prefix(prefix: str) -> str:
    return _check_text(prefix, "prefix", MAX_KEY_BYTES) if prefix else prefix


def _check_filter(data: Any) -> Any:
    if data is not None:
        parse_filter(data)
    return data


def _check_sort(data: Any) -> Any:
    parse_sort(data)
    return data


def _check_projection(data: Any) -> Any:
    if data is not None:
        parse_projection(data)
    return data


def _check_correlation(text: str) -> str:
    return _check_text(text, "correlation_id", MAX_ID_BYTES)


def _check_causation(text: str) -> str:
    return _check_text(text, "causation_id", MAX_ID_BYTES)


def _check_after(key: str) -> str:
    return _check_text(key, "after", MAX_KEY_BYTES)


Key = Annotated[str, AfterValidator(check_key)]
CommandId = Annotated[str, AfterValidator(check_id)]
CorrelationId = Annotated[str, AfterValidator(_check_correlation)]
CausationId = Annotated[str, AfterValidator(_check_causation)]
StoreName = Annotated[str, StringConstraints(max_length=MAX_STORE_LENGTH, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Value = Annotated[Any, PlainValidator(check_value)]
Etag = Annotated[str, StringConstraints(max_length=MAX_ETAG_LENGTH)]
Metadata = Annotated[dict[str, str], PlainValidator(_check_metadata)]
#: Milliseconds since 1970-01-01T00:00Z, in service time.
Millis = Annotated[int, Field(ge=0, lt=2**53)]
Version = Annotated[int, Field(ge=0, le=MAX_INT)]
#: A version that an event can have.
EventVersion = Annotated[int, Field(ge=1, le=MAX_INT)]
#: Seconds, or FOREVER.
Ttl = Annotated[int, AfterValidator(_check_ttl)]
Concurrency = Literal["first-write", "last-write"]
Consistency = Literal["strong", "eventual"]


# Each kind is final, so that `type(command) is SaveCommand` tells it apart for a type checker too. In what is done with
# every single command that is asked instead of isinstance: of models, a no takes that 140 ns and a yes 20.


class _Command(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    #: The protocol version, so that old and new can meet.
    #: Not a Literal, which would take ``true`` and ``1.0`` for it.
    v: Annotated[int, Field(ge=PROTOCOL_VERSION, le=PROTOCOL_VERSION)] = PROTOCOL_VERSION
    #: With store and key the identity for "nothing happens twice".
    id: CommandId
    #: When the sender sent it. Commands from before the fence window are refused.
    sent_at: Millis | None = None
    #: From then on it is not applied any more.
    deadline: Millis | None = None


class _KeyCommand(_Command):
    store: StoreName = DEFAULT_STORE
    key: Key


class _Write(_KeyCommand):
    #: If given, the key's current state must have this etag.
    etag: Etag | None = None
    #: If given, the key's newest event must not be of a later version. No part of what the id stands for: a command
    #: that is sent again much later can be kept from overwriting what came after it, and stays the same command.
    max_version: Version | None = None
    #: On a conflict, answer with the current value too.
    return_current: bool = False
    #: Who or why, kept with the event.
    metadata: Metadata | None = None
    #: What the command belongs to, and what led to it, kept with the event. No part of what the id stands for.
    correlation_id: CorrelationId | None = None
    causation_id: CausationId | None = None


@final
class SaveCommand(_Write):
    """Make ``value`` the next version of the key."""

    op: Literal["save"]
    value: Value
    #: Without an etag: ``first-write`` demands that the key is absent. With one it plays no part.
    concurrency: Concurrency = "last-write"
    #: So many seconds of service time after it was saved, the key is absent. Without it the value lives as long as the
    #: store is configured to: for ever, unless it says otherwise.
    ttl_seconds: Ttl | None = None
    #: To be published if it is committed.
    messages: Messages | None = None


@final
class DeleteCommand(_Write):
    """Make the key absent. Its history stays, and its version counter goes on."""

    op: Literal["delete"]
    messages: Messages | None = None


@final
class RestoreCommand(_Write):
    """Make the value of an earlier version the next version of the key."""

    op: Literal["restore"]
    #: Which one. It has to be one that was saved, and its value must not have been erased since.
    at_version: EventVersion
    #: As of a save. The time that the earlier version had is not restored.
    ttl_seconds: Ttl | None = None


@final
class PurgeCommand(_Write):
    """Make the key absent, and erase the values of all its versions for good. Of each there remains that it was."""

    op: Literal["purge"]


@final
class PatchCommand(_Write):
    """Change the key's value where it is kept. What comes of it is the key's next version, as a whole."""

    op: Literal["patch"]
    #: ``merge`` is JSON Merge Patch (RFC 7396), ``json-patch`` is JSON Patch (RFC 6902), and ``increment`` adds to
    #: numbers: JSON Pointers with what is added there.
    kind: PatchKind
    patch: Patch
    #: Counted from this patch on. Without it a key that expires still does, when it did before, and one that stays
    #: does; one that was absent lives as after a save.
    ttl_seconds: Ttl | None = None
    #: Answer with the value that came of it.
    return_value: bool = False
    messages: Messages | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_patch(self.kind, self.patch)
        return self


def _check_one_place(version: int | None, info: ValidationInfo) -> int | None:
    if version is not None and info.data.get("at_time") is not None:
        raise InvalidError("and at_time exclude each other", code="bad_at_version", field="at_version")
    return version


@final
class ReadCommand(_KeyCommand):
    """The key's current state. ``strong`` is linearizable, ``eventual`` may be behind but never ahead.

    With ``at_version`` or ``at_time`` an earlier state, of which nothing is told that a history would not tell.
    """

    op: Literal["read"]
    consistency: Consistency = "strong"
    #: The state at this service time.
    at_time: Millis | None = None
    #: Or the state that the event of this version made.
    at_version: Annotated[EventVersion | None, AfterValidator(_check_one_place)] = None


@final
class HistoryCommand(_KeyCommand):
    """A page of the key's events."""

    op: Literal["history"]
    #: Only events of later versions.
    after_version: Annotated[int, Field(ge=0, le=MAX_INT)] = 0
    #: Only events of earlier versions.
    before_version: EventVersion | None = None
    #: Only events of this service time or later.
    from_time: Millis | None = None
    #: Only events of this service time or earlier.
    to_time: Millis | None = None
    #: Newest first, instead of oldest first.
    backward: bool = False
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100


class _Operation(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    key: Key
    #: May be said again, as long as it is that of the transaction.
    store: StoreName | None = None


class SaveOperation(_Operation):
    """One save of a transaction, as :class:`SaveCommand`."""

    op: Literal["save"]
    value: Value
    etag: Etag | None = None
    concurrency: Concurrency = "last-write"
    ttl_seconds: Ttl | None = None


class DeleteOperation(_Operation):
    """One delete of a transaction, as :class:`DeleteCommand`."""

    op: Literal["delete"]
    etag: Etag | None = None


class CheckOperation(_Operation):
    """A condition of a transaction on a key that it does not write."""

    op: Literal["check"]
    #: Demand that the key's state has this etag.
    etag: Etag | None = None
    #: In place of an etag: demand that the key is there, or that it is absent.
    exists: bool | None = None


Operation = SaveOperation | DeleteOperation | CheckOperation

#: What each operation takes, and what it has to have.
_OPERATION_FIELDS: Final = {
    str(get_args(model.model_fields["op"].annotation)[0]): (
        frozenset(model.model_fields),
        [name for name, field in model.model_fields.items() if field.is_required()],
    )
    for model in get_args(Operation)
}


def _check_operations(operations: Any) -> list[dict[str, Any]]:
    """Look at the outline of operations. As for metadata, the model's own rules would list everything that is wrong."""
    if not isinstance(operations, list) or not operations:
        raise InvalidError("is an array of one operation or more", code="bad_operations", field="operations")
    if len(operations) > MAX_OPERATIONS:
        raise InvalidError(f"is limited to {MAX_OPERATIONS} operations", code="bad_operations", field="operations")
    return [_check_operation(f"operations[{number}]", operation) for number, operation in enumerate(operations)]


def _check_operation(place: str, operation: Any) -> dict[str, Any]:
    if not isinstance(operation, dict):
        raise InvalidError("is an object", code="bad_operations", field=place)
    op = operation.get("op")
    fields, required = _OPERATION_FIELDS.get(op, ((), ())) if isinstance(op, str) else ((), ())
    if not fields:
        raise InvalidError(f"must be one of {', '.join(_OPERATION_FIELDS)}", code="bad_op", field=f"{place}.op")
    for name in operation:
        if name not in fields:
            raise InvalidError(
                "is not a field of this operation", code="unknown_field", field=shorten(f"{place}.{name}")
            )
    for name in required:
        if name not in operation:
            raise InvalidError("is required", code="missing_field", field=f"{place}.{name}")
    if op == "check" and (operation.get("etag") is None) == (operation.get("exists") is None):
        raise InvalidError("demands either an etag or, by `exists`, presence or absence", code="bad_check", field=place)
    return operation


@final
class TransactCommand(_Command):
    """Apply all operations in the order in which they stand, or none of them."""

    op: Literal["transact"]
    store: StoreName = DEFAULT_STORE
    operations: Annotated[
        list[Annotated[Operation, Field(discriminator="op")]],
        BeforeValidator(_check_operations),
    ]
    #: On a conflict, answer with the current value of the key in question too.
    return_current: bool = False
    #: Kept with each event.
    metadata: Metadata | None = None
    #: To be published if it is committed. They belong to the key of the first operation.
    messages: Messages | None = None

    @model_validator(mode="after")
    def _check_stores(self) -> Self:
        for number, one in enumerate(self.operations):
            if one.store not in (None, self.store):
                raise SeveralStoresError(
                    "a transaction is about one store: events of two stores cannot be committed in one step",
                    field=f"operations[{number}].store",
                )
        return self

    @property
    def key(self) -> str:
        """That of the first operation: the transaction is applied where commands on it are."""
        return self.operations[0].key


@final
class QueryCommand(_Command):
    """A page of the current values that match, of those keys that the sender may query and read."""

    op: Literal["query"]
    store: StoreName = DEFAULT_STORE
    #: What the keys begin with.
    prefix: Annotated[str, AfterValidator(_check_prefix)] = ""
    #: As in queries.py; null for all. Checked here, and read into a tree where it is used.
    filter: Annotated[Any, PlainValidator(_check_filter)] = None
    #: Orders by fields; by key where there are none.
    sort: Annotated[list[Any], PlainValidator(_check_sort)] = []
    #: Members of the values to be shown; null for all.
    projection: Annotated[list[Any] | None, PlainValidator(_check_projection)] = None
    #: Entries at most.
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100
    #: Of the page before.
    token: Annotated[str, StringConstraints(max_length=MAX_TOKEN_LENGTH)] | None = None
    #: Tell how it would be answered, and nothing else.
    explain: bool = False


@final
class WatchCommand(_Command):
    """A page of what is there, for whoever follows the change feed: versions of keys in byte order, and newest events.

    It shows everything that was in the feed before the command was sent.
    """

    op: Literal["watch"]
    store: StoreName = DEFAULT_STORE
    #: What the keys begin with.
    prefix: Annotated[str, AfterValidator(_check_prefix)] = ""
    #: Only keys behind this one.
    after: Annotated[str, AfterValidator(_check_after)] | None = None
    #: Keys on the page at most.
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 500
    #: False gives the versions alone.
    values: bool = True
    #: Instead of all keys that are there, the events of those that changed then or later, deleted ones too.
    since: Millis | None = None


@final
class ChangesCommand(_KeyCommand):
    """A page of the key's events, oldest first, as the change feed tells them: for what it may have missed."""

    op: Literal["changes"]
    #: Only events of later versions.
    after_version: Annotated[int, Field(ge=0, le=MAX_INT)] = 0
    #: Only events of this time or later.
    since: Millis | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100


@final
class KeysCommand(_Command):
    """A page of the keys that are there, in byte order; of those that the sender may know of."""

    op: Literal["keys"]
    store: StoreName = DEFAULT_STORE
    #: What the keys begin with.
    prefix: Annotated[str, AfterValidator(_check_prefix)] = ""
    #: Only keys behind this one.
    after: Annotated[str, AfterValidator(_check_after)] | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 100
    #: How many they are, and not which. A page then is as long as it can be, and ``limit`` plays no part.
    count_only: bool = False


@final
class DescribeCommand(_Command):
    """The service's protocol range, partitions, epoch, stores, limits and time."""

    op: Literal["describe"]


Mutation = SaveCommand | DeleteCommand | PatchCommand | RestoreCommand | PurgeCommand
KeyCommand = Mutation | ReadCommand | HistoryCommand | ChangesCommand
Command = (
    SaveCommand
    | DeleteCommand
    | PatchCommand
    | RestoreCommand
    | PurgeCommand
    | TransactCommand
    | ReadCommand
    | HistoryCommand
    | QueryCommand
    | KeysCommand
    | WatchCommand
    | ChangesCommand
    | DescribeCommand
)
AnyCommand = Annotated[Command, Field(discriminator="op")]
