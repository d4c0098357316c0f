"""Commands: valid ones, and such as are nearly."""

from random import Random
from typing import Any
from zlib import crc32

from . import patches, texts
from .queries import query


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
    op = rng.choices(texts.OPS, (36, 10, 14, 4, 2, 20, 6, 2, 8, 8, 2, 4, 8))[0]
    command: dict[str, Any] = {"op": op, "id": command_id}
    if rng.random() < 0.03:
        command["id"] = rng.choice(("1", "a", "once", "ä", "x" * 128))
    if rng.random() < 0.1:
        command["v"] = 1
    if rng.random() < 0.08:
        command["sent_at"] = rng.choice((None, now, now - 3_600_000, 0, 2**53 - 1))
    if rng.random() < 0.08:
        command["deadline"] = rng.choice((None, now + 36_000_000, 2**53 - 1, 0, now - 36_000_000))
    if op == "watch":
        _listing(rng, command)
    elif op not in ("describe", "keys", "query", "transact"):
        command["key"] = rng.choice(texts.KEYS)
    if op != "describe" and rng.random() < 0.1:
        command["store"] = rng.choice(("default", "default", "nowhere", "A.b-c_1", "x" * 64))
    if op == "save":
        command["value"] = texts.value(rng)
        if rng.random() < 0.2:
            command["concurrency"] = rng.choice(("first-write", "last-write"))
    if op == "patch":
        command["kind"] = rng.choice(patches.KINDS)
        command["patch"] = patches.patch(rng, command["kind"], texts.value(rng))
        if rng.random() < 0.3:
            command["return_value"] = rng.choice((True, False))
    if op in ("save", "delete", "patch", "restore", "purge"):
        _conditions(rng, command)
    if op in ("save", "delete") and rng.random() < 0.05:
        command["messages"] = _messages(rng)
    if op == "transact":
        store = command.get("store", "default")
        command["operations"] = [_operation(rng, store) for _ in range(rng.choice((1, 1, 2, 2, 3, 5)))]
        for name in ("return_current", "metadata"):
            _condition(rng, command, name)
        if rng.random() < 0.05:
            command["messages"] = _messages(rng)
    if op == "restore":
        command["at_version"] = rng.choice((1, 1, 2, 3, 10, 2**63 - 1))
    if op == "read" and rng.random() < 0.1:
        command[rng.choice(("at_version", "at_time"))] = rng.choice((None, 1, 2, 2**53 - 1))
    if op == "keys":
        _list(rng, command)
    if op in ("save", "patch", "restore") and rng.random() < 0.1:
        command["ttl_seconds"] = rng.choice((None, 1, 1, 60, 2**31 - 1, -1))
    if op == "read" and rng.random() < 0.4:
        command["consistency"] = rng.choice(("strong", "eventual"))
    if op == "query":
        query(rng, command)
    if op in ("history", "changes"):
        if rng.random() < 0.5:
            command["after_version"] = rng.choice((0, 1, 5, 2**63 - 1))
        if rng.random() < 0.8:
            command["limit"] = rng.choice((1, 2, 10))
    if op == "history":
        if rng.random() < 0.2:
            command["before_version"] = rng.choice((None, 1, 5, 2**63 - 1))
        if rng.random() < 0.2:
            command[rng.choice(("from_time", "to_time"))] = rng.choice((None, 0, now, 2**53 - 1))
        if rng.random() < 0.3:
            command["backward"] = rng.choice((True, False))
    return command


def _operation(rng: Random, store: str) -> dict[str, Any]:
    """A valid operation of a transaction."""
    op = rng.choices(("save", "delete", "check"), (5, 2, 3))[0]
    operation: dict[str, Any] = {"op": op, "key": rng.choice(texts.KEYS)}
    if rng.random() < 0.1:
        operation["store"] = rng.choice((None, store))
    if op == "save":
        operation["value"] = texts.value(rng)
        if rng.random() < 0.2:
            operation["concurrency"] = rng.choice(("first-write", "last-write"))
        if rng.random() < 0.1:
            operation["ttl_seconds"] = rng.choice((None, 1, 60, 2**31 - 1, -1))
    if op == "check" and rng.random() < 0.8:
        operation["exists"] = rng.choice((True, False))
    elif op == "check":
        operation["etag"] = rng.choice(_ETAGS[1:])
    elif rng.random() < 0.1:
        operation["etag"] = rng.choice(_ETAGS)
    return operation


