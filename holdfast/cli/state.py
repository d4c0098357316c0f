"""The key-value calls: ``save``, ``read`` and ``delete``."""

import sys
from typing import Annotated, Any

import typer

from ..client import Client, Entry
from ..events import InvalidError
from ..events.codec import parse_json
from ..events.topology import DEFAULT_STORE
from .options import TIME, AmqpUrl, Etag, Key, Store, Timeout, Ttl, moment
from .service import ask_service
from .terminal import fail, print_json


def save(
    key: Key,
    value: Annotated[str, typer.Argument(help="The value as JSON; - reads it from standard input.")],
    etag: Etag = None,
    first_write: Annotated[bool, typer.Option("--first-write", help="Only if the key is absent.")] = False,
    ttl: Ttl = None,
    store: Store = DEFAULT_STORE,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Save a value, and print its etag and version."""
    data = json_value(sys.stdin.read() if value == "-" else value)

    async def call(client: Client) -> dict[str, Any]:
        return described(await client.save(key, data, etag=etag, first_write=first_write, ttl=ttl, store=store))

    print_json(ask_service(call, amqp_url, timeout))


def read(
    key: Key,
    store: Store = DEFAULT_STORE,
    eventual: Annotated[bool, typer.Option("--eventual", help="Take an answer that may be behind.")] = False,
    version: Annotated[int | None, typer.Option(min=1, help="The state that this version made.")] = None,
    at: Annotated[str | None, typer.Option(help=f"The state at this time: {TIME}.")] = None,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Print a key's value with its etag and version; exit code 2 if it is absent, or was."""
    when = moment(at)
    if version is not None and when is not None:
        raise InvalidError("--version and --at exclude each other")

    async def call(client: Client) -> dict[str, Any] | None:
        entry = await client.read(
            key, store=store, consistency="eventual" if eventual else "strong", version=version, at=when
        )
        if entry is None:
            return None
        return {**described(entry), "updated_at": entry.updated_at, "value": entry.value}

    found = ask_service(call, amqp_url, timeout)
    if found is None:
        fail(f"{key!r} {'is' if version is None and when is None else 'was'} absent", 2)
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


def described(entry: Entry) -> dict[str, Any]:
    """What is printed of a key that is there."""
    expires = {} if entry.expires_at is None else {"expires_at": entry.expires_at}
    return {"key": entry.key, "etag": entry.etag, "version": entry.version, **expires}


def json_value(text: str) -> Any:
    """An argument as JSON.

    :raises InvalidError: if it is none.
    """
    try:
        return parse_json(text.encode())
    except InvalidError as error:
        raise InvalidError(f"{error}. A text needs quotes: '\"text\"'", field="value") from None
