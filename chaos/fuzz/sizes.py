"""Inputs at and beyond the limits of a message."""

from collections.abc import Callable
from random import Random
from typing import Any

from . import texts
from .commands import fresh_id
from .oracle import MESSAGE_BYTES, MESSAGE_COMMANDS, VALUE_BYTES

#: What would be larger is cut off. The broker closes the channel on messages above 16 MiB, so that no worker sees one.
LARGEST_BYTES = 2 * MESSAGE_BYTES


def large(rng: Random, number: int) -> bytes:
    """A large value, a large message, or something large where only something short is good."""
    made = fresh_id(number).encode()
    size = rng.choice((VALUE_BYTES // 2, VALUE_BYTES - 2, VALUE_BYTES + 2, 3 * VALUE_BYTES))
    save = b'{"id":"%s","op":"save","key":"large","value":%s}'
    kind = rng.randrange(8)
    if kind == 0:
        return save % (made, b'"' + b"x" * (size - 2) + b'"')
    if kind == 1:
        return save % (made, b"[" + b",".join([b"1"] * (size // 2)) + b"]")
    if kind == 2:
        return save % (made, b"[" + b",".join([b"[]"] * (size // 3)) + b",18446744073709551616]")
    if kind == 3:
        whole = save % (made, b"1")
        return whole + b" " * (MESSAGE_BYTES - len(whole) + rng.choice((-1, 0, 1, 100_000)))
    if kind == 4:
        return b'{"id":"%s","op":"read","key":"k","%s":1}' % (made, b"n" * size)
    if kind == 5:
        return b'{"id":"%s","op":"save","key":"k","value":{"%s":[{"b\\u0000":1}]}}' % (made, b"n" * size)
    if kind == 6:
        # Written again, it is four times as long.
        return b"[" + save % (made, b"[" + b",".join([b"1e15"] * (size // 5)) + b"]") + b',{"op":"read"}]'
    name = rng.choice(("key", "etag", "store", "op", "v", "concurrency", "metadata")).encode()
    return b'{"id":"%s","op":"save","value":1,"key":"k","%s":"%s"}' % (made, name, b"n" * size)


def large_array(rng: Random, number: int, element: Callable[[Random, str], Any]) -> bytes:
    """Many commands, around the most that a message may have, or far too many."""
    kind = rng.randrange(5)
    count = rng.choice((1000, MESSAGE_COMMANDS, MESSAGE_COMMANDS + 1, 300_000 if kind == 0 else 2))
    if kind == 0:
        return b"[" + b",".join([rng.choice((b"0", b"{}", b"[]", b'{"op":"read"}'))] * count) + b"]"
    if kind == 1:
        return texts.write(rng, [element(rng, fresh_id(number, part)) for part in range(min(count, 2000))])
    rest = rng.choice(('"read"', '"save","value":1', '"describe"', '"delete","etag":"x"', '"fly"'))
    items = []
    for part in range(count):
        key = "" if rest == '"describe"' else f'"key":"k{part % 300}",'
        items.append(f'{{{key}"id":"{fresh_id(number, part)}","op":{rest}}}')
    return b"[" + ",".join(items).encode() + b"]"