_ETAGS = (None, "", "1-00000000", "x", "x" * 128, "\0", "ä")
_CONDITIONS: dict[str, tuple[Any, ...]] = {
    "etag": _ETAGS,
    "max_version": (None, 0, 1, 5, 2**63 - 1),
    "return_current": (True, False),
    "metadata": (None, {}, {"who": "ä"}, {"": ""}, {"a": "\0"}, {"a": "x" * 4095}),
    "correlation_id": (None, "a", "ä", "x" * 128),
    "causation_id": (None, "a", "ä", "x" * 128),
}


def _listing(rng: Random, command: dict[str, Any]) -> None:
    if rng.random() < 0.6:
        command["prefix"] = rng.choice(("", "k1", "ä", "a/b/", "none/", "x" * 512))
    if rng.random() < 0.3:
        command["after"] = rng.choice((None, "k", "\U0010ffff", "x" * 512))
    if rng.random() < 0.8:
        command["limit"] = rng.choice((1, 2, 10))
    if rng.random() < 0.3:
        command["values"] = rng.choice((True, False))
    if rng.random() < 0.2:
        command["since"] = rng.choice((None, 0, 2**53 - 1))


def _messages(rng: Random) -> Any:
    message: dict[str, Any] = {
        "exchange": rng.choice(("orders", "", "holdfast.commands", "ä", "x" * 255, "x" * 256, "\0", 1))
    }
    if rng.random() < 0.5:
        message["routing_key"] = rng.choice(("", "placed", "holdfast.commands.0", "ß" * 127, "ß" * 128, None))
    if rng.random() < 0.5:
        message["body"] = texts.value(rng)
    if rng.random() < 0.3:
        message["headers"] = rng.choice(({}, {"a": "b"}, {"a": 1, "b": True}, {"a": 1.5}, {"x-a": 1}, {"": 1}, None))
    return rng.choice((None, [], [message], [message] * 16, [message] * 17, message, [[message]]))


def _list(rng: Random, command: dict[str, Any]) -> None:
    command["limit"] = rng.choice((1, 2, 10))
    if rng.random() < 0.5:
        command["prefix"] = rng.choice(("", "k", "k1", "ä", "x" * 512, "nothing"))
    if rng.random() < 0.3:
        command["after"] = rng.choice((None, "k1", "k2", "\U0010ffff"))
    if rng.random() < 0.2:
        command["count_only"] = rng.choice((True, False))


def _conditions(rng: Random, command: dict[str, Any]) -> None:
    for name in _CONDITIONS:
        _condition(rng, command, name)


def _condition(rng: Random, command: dict[str, Any], name: str) -> None:
    if rng.random() < 0.1:
        command[name] = rng.choice(_CONDITIONS[name])


def near_miss(rng: Random, command: dict[str, Any]) -> None:
    """Spoil one thing, probably."""
    if not command:
        return
    operations = command.get("operations")
    if isinstance(operations, list) and operations and isinstance(operations[0], dict) and rng.random() < 0.6:
        _spoil_operations(rng, operations)
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


def _spoil_operations(rng: Random, operations: list[Any]) -> None:
    """Spoil one thing of a transaction's operations, probably."""
    number = rng.randrange(len(operations))
    kind = rng.random()
    if kind < 0.7 and isinstance(operations[number], dict):
        near_miss(rng, operations[number])
    elif kind < 0.8:
        operations[number] = rng.choice(texts.ODD)
    elif kind < 0.85:
        operations *= rng.choice((0, 2, 500))
    else:
        operations.append(
            {"op": "check", "key": "k1", **rng.choice(({}, {"exists": True, "etag": "x"}, {"store": "s"}))}
        )
