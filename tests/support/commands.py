"""Commands and requests with as little to say as possible."""

import itertools
from collections.abc import Mapping
from typing import Any

import orjson

from holdfast.events import (
    DeleteCommand,
    Mutation,
    PatchCommand,
    PatchKind,
    PurgeCommand,
    ReadCommand,
    Reply,
    RestoreCommand,
    SaveCommand,
    TransactCommand,
    digest_of,
    digest_of_transaction,
)
from holdfast.worker import Batch, Engine, Request
from holdfast.worker.transaction import keys_of

_numbers = itertools.count(1)

#: A plausible service time: 2024-11-21T21:10:56.789Z.
NOW = 1_732_223_456_789

Answer = dict[str, Any]


def save(key: str, value: Any = None, **fields: Any) -> SaveCommand:
    """A save; ``id`` is a new one unless it is given."""
    return SaveCommand(op="save", key=key, value=value, id=fields.pop("id", None) or _new_id(), **fields)


def first(key: str, value: Any = None, **fields: Any) -> SaveCommand:
    """A save that demands that the key is absent."""
    return save(key, value, concurrency="first-write", **fields)


def delete(key: str, **fields: Any) -> DeleteCommand:
    """A delete; ``id`` is a new one unless it is given."""
    return DeleteCommand(op="delete", key=key, id=fields.pop("id", None) or _new_id(), **fields)


def transact(*operations: dict[str, Any], **fields: Any) -> TransactCommand:
    """A transaction of operations as they are on the wire."""
    command_id = fields.pop("id", None) or _new_id()
    return TransactCommand.model_validate(
        {"op": "transact", "id": command_id, "operations": list(operations), **fields}
    )


def sets(key: str, value: Any = None, **fields: Any) -> dict[str, Any]:
    """An operation that saves."""
    return {"op": "save", "key": key, "value": value, **fields}


def drops(key: str, **fields: Any) -> dict[str, Any]:
    """An operation that deletes."""
    return {"op": "delete", "key": key, **fields}


def checks(key: str, **fields: Any) -> dict[str, Any]:
    """An operation that checks."""
    return {"op": "check", "key": key, **fields}


def restore(key: str, version: int, **fields: Any) -> RestoreCommand:
    """A restore; ``id`` is a new one unless it is given."""
    return RestoreCommand(op="restore", key=key, at_version=version, id=fields.pop("id", None) or _new_id(), **fields)


def purge(key: str, **fields: Any) -> PurgeCommand:
    """A purge; ``id`` is a new one unless it is given."""
    return PurgeCommand(op="purge", key=key, id=fields.pop("id", None) or _new_id(), **fields)


def patch(key: str, kind: PatchKind, patch: Any, **fields: Any) -> PatchCommand:
    """A patch; ``id`` is a new one unless it is given."""
    return PatchCommand(op="patch", key=key, kind=kind, patch=patch, id=fields.pop("id", None) or _new_id(), **fields)


def increment(key: str, by: float = 1, *, pointer: str = "", **fields: Any) -> PatchCommand:
    """A patch that adds to one number."""
    return patch(key, "increment", {pointer: by}, **fields)


def read(key: str, **fields: Any) -> ReadCommand:
    """A strong read, unless it says otherwise."""
    return ReadCommand(op="read", key=key, id=fields.pop("id", None) or _new_id(), **fields)


def _new_id() -> str:
    return f"c{next(_numbers)}"


Operation = Mutation | TransactCommand | ReadCommand


def request(command: Operation, **fields: Any) -> Request:
    """The request of a command, as the intake makes it."""
    made = Request(command, **fields)
    if isinstance(command, TransactCommand):
        made.digest, made.keys = digest_of_transaction(command), keys_of(command)
    elif not isinstance(command, ReadCommand):
        made.digest, made.size = digest_of(command)
    return made


def requests(*commands: Operation | Request) -> list[Request]:
    """The requests of commands; what is one already stays as it is."""
    return [command if isinstance(command, Request) else request(command) for command in commands]


async def apply(engine: Engine, *commands: Operation | Request, uncertain: bool = False) -> list[Answer]:
    """Apply commands as one batch, and give their answers as they look on the wire."""
    made = requests(*commands)
    batch = Batch.of(made)
    batch.uncertain = uncertain
    await engine.apply(batch)
    return [wire(each.answer) for each in made]


async def one(engine: Engine, command: Operation | Request) -> Answer:
    """Apply one command as a batch of its own."""
    return (await apply(engine, command))[0]


def wire(answer: Mapping[str, Any] | None) -> Answer:
    """An answer as it comes out at the client's end, checked against the definition of a reply."""
    assert answer is not None, "the request has no answer"
    decoded: Answer = orjson.loads(orjson.dumps(answer))
    reply = Reply.model_validate(decoded)
    assert set(decoded) <= set(Reply.model_fields), f"fields that no reply has: {decoded}"
    assert (reply.status == "ok") == (reply.error is None), f"exactly what is not ok carries an error: {decoded}"
    return decoded


def brief(answer: Answer) -> str:
    """What a reader wants to know first: ``ok v3``, ``absent``, ``conflict exists`` …"""
    status = answer["status"]
    if status != "ok":
        return f"{status} {answer['error']['code']}"
    if "results" in answer:
        return "ok"
    if answer.get("changed") is False:
        return "unchanged"
    if answer.get("changed") is None and not answer["exists"]:
        return "absent"
    return f"ok v{answer['version']}"
