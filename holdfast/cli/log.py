"""What looks at a log, and brings back or erases what is in it: ``history``, ``restore``, ``purge`` and ``keys``."""

from typing import Annotated, Any

import orjson
import typer
from rich.table import Table
from rich.text import Text

from ..client import Client
from ..client.entry import to_datetime
from ..events.topology import DEFAULT_STORE
from .options import TIME, AmqpUrl, Etag, Key, Store, Timeout, Ttl, moment
from .service import ask_service
from .state import described
from .terminal import confirmed, fail, out, print_json, printable


def history(
    key: Key,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Events at most.")] = 100,
    after_version: Annotated[int, typer.Option(min=0, help="Only later versions.")] = 0,
    before_version: Annotated[int | None, typer.Option(min=1, help="Only earlier versions.")] = None,
    since: Annotated[str | None, typer.Option("--from", help=f"Only from this time on: {TIME}.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Only up to this time.")] = None,
    backward: Annotated[bool, typer.Option("--backward", help="Newest first.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    store: Store = DEFAULT_STORE,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Print what happened to a key, oldest first."""
    begin, end = moment(since), moment(until)

    async def call(client: Client) -> list[dict[str, Any]]:
        events = await client.history(
            key,
            after_version=after_version,
            before_version=before_version,
            since=begin,
            until=end,
            backward=backward,
            limit=limit,
            store=store,
        )
        # As they came: null is a value, and not the lack of one.
        return [event.model_dump(exclude_unset=True) for event in events]

    events = ask_service(call, amqp_url, timeout)
    if json:
        for event in events:
            print_json(event)
        return
    table = Table("version", "type", "time", "author", "value", box=None, pad_edge=False)
    for event in events:
        value = orjson.dumps(event["value"]).decode() if "value" in event else ""
        if event.get("stripped") and event["type"] == "saved":
            value = "(erased)"
        when = to_datetime(event["time"]).isoformat(timespec="milliseconds")
        cells = (str(event["version"]), event["type"], when, event.get("author", ""), value)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    out.print(table)


def restore(
    key: Key,
    version: Annotated[int, typer.Argument(min=1, help="The version whose value comes back.")],
    etag: Etag = None,
    ttl: Ttl = None,
    store: Store = DEFAULT_STORE,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Make the value of an earlier version the newest one."""

    async def call(client: Client) -> dict[str, Any]:
        entry = await client.restore(key, version=version, etag=etag, ttl=ttl, store=store)
        return {**described(entry), "restored": version}

    print_json(ask_service(call, amqp_url, timeout))


def purge(
    key: Key,
    etag: Etag = None,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    store: Store = DEFAULT_STORE,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Delete a key and erase the values of all its versions, for good."""
    if not yes and not confirmed(f"Erase every value that {printable(key)} ever had?"):
        fail("nothing was erased; --yes does it without asking", 1)

    async def call(client: Client) -> dict[str, Any]:
        return {"key": key, "purged": await client.purge(key, etag=etag, store=store)}

    print_json(ask_service(call, amqp_url, timeout))


def keys(
    prefix: Annotated[str, typer.Argument(help="What the keys begin with.")] = "",
    after: Annotated[str | None, typer.Option(help="Only keys behind this one.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Keys at most; all of them if it is not given.")] = None,
    count: Annotated[bool, typer.Option("--count", help="Print how many they are.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with etag and version.")] = False,
    store: Store = DEFAULT_STORE,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Print the keys that are there, in order, one a line."""

    async def call(client: Client) -> None:
        if count:
            out.print(await client.count_keys(prefix, store=store))
            return
        printed = 0
        async for entry in client.iter_keys(prefix, after=after, store=store):
            if json:
                print_json(entry.model_dump(exclude_unset=True))
            else:
                out.print(Text(printable(entry.key)), soft_wrap=True)
            printed += 1
            if printed == limit:
                return

    ask_service(call, amqp_url, timeout)
