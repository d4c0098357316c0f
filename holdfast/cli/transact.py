"""``holdfast transact``: many saves and deletes in one step."""

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from ..client import Check, Client, Delete, Save, Step
from ..client.entry import to_datetime
from ..client.lifetime import Ttl
from ..events import InvalidError
from ..events.codec import parse_json
from ..events.limits import FOREVER
from ..events.outbox import check_messages
from ..events.topology import DEFAULT_STORE
from .options import AmqpUrl, Store, Timeout
from .service import ask_service
from .terminal import print_json

#: The options of the wire, as those of steps.
_SAVE = {"op", "key", "value", "etag", "concurrency", "ttl_seconds"}
_DELETE = {"op", "key", "etag"}
_CHECK = {"op", "key", "etag", "exists"}


def transact(
    operations: Annotated[
        str,
        typer.Argument(
            help='A JSON array of operations, such as {"op": "save", "key": "a", "value": 1, "etag": "…"}, '
            '{"op": "delete", "key": "b"} and {"op": "check", "key": "c", "exists": false}; - reads it from standard '
            "input."
        ),
    ],
    message: Annotated[
        list[str] | None,
        typer.Option(
            help='Publish this if it is committed, and only then, such as {"exchange": "orders", "routing_key": '
            '"placed", "body": 1}. Several in their order.'
        ),
    ] = None,
    store: Store = DEFAULT_STORE,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Apply all operations in their order, in one step, or none of them; print a line of JSON for each.

    On a conflict the exit code is 3, and nothing was changed.
    """
    steps = to_steps(sys.stdin.read() if operations == "-" else operations)

    messages = check_messages([parse_json(one.encode()) for one in message or ()])

    async def call(client: Client) -> list[dict[str, Any]]:
        results = await client.transact(steps, messages=messages, store=store)
        return [{name: item for name, item in asdict(one).items() if item is not None} for one in results]

    for result in ask_service(call, amqp_url, timeout):
        result.pop("updated_at_ms", None)
        expires = result.pop("expires_at_ms", None)
        if expires is not None:
            result["expires_at"] = to_datetime(expires)
        print_json(result)


def to_steps(text: str) -> list[Step]:
    """Operations as they are on the wire, as steps.

    :raises InvalidError: if they are none.
    """
    data = parse_json(text.encode())
    if not isinstance(data, list):
        raise InvalidError("is a JSON array", code="bad_operations", field="operations")
    return [_to_step(f"operations[{number}]", one) for number, one in enumerate(data)]


def _to_step(place: str, operation: Any) -> Step:
    op = operation.get("op") if isinstance(operation, dict) else None
    known = {"save": _SAVE, "delete": _DELETE, "check": _CHECK}.get(op) if isinstance(op, str) else None
    if known is None:
        raise InvalidError("is an object with the `op` save, delete or check", code="bad_op", field=place)
    for name in operation.keys() - known:
        raise InvalidError("is not a field of this operation", code="unknown_field", field=f"{place}.{name}")
    if "key" not in operation or (op == "save" and "value" not in operation):
        raise InvalidError("lacks its key or its value", code="missing_field", field=place)
    key, etag = operation["key"], operation.get("etag")
    if op == "save":
        first_write, seconds = operation.get("concurrency") == "first-write", operation.get("ttl_seconds")
        ttl: Ttl | None = "forever" if seconds == FOREVER else seconds
        return Save(key, operation["value"], etag=etag, first_write=first_write, ttl=ttl)
    return Delete(key, etag) if op == "delete" else Check(key, etag=etag, exists=operation.get("exists"))
