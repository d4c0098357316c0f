"""What the dearest messages cost a worker: processor time from bytes to requests and answers, per message and byte."""

import time
from collections.abc import Iterator
from contextlib import suppress

from holdfast.events import InvalidError, decode_commands
from holdfast.events.limits import MAX_MESSAGE_BYTES, MAX_MESSAGE_COMMANDS
from holdfast.worker.ingress import sort_by_partition
from holdfast.worker.process import tune_interpreter

_COUNT = MAX_MESSAGE_COMMANDS


def dear_messages() -> Iterator[tuple[str, bytes]]:
    """Messages that are made to take long."""
    save = b'{"id":"1","op":"save","key":"k","value":'
    noted = b'{"op":"delete","id":"1","key":"k","metadata":{%s}}'
    good = b",".join(b'{"op":"read","id":"%d","key":"k"}' % number for number in range(_COUNT))
    yield "nothing but blanks", b" " * MAX_MESSAGE_BYTES
    yield "arrays without an end", b"[" * MAX_MESSAGE_BYTES
    yield "two million numbers for commands", _fill(b"[", b"0", b"]")
    yield "objects nested 900 times for commands", _fill(b"[", b'{"op":' * 900 + b"0" + b"}" * 900, b"]")
    yield "10,000 numbers for commands", b"[" + b",".join([b"0"] * _COUNT) + b"]"
    yield "10,000 commands without all", b"[" + b",".join([b'{"op":"read"}'] * _COUNT) + b"]"
    yield "10,000 commands with unknown fields", _many(b'{"op":"save",%s}', b'"%x":1', 10)
    yield "10,000 commands with bad metadata", _many(noted, b'"%x":1', 32)
    yield "10,000 good commands", b"[" + good + b"]"
    members = b",".join(b'"%x":1' % number for number in range(380_000))
    yield "380,000 unknown fields", b'{"id":"1","op":"read","key":"k",' + members + b"}"
    yield "metadata of 380,000 entries", b'{"id":"1","op":"delete","key":"k","metadata":{' + members + b"}}"
    yield "a value of two million numbers", _fill(save + b"[", b"1", b"]}")
    yield "a value of 1.4 million lists", _fill(save + b"[", b"[]", b"]}")
    yield "the same, bad at its very end", _fill(save + b"[", b"[]", b",18446744073709551616]}")
    yield "the same, below 95 levels", _fill(save + b"[" * 95, b"[]", b",18446744073709551616" + b"]" * 95 + b"}")
    yield "numbers of 25 digits", _fill(save + b"[", b"9" * 25, b"]}")
    yield "numbers of 300 digits", _fill(save + b"[", b"9" * 300, b"]}")
    yield "a name of 4 MiB", _fill(b'{"id":"1","op":"read","key":"k","', b"n", b'":1}', b"")


def _fill(head: bytes, unit: bytes, tail: bytes, between: bytes = b",") -> bytes:
    count = (MAX_MESSAGE_BYTES - len(head) - len(tail)) // len(unit + between)
    return head + between.join([unit] * count) + tail


def _many(command: bytes, member: bytes, members: int) -> bytes:
    made = command % b",".join(member % number for number in range(members))
    return b"[" + b",".join([made] * _COUNT) + b"]"


def measure(body: bytes) -> tuple[float, float]:
    """Seconds of processor time for reading a message, and for sorting it by partition at the ingress."""
    began = time.process_time()
    with suppress(InvalidError):
        decode_commands(body, message_id="m")
    read = time.process_time()
    sort_by_partition(body, 8)
    return read - began, time.process_time() - read


def table() -> str:
    """All of them, as a table in Markdown."""
    tune_interpreter()
    lines = ["| message | KiB | read, ms | ns/byte | sorted, ms |", "|---|---|---|---|---|"]
    for name, body in dear_messages():
        read, sort = min(measure(body) for _ in range(2))
        per_byte = read / len(body) * 1e9
        figures = f"{len(body) / 1024:,.0f} | {read * 1000:.0f} | {per_byte:.0f} | {sort * 1000:.0f}"
        lines.append(f"| {name} | {figures} |")
    return "\n".join(lines)
