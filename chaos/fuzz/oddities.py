"""Properties and headers that no library would send."""

import struct
from random import Random

from .properties import entry, sized


def spoil(rng: Random, properties: dict[str, bytes], user: bytes) -> bool:
    """Put odd properties among these. Gives back whether the broker may bury the message for one of them."""
    odd = (
        b"",
        b"\xff",
        b"\xc3\x28",
        b"\0",
        b"x" * 255,
        "ß".encode() * 127,
        b"text/plain",
        b"gzip",
        b"\xed\xa0\x80",
    )
    may_expire = False
    for _ in range(rng.choice((1, 1, 2, 4))):
        kind = rng.randrange(12)
        if kind == 0:
            properties["content_type"] = rng.choice(
                (*odd, b"application/octet-stream", b"application/json; charset=utf-16")
            )
        elif kind == 1:
            properties["content_encoding"] = rng.choice((*odd, b"deflate", b"utf-16"))
        elif kind == 2:
            properties[rng.choice(("type", "app_id", "cluster_id"))] = rng.choice(odd)
        elif kind == 3:
            properties["delivery_mode"] = rng.choice((b"\0", b"\1", b"\2", b"\5", b"\xff"))
            properties["priority"] = rng.choice((b"\0", b"\x09", b"\xff"))
        elif kind == 4:
            properties["timestamp"] = rng.choice(
                (b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7, struct.pack(">Q", 1 << 40))
            )
        elif kind == 5:
            properties["user_id"] = user
        elif kind == 6:
            properties["expiration"] = rng.choice((b"0", b"1", b"100000000", b"4294967295"))
            may_expire = len(properties["expiration"]) == 1
        elif kind == 7:
            properties[rng.choice(("message_id", "correlation_id", "reply_to"))] = rng.choice(odd)
        else:
            headers = b"".join(_header(rng) for _ in range(rng.choice((1, 1, 2, 5))))
            properties["headers"] = headers
    return may_expire


def _header(rng: Random) -> bytes:
    kind = rng.randrange(9)
    forged = (
        *(b"x-delivery-count", b"x-acquired-count", b"x-holdfast-hop", b"x-holdfast-unreadable"),
        *(b"x-holdfast-reason", b"x-holdfast-letter", b"x-death", b"x-first-death-reason", b"x-first-death-queue"),
    )
    odd_names = (b"", b"a", b"\xff", b"\0", b"x" * 255, b"content-type", b"x-match", "ß".encode())
    name = rng.choice(forged if kind < 5 else odd_names)
    return entry(name, *_header_value(rng, 0))


def _header_value(rng: Random, level: int) -> tuple[bytes, bytes]:
    kind = rng.randrange(16)
    if kind == 0:
        return b"t", rng.choice((b"\0", b"\1"))
    if kind < 4:
        size, code = rng.choice(((1, b"b"), (1, b"B"), (2, b"s"), (2, b"u"), (4, b"I"), (4, b"i"), (8, b"l")))
        return code, rng.choice((b"\0", b"\xff", b"\x7f", b"\x09")) * size
    if kind == 4:
        # Numbers that are none take the publisher's connection down, in the broker's own reader.
        return rng.choice(((b"f", b"\x3f\x80\0\0"), (b"d", b"\x7f\xe0" + b"\0" * 6), (b"D", b"\xff" * 5), (b"V", b"")))
    if kind == 5:
        return b"T", rng.choice((b"\xff" * 8, b"\0" * 8))
    if kind < 9:
        return b"S", sized(rng.choice((b"", b"100", b"\xff\xfe", b"x" * 2000, b"holdfast.dead")))
    if kind == 9:
        return b"x", sized(rng.randbytes(rng.choice((0, 10, 1000))))
    if kind == 10 and level == 0:
        levels = rng.choice((2, 50, 300, 3000))
        table = b""
        for _ in range(levels):
            table = entry(b"a", b"F", sized(table))
        return b"F", sized(table)
    if kind == 11 and level == 0 and rng.random() < 0.2:
        return b"A", sized(rng.choice((b"V", b"t\1", b"S" + sized(b""))) * rng.choice((100, 10_000)))
    if level < 3:
        inner = [_header_value(rng, level + 1) for _ in range(rng.randrange(4))]
        if kind % 2:
            return b"A", sized(b"".join(code + value for code, value in inner))
        return b"F", sized(b"".join(entry(b"n%d" % place, *each) for place, each in enumerate(inner)))
    return b"V", b""


def copies(partitions: list[int]) -> bytes:
    """Headers with which the broker gives copies to these partitions too."""
    array = b"".join(b"S" + sized(str(partition).encode()) for partition in partitions)
    return entry(b"CC", b"A", sized(array))
