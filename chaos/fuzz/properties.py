"""AMQP 0-9-1 properties as bytes, to send what no library would, and to read what comes back."""

import struct
from collections.abc import Mapping
from typing import Any

#: In their order on the wire, with their flag and kind: a short text, a table, or so many bytes.
_PROPERTIES: dict[str, tuple[int, str | int]] = {
    "content_type": (1 << 15, "text"),
    "content_encoding": (1 << 14, "text"),
    "headers": (1 << 13, "table"),
    "delivery_mode": (1 << 12, 1),
    "priority": (1 << 11, 1),
    "correlation_id": (1 << 10, "text"),
    "reply_to": (1 << 9, "text"),
    "expiration": (1 << 8, "text"),
    "message_id": (1 << 7, "text"),
    "timestamp": (1 << 6, 8),
    "type": (1 << 5, "text"),
    "user_id": (1 << 4, "text"),
    "app_id": (1 << 3, "text"),
    "cluster_id": (1 << 2, "text"),
}
_NUMBERS = {
    b"t": "?",
    b"b": "b",
    b"B": "B",
    b"s": "h",
    b"u": "H",
    b"I": "i",
    b"i": "I",
    b"l": "q",
    b"f": "f",
    b"d": "d",
}
_FIXED = {b"T": 8, b"D": 5, b"V": 0}


def encode(properties: Mapping[str, bytes]) -> bytes:
    """Flags and values. Texts are given without their length, a table as its entries, the others as they are."""
    flags = 0
    parts = [b""]
    for name, (flag, kind) in _PROPERTIES.items():
        value = properties.get(name)
        if value is None:
            continue
        flags |= flag
        if kind == "text":
            parts.append(bytes([len(value)]))
        elif kind == "table":
            parts.append(struct.pack(">I", len(value)))
        parts.append(value)
    parts[0] = struct.pack(">H", flags)
    return b"".join(parts)


def decode(data: bytes) -> dict[str, bytes]:
    """The inverse of :func:`encode`."""
    (flags,) = struct.unpack_from(">H", data)
    offset = 2
    properties: dict[str, bytes] = {}
    for name, (flag, kind) in _PROPERTIES.items():
        if not flags & flag:
            continue
        if kind == "text":
            size, offset = data[offset], offset + 1
        elif kind == "table":
            (size,), offset = struct.unpack_from(">I", data, offset), offset + 4
        else:
            size = int(kind)
        properties[name] = data[offset : offset + size]
        offset += size
    return properties


def entry(name: bytes, kind: bytes, value: bytes = b"") -> bytes:
    """One entry of a table; the value as it is on the wire."""
    return bytes([len(name)]) + name + kind + value


def sized(data: bytes) -> bytes:
    """What has its length in front: long texts, arrays, tables and bytes as values of a table."""
    return struct.pack(">I", len(data)) + data


def read_table(data: bytes) -> dict[bytes, Any]:
    """Names and values of a table's entries; values that are tables or arrays are left as bytes."""
    entries: dict[bytes, Any] = {}
    offset = 0
    while offset < len(data):
        start, offset = offset + 1, offset + 1 + data[offset]
        name, kind = data[start:offset], data[offset : offset + 1]
        offset += 1
        if kind in _NUMBERS:
            (entries[name],) = struct.unpack_from(f">{_NUMBERS[kind]}", data, offset)
            offset += struct.calcsize(f">{_NUMBERS[kind]}")
        else:
            size = _FIXED.get(kind)
            if size is None:
                (size,), offset = struct.unpack_from(">I", data, offset), offset + 4
            entries[name] = data[offset : offset + size]
            offset += size
    return entries
