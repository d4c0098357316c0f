"""Pieces of JSON, good and bad, that inputs are put together from."""

import json
from random import Random
from typing import Any

OPS = (
    *("save", "delete", "patch", "restore", "purge", "read", "history", "keys", "describe", "transact"),
    *("watch", "changes", "query"),
)
FIELDS = (
    *("op", "v", "id", "sent_at", "deadline", "store", "key", "value", "etag", "max_version", "concurrency"),
    *("return_current", "metadata", "consistency", "after_version", "limit", "correlation_id", "causation_id"),
    *("at_version", "at_time", "before_version", "from_time", "to_time", "backward", "prefix", "after", "count_only"),
    *("kind", "patch", "ttl_seconds", "return_value", "operations", "exists", "messages", "values", "since"),
    *("filter", "sort", "projection", "token", "explain"),
)

KEYS = [f"k{number}" for number in range(300)] + [
    *("ä", "Straße/Ωmega/🚀", " ", "a/b/c", "$where", ".", "%00", "\x01", "\U0010ffff", "'; drop", "__proto__"),
    *("x" * 512, "ß" * 256, "\U0010ffff" * 128),
]

#: Values that some field takes and others do not.
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 1.0, 1.5, -0.0, 1000, 1001, 2**31, 2**53 - 1, 2**53, 2**63 - 1, 2**63, 2**64),
    *(-(2**63), -(2**63) - 1, 10**30, 1e308, 5e-324),
    *("", " ", "a", "1", "null", "\0", "a\0b", "/", "a/b", ".a", "-", "a b", "a\n", "ä", "default", "nowhere", "none"),
    *("merge", "json-patch", "increment", "patch"),
    *("first-write", "last-write", "strong", "eventual", "First-Write", "save", "read", "describe", "fly"),
    *("x" * 64, "x" * 65, "x" * 128, "x" * 129, "x" * 512, "x" * 513, "ß" * 64, "ß" * 65, "ß" * 257, "x" * 5000),
    *([], {}, [[]], [{}], {"a": 1}, {"a": "b"}, {"": ""}, {"a\0": 1}, {"a": "\0"}, {"a": None}, {"\0": "a"}, [1, "a"]),
    *({"a": [2**63]}, {str(number): "x" for number in range(32)}, {str(number): "x" for number in range(33)}),
    *(
        {"a": "x" * 4095},
        {"a": "x" * 4096},
        {"ß": "ß" * 2047},
        {"$where": "1"},
        {"a.b": {"$set": {}}},
        {"__class__": 1},
    ),
]

#: Numbers as texts; not all of them are JSON.
NUMBERS = [
    *("-0", "-0.0", "0e0", "1E5", "1e-5", "1e+5", "1.0e0", "1e15", "1e16", "1e22", "1e23", "0.1", "1e308", "1e309"),
    *("-1e309", "1e400", "1e-400", "5e-324", "2e-324", "1.7976931348623157e308", "1.7976931348623159e308"),
    *("2.2250738585072011e-308", "123456789012345678", "1234567890123456789", "12345678901234567890"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809"),
    *("18446744073709551615", "18446744073709551616", "-18446744073709551616", "9" * 25, "9" * 308, "9" * 309),
    *("9" * 310, "9" * 4299, "9" * 4301, "0." + "3" * 500, "3." + "0" * 400 + "1", "1e" + "0" * 50 + "5"),
    *("01", "-", "+1", "1.", ".5", "1e", "1e+", "0x10", "1_000", "NaN", "Infinity", "-Infinity", "nan", "--1", "1 2"),
    *("\N{ARABIC-INDIC DIGIT ONE}", "1\0", "1,", "1]"),
]

#: Texts between quotation marks, as bytes; not all of them are JSON.
STRINGS = [
    *(b"\\ud800", b"\\udc00", b"\\ud800\\ud800", b"\\udc00\\ud800", b"\\ud83d\\ude00", b"\\uD83D\\uDE00", b"\\ud83dx"),
    *(b"\\u0000", b"\\u001f", b"\\u00e9", b"\\/", b"\\b\\f\\n\\r\\t", b"\\x41", b"\\u12", b"\\u12g4", b"\\", b"\\\\"),
    *(
        b"\0",
        b"\x01",
        b"\n",
        b"\t",
        b"\x7f",
        b"\xff",
        b"\xc3",
        b"\xc3\xa9",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
    ),
    *(b"\xf0\x9f\x9a\x80", b"\xef\xbb\xbf", b"\xef\xbf\xbf", b"\xe2\x80\xa8", b'"', b'\\"', b"1234567890123456789"),
]

TOKENS = [
    *(b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"null", b"true", b"false", b"1", b"-0", b"1e5", b'""', b'"a"'),
    *(b'"op"', b'"save"', b'"read"', b'"key"', b'"k1"', b'"id"', b'"value"', b'{"op":"read","key":"k1"}', b"//", b"'"),
    *(b"\xef\xbb\xbf", b"\0", b"\xff", b"tru", b"nul", b"NaN", b'"\\ud800"', b"9" * 30, b'{"id":"1",', b'"describe"'),
]


def value(rng: Random, depth: int = 0) -> Any:
    """Some value, mostly one that can be kept."""
    kind = rng.random()
    if kind < 0.25 or depth > 4:
        return rng.randrange(-1000, 1000)
    if kind < 0.45:
        return "".join(rng.choices('abc äß🚀"\\/$.\n', k=rng.randrange(12)))
    if kind < 0.6:
        return rng.choice((None, True, False, rng.uniform(-1e6, 1e6), rng.getrandbits(63), -rng.getrandbits(63), 0.0))
    if kind < 0.75:
        return [value(rng, depth + 1) for _ in range(rng.randrange(5))]
    if kind < 0.95:
        return {
            rng.choice(("a", "b", "", "ä", "$set", "a.b", "_id")): value(rng, depth + 1)
            for _ in range(rng.randrange(5))
        }
    return rng.choice(ODD)


def write(rng: Random, data: Any) -> bytes:
    """As JSON, in one of the ways in which it can be written."""
    style = rng.random()
    if style < 0.6:
        return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
    if style < 0.8:
        return json.dumps(data).encode()
    if style < 0.9:
        return json.dumps(data, indent=rng.choice((0, 2, "\t"))).encode()
    return rng.choice((b" ", b"\n", b"\r\n\t ", b"")) + json.dumps(data, ensure_ascii=False).encode() + b"\n"


def mutate(rng: Random, text: bytes) -> bytes:
    """Some bytes changed, lost, doubled or put in."""
    body = bytearray(text)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(body) + 1)
        kind = rng.randrange(8)
        if kind == 0 and at < len(body):
            body[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(body):
            body[at] = rng.randrange(256)
        elif kind == 2:
            del body[at : at + rng.choice((1, 1, 2, 10))]
        elif kind == 3:
            del body[at:]
        elif kind == 4:
            body[at:at] = rng.choice(TOKENS)
        elif kind == 5:
            body[at:at] = rng.randbytes(rng.choice((1, 2, 5)))
        elif kind == 6:
            body[at:at] = body[at : at + rng.randrange(1, 30)]
        else:
            body[:0] = rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b" ", b"\0", b"//\n", b"["))
    return bytes(body)
