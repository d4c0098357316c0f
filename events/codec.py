"""The wire codec: message bodies to commands and back. Nothing here does I/O."""

import json
from dataclasses import dataclass
from typing import Any, NamedTuple, final, get_args

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from .commands import AnyCommand, Command, check_id
from .errors import InvalidError, TooLargeError
from .limits import MAX_MESSAGE_BYTES, MAX_MESSAGE_COMMANDS
from .replies import Reply
from .values import shorten

_one: TypeAdapter[Command] = TypeAdapter(AnyCommand)
_many: TypeAdapter[list[Command]] = TypeAdapter(list[AnyCommand])
_replies: TypeAdapter[list[Reply]] = TypeAdapter(list[Reply])

# Every digit becomes a 0 and everything else a blank, to find long runs of digits at the speed of memchr.
_DIGITS = bytes(48 if 48 <= code <= 57 else 32 for code in range(256))
_LONG_NUMBER = b"0" * 19

#: What each op takes.
_FIELDS = {
    str(get_args(model.model_fields["op"].annotation)[0]): frozenset(model.model_fields) for model in get_args(Command)
}
_MOST_FIELDS = max(map(len, _FIELDS.values()))

#: Commands that are validated together. All faults of all of them are listed for nothing, if there are any.
_AT_A_TIME = 100


@final
@dataclass(frozen=True, slots=True)
class BadCommand:
    """An element of a message that is no valid command, and why."""

    error: InvalidError
    #: Its id, if it has a usable one, so that the sender can tell which it was.
    id: str | None
    #: The element as it came, for the dead letter queue.
    raw: Any


class Decoded(NamedTuple):
    """A message's commands in order. ``is_array`` says whether the answer is to be an array too."""

    commands: list[Command | BadCommand]
    is_array: bool


def parse_json(body: bytes) -> Any:
    """Parse strict JSON without loss: orjson turns integers beyond 64 bits into floats, so those go another way.

    :raises InvalidError: if it is not JSON (RFC 8259, UTF-8).
    """
    try:
        data = orjson.loads(body)
        if _LONG_NUMBER in body.translate(_DIGITS):
            data = json.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidError(f"not JSON: {error}", code="malformed") from None
    except (ValueError, RecursionError) as error:
        raise InvalidError(f"not usable JSON: {error}", code="malformed") from None
    return data


def decode_commands(body: bytes, *, message_id: str | None = None) -> Decoded:
    """Read one message. A bad element fails alone, the others are commands.

    A single object may leave out ``id``: the message id takes its place. In an array every element has its own,
    and no two are equal.

    :raises InvalidError: if the message as a whole cannot be read, or is neither an object nor an array.
    :raises TooLargeError: if it has too many bytes or too many commands.
    """
    if len(body) > MAX_MESSAGE_BYTES:
        raise TooLargeError(f"a message is limited to {MAX_MESSAGE_BYTES} bytes, not {len(body)}")
    data = parse_json(body)
    if isinstance(data, dict):
        if "id" not in data and message_id:
            data["id"] = message_id
        return Decoded([_decode_one(data)], is_array=False)
    if not isinstance(data, list):
        raise InvalidError("a message is a command or an array of commands", code="malformed")
    if len(data) > MAX_MESSAGE_COMMANDS:
        raise TooLargeError(f"a message is limited to {MAX_MESSAGE_COMMANDS} commands, not {len(data)}")
    commands = _decode_many(data)
    if len({command.id for command in commands}) != len(commands):
        _refuse_equal_ids(commands, data)
    return Decoded(commands, is_array=True)


def _decode_many(items: list[Any]) -> list[Command | BadCommand]:
    """Some at a time, which is quicker, until there is something wrong; then one by one."""
    commands: list[Command | BadCommand] = []
    for start in range(0, len(items), _AT_A_TIME):
        some = items[start : start + _AT_A_TIME]
        if not all(map(_is_plausible, some)):
            break
        try:
            commands += _many.validate_python(some)
        except ValidationError:
            break
    return commands + [_decode_one(item) for item in items[len(commands) :]]


