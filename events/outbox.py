"""Messages that a write carries: published once it is committed, and only then. What they may be."""

from typing import Annotated, Any

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from .errors import InvalidError
from .limits import (
    MAX_INT,
    MAX_MESSAGES,
    MAX_MESSAGES_BYTES,
    MAX_ROUTING_KEY_BYTES,
    MIN_INT,
)
from .values import check_value, shorten

_MAX_HEADERS = 32
_MAX_HEADER_BYTES = 4096


def _check_short_text(text: str) -> str:
    # AMQP counts the bytes of both names in one byte. That text can be encoded the parser has seen to.
    if "\0" in text or len(text.encode(errors="replace")) > MAX_ROUTING_KEY_BYTES:
        raise ValueError(f"is limited to {MAX_ROUTING_KEY_BYTES} bytes, without NUL")
    return text


def _check_headers(headers: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
    if len(headers) > _MAX_HEADERS:
        raise ValueError(f"are limited to {_MAX_HEADERS}")
    size = 0
    for name, content in headers.items():
        if not 0 < len(name.encode()) <= 128 or name.startswith("x-"):
            raise ValueError("names have 1 to 128 bytes and do not begin with x-")
        if isinstance(content, int) and not MIN_INT <= content <= MAX_INT:
            raise ValueError("integers are limited to 64 bits with sign")
        size += len(name.encode()) + len(str(content).encode())
    if size > _MAX_HEADER_BYTES:
        raise ValueError(f"are limited to {_MAX_HEADER_BYTES} bytes")
    return headers


_ShortText = Annotated[str, AfterValidator(_check_short_text)]


class OutboxMessage(BaseModel):
    """A message to be published if, and only if, the write that carries it is committed; then at least once.

    Messages of one key leave in the order of its versions, and of one write in the order in which it has them.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    #: An exchange that the operators allow. ``""`` is the broker's own, which takes names of queues as routing keys.
    exchange: _ShortText
    routing_key: _ShortText = ""
    #: Any JSON value; it is published as compact JSON.
    body: Annotated[Any, PlainValidator(check_value)] = None
    #: Beside those that tell the store, the key and the version.
    headers: Annotated[dict[str, str | int | bool], AfterValidator(_check_headers)] = Field(default_factory=dict)


def check_messages(messages: Any) -> tuple[OutboxMessage, ...]:
    """The messages of a write.

    :raises InvalidError: if they are not what they have to be; ``field`` names the place.
    """
    if not isinstance(messages, list | tuple):
        raise InvalidError("is an array", code="bad_messages", field="messages")
    if len(messages) > MAX_MESSAGES:
        raise InvalidError(f"is limited to {MAX_MESSAGES} messages", code="bad_messages", field="messages")
    checked = tuple(_check_message(message, f"messages[{number}]") for number, message in enumerate(messages))
    if messages_size(checked) > MAX_MESSAGES_BYTES:
        raise InvalidError(f"is limited to {MAX_MESSAGES_BYTES} bytes", code="bad_messages", field="messages")
    return checked


def _check_message(message: Any, place: str) -> OutboxMessage:
    if isinstance(message, OutboxMessage):
        return message
    # Looked at before the model does, which would list everything that is wrong with however many members.
    if not isinstance(message, dict) or not message.keys() <= OutboxMessage.model_fields.keys():
        raise InvalidError("is an object of exchange, routing_key, body, headers", code="bad_messages", field=place)
    headers = message.get("headers")
    if isinstance(headers, dict) and len(headers) > _MAX_HEADERS:
        raise InvalidError(f"are limited to {_MAX_HEADERS}", code="bad_messages", field=f"{place}.headers")
    try:
        return OutboxMessage.model_validate(message)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        cause = fault.get("ctx", {}).get("error")
        told = str(cause).partition(": ")[2] if isinstance(cause, InvalidError) else fault["msg"]
        name = shorten(".".join([place, *map(str, fault["loc"][:2])]))
        raise InvalidError(told.removeprefix("Value error, "), code="bad_messages", field=name) from None


def messages_size(messages: tuple[OutboxMessage, ...]) -> int:
    """Bytes of compact JSON that the messages take."""
    return len(messages_text(messages))


def messages_text(messages: tuple[OutboxMessage, ...]) -> bytes:
    """The messages as compact JSON, the same for the same messages."""
    return orjson.dumps([message.model_dump() for message in messages], option=orjson.OPT_SORT_KEYS)


# Not a PlainValidator, of which pydantic would serialize the result twice, and warn of that.
Messages = Annotated[tuple[OutboxMessage, ...], BeforeValidator(check_messages)]
