"""Dead letters: what a message of the dead letter queue tells. Plain data, no I/O."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from hashlib import blake2b
from typing import Any

from aiormq.abc import DeliveredMessage

from ..events import InvalidError
from ..events.codec import parse_json
from ..events.limits import MAX_MESSAGE_BYTES
from ..events.topology import (
    AUTHOR_HEADER,
    DEFAULT_STORE,
    DELIVERIES_HEADER,
    DETAIL_HEADER,
    LETTER_HEADER,
    MESSAGE_ID_HEADER,
    QUEUE_HEADER,
    REASON_HEADER,
    REPLAY_HEADER,
    REPLY_TO_HEADER,
    TIME_HEADER,
)
from ..worker.properties import UNREADABLE_HEADER

#: The reason of a letter that neither a worker nor the broker has put there.
UNKNOWN = "unknown"
#: The reason of one whose properties a worker could not read.
BAD_PROPERTIES = "bad_properties"

#: What the broker's own reasons mean.
_DETAILS = {
    "delivery_limit": "delivered more often than the queue's limit allows",
    "expired": "its expiration passed before a worker took it",
    "maxlen": "the queue was full",
    "rejected": "a consumer rejected it",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One command in a letter, as far as it can be made out without judging it."""

    id: str | None
    op: str | None
    store: str | None
    key: str | None


#: Of a command nothing is known.
NOTHING = Entry(None, None, None, None)


@dataclass(frozen=True)
class DeadLetter:
    """One message of the dead letter queue.

    What workers have buried tells in headers of its own who sent it; what the broker has put there is the message as it
    was, with its validated ``user_id``, and such headers in it would be its sender's word only.
    """

    #: Sixteen hex digits. A copy, which the broker makes if it gives up a message that was replayed, has the same.
    id: str
    reason: str
    detail: str
    body: bytes
    #: When it was buried, in milliseconds since 1970. The broker tells seconds.
    time: int | None = None
    #: The queue that the message was in.
    queue: str | None = None
    #: How often it had been delivered there.
    deliveries: int | None = None
    #: The validated user-id of its sender.
    author: str | None = None
    message_id: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    headers: Mapping[str, Any] | None = None
    #: Whether the properties of the message could be read. If not, nobody knows who sent it.
    readable: bool = True

    @classmethod
    def of(cls, message: DeliveredMessage) -> "DeadLetter":
        """Read a message. Whatever stands in it, this raises nothing."""
        properties = message.header.properties
        headers: dict[str, Any] = dict(properties.headers or {})
        death = _death(headers)
        if death is None and REASON_HEADER in headers:
            return cls(
                id=_letter_id(headers, LETTER_HEADER) or _digest(message.body, headers),
                reason=_text(headers[REASON_HEADER]) or UNKNOWN,
                detail=_text(headers.get(DETAIL_HEADER)) or "",
                body=message.body,
                time=_number(headers.get(TIME_HEADER)),
                queue=_text(headers.get(QUEUE_HEADER)),
                deliveries=_number(headers.get(DELIVERIES_HEADER)),
                author=_text(headers.get(AUTHOR_HEADER)),
                message_id=_text(headers.get(MESSAGE_ID_HEADER)),
                correlation_id=properties.correlation_id,
                reply_to=_text(headers.get(REPLY_TO_HEADER)),
                headers=headers,
                readable=headers[REASON_HEADER] != BAD_PROPERTIES,
            )
        told = death or {}
        reason = _text(told.get("reason")) or UNKNOWN
        said = (properties.message_id, properties.correlation_id, properties.reply_to, properties.user_id)
        unreadable = headers.get(UNREADABLE_HEADER)
        return cls(
            # A replayed message names its letter. Of any other everything that tells it from others is hashed: those
            # that have the same are the same to everybody.
            id=_letter_id(headers, REPLAY_HEADER) or _digest(message.body, said, told),
            reason=reason,
            detail=_DETAILS.get(reason, "") if unreadable is None else f"its properties cannot be read: {unreadable}",
            body=message.body,
            time=_millis(told.get("time")),
            queue=_text(told.get("queue")),
            author=properties.user_id or None,
            message_id=properties.message_id or None,
            correlation_id=properties.correlation_id,
            reply_to=properties.reply_to or None,
            headers=headers,
            readable=unreadable is None,
        )

    @cached_property
    def entries(self) -> list[Entry]:
        """The commands in it, as far as they can be made out; none if it is no JSON or too large to be looked at."""
        if len(self.body) > MAX_MESSAGE_BYTES:
            return []
        try:
            data = parse_json(self.body)
        except InvalidError:
            return []
        if isinstance(data, dict):
            return [entry_of({"id": self.message_id, **data})]
        return [entry_of(item) for item in data if isinstance(item, dict)] if isinstance(data, list) else []

    @cached_property
    def text(self) -> str | None:
        """The body as text; None if it is none."""
        try:
            return self.body.decode()
        except UnicodeDecodeError:
            return None

    def summary(self) -> dict[str, Any]:
        """What a list shows of it, fit for JSON. Of several commands it shows the first."""
        first = next(iter(self.entries), NOTHING)
        return {
            "letter": self.id,
            "reason": self.reason,
            "detail": self.detail,
            "time": self.time,
            "author": self.author,
            "size": len(self.body),
            "commands": len(self.entries),
            "id": first.id,
            "op": first.op,
            "store": first.store,
            "key": first.key,
        }

    def record(self) -> dict[str, Any]:
        """All of it, fit for JSON. A body that is no text is in base64."""
        text = self.text
        body = {"body": text} if text is not None else {"body_base64": base64.b64encode(self.body).decode()}
        return {
            "letter": self.id,
            "reason": self.reason,
            "detail": self.detail,
            "time": self.time,
            "queue": self.queue,
            "deliveries": self.deliveries,
            "author": self.author,
            "message_id": self.message_id,
            "correlation_id": self.correlation_id,
            "reply_to": self.reply_to,
            "headers": plain(self.headers or {}),
            **body,
        }


