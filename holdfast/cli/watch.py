"""Following changes: ``watch``."""

import asyncio
import sys
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ..client import CaughtUp, Change, Client
from ..events.topology import DEFAULT_STORE
from .options import AmqpUrl, Store, Timeout
from .service import ask_service
from .terminal import print_json


def watch(
    prefix: Annotated[str, typer.Argument(help="What the keys begin with. [default: all]", show_default=False)] = "",
    pattern: Annotated[
        str | None, typer.Option(help="In place of a prefix: * is for a part of one level, ** for a part of any.")
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%d"],
            help="Tell every change of that time (UTC) or later, instead of what is there.",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option(help="Go on when what is there is told, until Ctrl-C.")] = True,
    store: Store = DEFAULT_STORE,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Print what is there, then every change: a line of JSON each, and {"caught_up": true} in between."""
    if since is not None and since.tzinfo is None:
        since = since.replace(tzinfo=UTC)

    async def call(client: Client) -> None:
        async with client.watch(prefix, pattern=pattern, since=since, store=store) as items:
            async for item in items:
                if isinstance(item, CaughtUp):
                    print_json({"caught_up": True})
                    if not follow:
                        return
                else:
                    print_json(_line(item))
                # Off the loop: whoever reads may take his time, and heartbeats go on.
                await asyncio.to_thread(sys.stdout.flush)

    ask_service(call, amqp_url, timeout)


def _line(change: Change) -> dict[str, Any]:
    line: dict[str, Any] = {
        "key": change.key,
        "version": change.version,
        "type": change.type,
        "etag": change.etag,
        "id": change.id,
        "time": change.time,
    }
    if change.exists:
        line["value"] = change.value
    for name in ("expires_at", "author", "metadata", "correlation_id", "causation_id", "restored"):
        content = getattr(change, name)
        if content is not None:
            line[name] = content
    return line
