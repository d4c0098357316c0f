"""Messages whose AMQP properties the driver cannot read, or takes too long for.

Publishers may send any bytes as a correlation id, any number as a timestamp, tables within tables within tables. The
driver takes what it cannot decode for a broken connection and closes it. The message comes back, and one such message
would keep a worker, and then the next one, from working until the broker gives it up.
"""

from collections.abc import Callable
from functools import wraps
from struct import Struct
from typing import Any

from pamqp.commands import Basic
from pamqp.header import ContentHeader

from ..events.topology import HOP_HEADER

#: Stands among the headers in the place of properties that could not be read.
UNREADABLE_HEADER = "x-holdfast-unreadable"
#: How often the broker has handed out a message before; only it sets this on a message that it hands out again.
DELIVERY_COUNT_HEADER = "x-delivery-count"

#: Bytes of properties that are left to the driver. For each entry of a table it copies the rest of it: 128 KiB of
#: headers, the most that fits into a frame, can take it 0.7 s, in which nothing else is done.
MAX_LEFT_TO_DRIVER = 1024

#: What a worker looks at; of the headers, these two.
_PROPERTIES = frozenset({"headers", "correlation_id", "reply_to", "message_id", "user_id"})
_HEADERS = frozenset({HOP_HEADER.encode(), DELIVERY_COUNT_HEADER.encode()})

_SIZES_AND_FLAGS = Struct(">HHQH")
_LENGTH = Struct(">I")
#: AMQP's kinds of values, in headers …
_INTEGERS = {
    ord(kind): Struct(f">{code}")
    for kind, code in {"b": "b", "B": "B", "s": "h", "u": "H", "I": "i", "i": "I", "l": "q", "L": "q"}.items()
}
_SIZES = {ord(kind): size for kind, size in {"t": 1, "f": 4, "d": 8, "D": 5, "T": 8, "V": 0, "\0": 0}.items()}
_WITH_LENGTH = frozenset(b"SAFx")


def read_what_is_readable() -> None:
    """Teach the driver to hand out messages with unreadable properties. Repeating it is harmless."""
    if not hasattr(ContentHeader.unmarshal, "__wrapped__"):
        ContentHeader.unmarshal = _careful(ContentHeader.unmarshal)  # type: ignore[method-assign]
        Basic.Deliver.unmarshal = _forgiving(Basic.Deliver.unmarshal)  # type: ignore[method-assign]


def _careful(unmarshal: Callable[..., None]) -> Callable[..., None]:
    @wraps(unmarshal)
    def careful(self: ContentHeader, data: bytes) -> None:
        if len(data) <= MAX_LEFT_TO_DRIVER:
            try:
                unmarshal(self, data)
            except Exception:  # noqa: BLE001, S110 - whatever is wrong with it may be of no interest: see below
                pass
            else:
                if self.properties.headers:
                    self.properties.headers.pop(UNREADABLE_HEADER, None)
                return
        self.class_id, self.weight, self.body_size, _ = _SIZES_AND_FLAGS.unpack_from(data)
        try:
            self.properties = read_what_is_looked_at(data)
        except Exception as fault:  # noqa: BLE001 - whatever is wrong with it, it is only this message's
            self.properties = Basic.Properties(headers={UNREADABLE_HEADER: f"{type(fault).__name__}: {fault}"})

    return careful


def _forgiving(unmarshal: Callable[..., None]) -> Callable[..., None]:
    @wraps(unmarshal)
    def forgiving(self: Basic.Deliver, data: bytes) -> None:
        try:
            unmarshal(self, data)
        except Exception:  # noqa: BLE001 - as above
            # It is the last field, the only one that publishers choose, and nobody looks at it.
            self.routing_key = ""

    return forgiving


def read_what_is_looked_at(data: bytes) -> Basic.Properties:
    """Those properties of a content header that a worker looks at, in one pass over it, whatever the others are.

    :raises ValueError: if one of these is not what it should be.
    """
    properties = Basic.Properties()
    *_, flags = _SIZES_AND_FLAGS.unpack_from(data)
    if flags & 1:
        raise ValueError("there are more flags than properties")
    offset = _SIZES_AND_FLAGS.size
    for name in Basic.Properties.__slots__:
        if not flags & Basic.Properties.flags[name]:
            continue
        kind = Basic.Properties.amqp_type(name)
        if kind == "shortstr":
            start, offset = offset + 1, offset + 1 + data[offset]
            if name in _PROPERTIES:
                setattr(properties, name, data[start:offset].decode())
        elif kind == "table":
            start, offset = offset + 4, offset + 4 + _LENGTH.unpack_from(data, offset)[0]
            properties.headers = _read_headers(data, start, offset)
        else:
            offset += {"octet": 1, "timestamp": 8}[kind]
    if offset > len(data):
        raise ValueError("the properties end before their end")
    return properties


def _read_headers(data: bytes, offset: int, end: int) -> dict[str, Any]:
    headers: dict[str, Any] = {}
    while offset < end:
        start, offset = offset + 1, offset + 1 + data[offset]
        name, kind = data[start:offset], data[offset]
        offset += 1
        if kind in _INTEGERS:
            value = _INTEGERS[kind].unpack_from(data, offset)[0] if name in _HEADERS else None
            offset += _INTEGERS[kind].size
        else:
            value = None
            offset += 4 + _LENGTH.unpack_from(data, offset)[0] if kind in _WITH_LENGTH else _SIZES[kind]
        if name in _HEADERS:
            headers[name.decode()] = value
    return headers