def plain(value: Any) -> Any:
    """A header's value in terms of JSON."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case bytes() | bytearray():
            return bytes(value).decode(errors="backslashreplace")
        case datetime():
            return value.isoformat()
        case Mapping():
            return {str(name): plain(item) for name, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return str(value)


def entry_of(data: Mapping[str, Any]) -> Entry:
    """What can be made out of a command that nobody has checked. A transaction shows its first key."""
    key, operations = data.get("key"), data.get("operations")
    if isinstance(operations, list) and operations and isinstance(operations[0], Mapping):
        key = operations[0].get("key")
    return Entry(
        id=_text(data.get("id")),
        op=_text(data.get("op")),
        store=_text(data.get("store", DEFAULT_STORE)) if key is not None else None,
        key=_text(key),
    )


def _death(headers: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the broker tells of a message that it has put there itself, newest first."""
    deaths = headers.get("x-death")
    if isinstance(deaths, list) and deaths and isinstance(deaths[0], Mapping):
        return deaths[0]
    return None


def _letter_id(headers: Mapping[str, Any], header: str) -> str | None:
    letter = headers.get(header)
    return letter if isinstance(letter, str) and is_letter_id(letter) else None


def is_letter_id(text: str) -> bool:
    """Whether it has the form of a letter's id."""
    return len(text) == 16 and all(digit in "0123456789abcdef" for digit in text)


def _digest(*parts: Any) -> str:
    # What changes each time that a letter is looked at must not change its id.
    stable = [_without_counts(part) for part in parts]
    return blake2b(repr(stable).encode(errors="backslashreplace"), digest_size=8).hexdigest()


def _without_counts(part: Any) -> Any:
    if isinstance(part, Mapping):
        return sorted((str(name), repr(value)) for name, value in part.items() if name not in _COUNTS)
    return part


_COUNTS = frozenset({"x-delivery-count", "x-acquired-count"})


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _millis(value: Any) -> int | None:
    if isinstance(value, datetime):
        return int(value.timestamp() * 1000)
    return None
