"""The key-value calls: ``save``, ``read``, ``delete`` and ``history``."""

import sys
from typing import Annotated, Any

import orjson
import typer
from rich.table import Table
from rich.text import Text

from ..client import Client
from ..client.entry import to_datetime
from ..events import InvalidError
from ..events.codec import parse_json
from ..events.topology import DEFAULT_STORE
from .options import AmqpUrl, Etag, Key, Store, Timeout
from .service import ask_service
from .terminal import fail, out, print_json, printable


def save(
    key: Key,
    value: Annotated[str, typer.Argument(help="The value as JSON; - reads it from standard input.")],
    etag: Etag = None,
    first_write: Annotated[bool, typer.Option("--first-write", help="Only if the key is absent.")] = False,
    store: Store = DEFAULT_STORE,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Save a value, and print its etag and version."""
    data = _json(sys.stdin.read() if value == "-" else value)

    async def call(client: Client) -> dict[str, Any]:
        entry = await client.save(key, data, etag=etag, first_write=first_write, store=store)
        return {"key": key, "etag": entry.etag, "version": entry.version}

    print_json(ask_service(call, amqp_url, timeout))


def read(
    key: Key,
    store: Store = DEFAULT_STORE,
    eventual: Annotated[bool, typer.Option("--eventual", help="Take an answer that may be behind.")] = False,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Print a key's value with its etag and version; exit code 2 if it is absent."""

    async def call(client: Client) -> dict[str, Any] | None:
        entry = await client.read(key, store=store, consistency="eventual" if eventual else "strong")
        if entry is None:
            return None
        return {
            "key": key,
            "etag": entry.etag,
            "version": entry.version,
            "updated_at": entry.updated_at,
            "value": entry.value,
        }

    found = ask_service(call, amqp_url, timeout)
    if found is None:
        fail(f"{key!r} is absent", 2)
    print_json(found)


def delete(
    key: Key,
    etag: Etag = None,
    store: Store = DEFAULT_STORE,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Delete a key. Its history stays."""

    async def call(client: Client) -> dict[str, Any]:
        return {"key": key, "deleted": await client.delete(key, etag=etag, store=store)}

    print_json(ask_service(call, amqp_url, timeout))


def history(
    key: Key,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Events at most.")] = 100,
    after_version: Annotated[int, typer.Option(min=0, help="Only later versions.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    store: Store = DEFAULT_STORE,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Print what happened to a key, oldest first."""

    async def call(client: Client) -> list[dict[str, Any]]:
        events = await client.history(key, after_version=after_version, limit=limit, store=store)
        # As they came: null is a value, and not the lack of one.
        return [event.model_dump(exclude_unset=True) for event in events]

    events = ask_service(call, amqp_url, timeout)
    if json:
        for event in events:
            print_json(event)
        return
    table = Table("version", "type", "time", "author", "value", box=None, pad_edge=False)
    for event in events:
        value = orjson.dumps(event.get("value")).decode() if event["type"] == "saved" else ""
        when = to_datetime(event["time"]).isoformat(timespec="milliseconds")
        cells = (str(event["version"]), event["type"], when, event.get("author", ""), value)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    out.print(table)


def _json(text: str) -> Any:
    try:
        return parse_json(text.encode())
    except InvalidError as error:
        raise InvalidError(f"{error}. A text needs quotes: '\"text\"'", field="value") from None
