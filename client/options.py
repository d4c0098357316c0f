"""Options that calls share, and how they stand in a command. Plain functions and data, no I/O.

They are declared once and taken as ``**options``: type checkers and editors know each of them by name, and so does
``help()``, since :func:`spelled_out` writes them out.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypedDict, TypeVar, get_args, get_origin, get_type_hints

from ..events import OutboxMessage
from ..events.outbox import check_messages
from .calls import Wire
from .encryption import Encryption
from .keyspace import Strategy
from .lifetime import Ttl, to_seconds
from .serializers import Serializer

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

#: Of options that are not None when they are not given.
_DEFAULTS: Final[Mapping[str, Any]] = {"messages": (), "return_current": False}


class ConnectOptions(TypedDict, total=False):
    """What a client can be told when it is made, see :func:`connect`."""

    timeout: float
    store: str
    max_in_flight: int
    name: str | None
    keys: Strategy | None
    encryption: Encryption | None


class CommandOptions(TypedDict, total=False):
    """What every command takes that may change something."""

    #: In the place of the client's default store.
    store: str | None
    #: Kept with the event, or with each of them.
    metadata: Mapping[str, str] | None
    #: Seconds, in the place of the client's default.
    timeout: float | None
    #: The command id; a new one unless this repeats an earlier call.
    id: str | None


class WriteOptions(CommandOptions, total=False):
    """What every write of one key takes."""

    #: Demand that the key's current state has this etag.
    etag: str | None
    #: What this belongs to, such as a request or an order; kept with the event.
    correlation_id: str | None
    #: What led to it, such as the id of another command; kept with the event.
    causation_id: str | None


class DeleteOptions(WriteOptions, total=False):
    """What a delete takes."""

    #: Published if the write is committed, and only then: at least once, in order.
    messages: Sequence[OutboxMessage]
    #: A conflict brings the value that it met.
    return_current: bool


class ValueOptions(DeleteOptions, total=False):
    """What saves and patches take."""

    #: How long the value lives: seconds, or a timedelta of whole ones.
    ttl: Ttl | None


class RestoreOptions(WriteOptions, total=False):
    """What a restore takes."""

    #: How long the value lives: seconds, or a timedelta of whole ones.
    ttl: Ttl | None
    #: A conflict brings the value that it met.
    return_current: bool


class TransactOptions(CommandOptions, total=False):
    """What a transaction takes."""

    #: Published if it is committed, and only then: at least once, in order.
    messages: Sequence[OutboxMessage]
    #: A conflict brings the value that it met.
    return_current: bool


class HandleOptions(TypedDict, Generic[T], total=False):
    """What a handle takes, see :meth:`Client.state`."""

    store: str | None
    default: Callable[[], T] | None
    ttl: Ttl | None
    timeout: float | None
    serializer: Serializer[T] | None


def write_out(command: Wire, options: CommandOptions, kind: type[CommandOptions]) -> None:
    """Put what the options say into a command, apart from its store and its id; what is the default is left out.

    :param kind: which options the call takes.
    :raises TypeError: if there is another one: a misspelt condition must not be passed over.
    """
    known: frozenset[str] = kind.__optional_keys__  # type: ignore[attr-defined]  # each typed dict has it
    if not options.keys() <= known:
        strange = ", ".join(sorted(options.keys() - known))
        raise TypeError(f"{command['op']} got an unexpected keyword argument: {strange}")
    given: Mapping[str, Any] = options
    for name in ("etag", "correlation_id", "causation_id"):
        if given.get(name) is not None:
            command[name] = given[name]
    if given.get("messages"):
        command["messages"] = [message.model_dump() for message in check_messages(given["messages"])]
    if given.get("ttl") is not None:
        command["ttl_seconds"] = to_seconds(given["ttl"])
    if given.get("metadata"):
        command["metadata"] = dict(given["metadata"])
    if given.get("return_current"):
        command["return_current"] = True


def spelled_out(call: F) -> F:
    """Have ``help()`` and ``inspect.signature`` tell the options of a call one by one, and not as ``**options``."""
    signature = inspect.signature(call)
    *parameters, options = signature.parameters.values()
    (kind,) = get_args(options.annotation)
    for name, hint in get_type_hints(get_origin(kind) or kind).items():
        default = _DEFAULTS.get(name)
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint))
    call.__dict__["__signature__"] = signature.replace(parameters=parameters)
    return call
