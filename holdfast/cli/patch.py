"""Changes that are made where the value is kept: ``patch`` and ``increment``."""

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from ..client import Client
from ..events.topology import DEFAULT_STORE
from .options import AmqpUrl, Etag, Key, Store, Timeout, Ttl
from .service import ask_service
from .state import described, json_value
from .terminal import print_json


class Kind(StrEnum):
    """What a patch is."""

    MERGE = "merge"
    JSON_PATCH = "json-patch"
    INCREMENT = "increment"


def patch(
    key: Key,
    change: Annotated[str, typer.Argument(metavar="PATCH", help="The patch as JSON; - reads it from standard input.")],
    kind: Annotated[
        Kind,
        typer.Option(
            help="What it is: a JSON Merge Patch (RFC 7396), a JSON Patch (RFC 6902), or JSON Pointers with what is to "
            "be added to the number at each."
        ),
    ] = Kind.MERGE,
    etag: Etag = None,
    ttl: Ttl = None,
    store: Store = DEFAULT_STORE,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Change a value where it is kept, and print what came of it; exit code 3 if it does not fit."""
    data = json_value(sys.stdin.read() if change == "-" else change)

    async def call(client: Client) -> dict[str, Any]:
        match kind:
            case Kind.MERGE:
                entry = await client.merge_patch(key, data, etag=etag, ttl=ttl, store=store)
            case Kind.JSON_PATCH:
                entry = await client.json_patch(key, data, etag=etag, ttl=ttl, store=store)
            case Kind.INCREMENT:
                entry = await client.increment(key, data, etag=etag, ttl=ttl, store=store)
        return {**described(entry), "value": entry.value}

    print_json(ask_service(call, amqp_url, timeout))


def increment(
    key: Key,
    by: Annotated[str, typer.Argument(help="What is added; behind -- if it is negative.")] = "1",
    path: Annotated[str, typer.Option(help="JSON Pointer to the number, such as /visits.")] = "",
    etag: Etag = None,
    ttl: Ttl = None,
    store: Store = DEFAULT_STORE,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Add to a number, and print what came of it. One that is missing counts from 0."""
    number = json_value(by)

    async def call(client: Client) -> dict[str, Any]:
        entry = await client.increment(key, {path: number}, etag=etag, ttl=ttl, store=store)
        return {**described(entry), "value": entry.value}

    print_json(ask_service(call, amqp_url, timeout))
