"""Commands: valid ones, and such as are nearly."""

from random import Random
from typing import Any
from zlib import crc32

from . import texts


def fresh_id(number: int, part: int = 0) -> str:
    """An id that no other command has, nor one that comes of it by a small change."""
    text = f"f{number}.{part}"
    return f"{text}-{crc32(text.encode()):08x}"


def is_fresh(command_id: str) -> bool:
    """Whether it is one of these."""
    text, _, digits = command_id.rpartition("-")
    return digits == f"{crc32(text.encode()):08x}"


def command(rng: Random, command_id: str, now: int) -> dict[str, Any]:
    """A valid command."""
    op = rng.choices(texts.OPS, (45, 12, 25, 6, 8))[0]
    command: dict[str, Any] = {"op": op, "id": command_id}
    if rng.random() < 0.03:
        command["id"] = rng.choice(("1", "a", "once", "ä", "x" * 128))
    if rng.random() < 0.1:
        command["v"] = 1
    if rng.random() < 0.08:
        command["sent_at"] = rng.choice((None, now, now - 3_600_000, 0, 2**53 - 1))
    if rng.random() < 0.08:
        command["deadline"] = rng.choice((None, now + 36_000_000, 2**53 - 1, 0, now - 36_000_000))
    if op != "describe":
        command["key"] = rng.choice(texts.KEYS)
        if rng.random() < 0.1:
            command["store"] = rng.choice(("default", "default", "nowhere", "A.b-c_1", "x" * 64))
    if op == "save":
        command["value"] = texts.value(rng)
        if rng.random() < 0.2:
            command["concurrency"] = rng.choice(("first-write", "last-write"))
    if op in ("save", "delete"):
        _conditions(rng, command)
    if op == "read" and rng.random() < 0.4:
        command["consistency"] = rng.choice(("strong", "eventual"))
    if op == "history":
        if rng.random() < 0.5:
            command["after_version"] = rng.choice((0, 1, 5, 2**63 - 1))
        if rng.random() < 0.8:
            command["limit"] = rng.choice((1, 2, 10))
    return command


def _conditions(rng: Random, command: dict[str, Any]) -> None:
    if rng.random() < 0.15:
        command["etag"] = rng.choice((None, "", "1-00000000", "x", "x" * 128, "\0", "ä"))
    if rng.random() < 0.1:
        command["max_version"] = rng.choice((None, 0, 1, 5, 2**63 - 1))
    if rng.random() < 0.1:
        command["return_current"] = rng.choice((True, False))
    if rng.random() < 0.1:
        command["metadata"] = rng.choice((None, {}, {"who": "ä"}, {"": ""}, {"a": "\0"}, {"a": "x" * 4095}))


def near_miss(rng: Random, command: dict[str, Any]) -> None:
    """Spoil one thing, probably."""
    if not command:
        return
    kind = rng.random()
    if kind < 0.6:
        command[rng.choice(texts.FIELDS)] = rng.choice(texts.ODD)
    elif kind < 0.75:
        del command[rng.choice(list(command))]
    elif kind < 0.85:
        command[rng.choice(("ID", "Op", "keys", "ttl", "", "v ", "\0", "ä", "x" * 300, "expires"))] = rng.choice(
            texts.ODD
        )
    elif kind < 0.9:
        name = rng.choice(list(command))
        command[name] = [command[name]]
    elif kind < 0.95:
        name = rng.choice(list(command))
        command[name] = str(command[name])
    else:
        command.update({f"field {number}": number for number in range(rng.choice((1, 20, 200)))})