def _is_plausible(data: Any) -> bool:
    """Whether it is worth validating. That lists every fault there is, and short commands can have a lot of them."""
    return type(data) is dict and len(data) <= _MOST_FIELDS and type(data.get("op")) is str


def _decode_one(data: Any) -> Command | BadCommand:
    if not isinstance(data, dict):
        return BadCommand(InvalidError("a command is a JSON object", code="malformed"), None, data)
    op = data.get("op")
    known = _FIELDS.get(op) if isinstance(op, str) else None
    if known is None:
        fault = InvalidError(f"must be one of {', '.join(_FIELDS)}", code="bad_op", field="op")
    elif not data.keys() <= known:
        name = next(name for name in data if name not in known)
        fault = InvalidError("is not a field of this command", code="unknown_field", field=shorten(name))
    else:
        try:
            return _one.validate_python(data)
        except ValidationError as error:
            fault = _explain(error)
    return BadCommand(fault, usable_id(data), data)


def _refuse_equal_ids(commands: list[Command | BadCommand], data: list[Any]) -> None:
    seen: set[str] = set()
    for index, command in enumerate(commands):
        if command.id is None:
            continue
        if command.id in seen:
            refusal = InvalidError("is used twice in this array", code="duplicate_id", field="id")
            commands[index] = BadCommand(refusal, command.id, data[index])
        seen.add(command.id)


def usable_id(data: Any) -> str | None:
    """The id of a command that may be anything, for its answer; None if it has none that is one."""
    command_id = data.get("id") if isinstance(data, dict) else None
    try:
        return check_id(command_id) if isinstance(command_id, str) else None
    except InvalidError:
        return None


def _explain(error: ValidationError) -> InvalidError:
    """The first fault as one of our own errors, naming the field. Input is never echoed: it may be secret."""
    fault = error.errors(include_url=False, include_input=False)[0]
    cause = fault.get("ctx", {}).get("error")
    # The first part of the place is the union's tag, the command's op.
    way = fault["loc"][1:]
    if len(way) > 3 and way[0] == "operations":
        return _explain_operation(fault, cause)
    if isinstance(cause, InvalidError):
        return cause
    kind = fault["type"]
    field = str(way[0])
    if kind == "missing":
        return InvalidError("is required", code="missing_field", field=field)
    if field == "v":
        return InvalidError("this worker speaks protocol 1", code="bad_version", field="v")
    place = shorten(".".join(str(part) for part in way))
    return InvalidError(str(fault["msg"]), code=f"bad_{field}", field=place)


def _explain_operation(fault: ErrorDetails, cause: Any) -> InvalidError:
    """A fault within one operation of a transaction. Between its number and the rest is again a tag."""
    _, _, number, _, *way = fault["loc"]
    place = f"operations[{number}]."
    if isinstance(cause, InvalidError):
        message = str(cause).removeprefix(f"{cause.field}: ")
        return InvalidError(message, code=cause.code, field=shorten(f"{place}{cause.field}"))
    return InvalidError(str(fault["msg"]), code=f"bad_{way[0]}", field=shorten(place + ".".join(map(str, way))))


def decode_replies(body: bytes) -> list[Reply]:
    """Read one message of replies, an object or an array of them.

    :raises InvalidError: if it is neither.
    """
    try:
        data = orjson.loads(body)
        return _replies.validate_python(data if isinstance(data, list) else [data])
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise InvalidError(f"not a reply: {error}", code="malformed") from None


def encode(data: Any) -> bytes:
    """Compact JSON.

    :raises InvalidError: if it is not plain JSON data.
    """
    try:
        return orjson.dumps(data)
    except TypeError as error:
        raise InvalidError(str(error), code="bad_value") from None
