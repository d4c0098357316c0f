"""Queries, and the indexes that make them quick: ``query`` and ``rebuild``."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ..client import Client, Condition, Order
from ..events import InvalidError, StoreError
from ..events.codec import parse_json
from ..events.topology import DEFAULT_STORE
from ..settings import load_settings
from ..stores import IndexedStore
from ..stores.indexes import Progress as OnProgress
from .options import AmqpUrl, Store, Timeout
from .service import ask_service, warn_of_plaintext
from .terminal import err, print_json


def query(
    filter: Annotated[  # noqa: A002 - the protocol's word
        str | None,
        typer.Argument(help='Which values, as JSON, such as \'{"gte": ["age", 18]}\'; all of them without.'),
    ] = None,
    prefix: Annotated[str, typer.Option(help="What the keys begin with.")] = "",
    sort: Annotated[
        list[str] | None, typer.Option(help="A field to order by, with - before it for descending; up to four.")
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option(help="Show only this field; may be given again.", show_default="whole values")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Entries at most.")] = 100,
    token: Annotated[str | None, typer.Option(help="Go on where a page ended that told this.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Only tell whether every key would be looked at.")] = False,
    store: Store = DEFAULT_STORE,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Print the current entries that match, one JSON object a line; what else there is to know on standard error."""
    condition = None if filter is None else _condition(filter)
    orders = [Order(one.removeprefix("-"), descending=one.startswith("-")) for one in sort or ()]

    async def call(client: Client) -> tuple[list[dict[str, Any]], bool, str, str | None]:
        page = await client.query(
            condition,
            prefix=prefix,
            sort=orders,
            projection=field,
            limit=limit,
            token=token,
            explain=explain,
            store=store,
        )
        entries = [
            {
                "key": entry.key,
                "etag": entry.etag,
                "version": entry.version,
                "updated_at": entry.updated_at,
                "value": entry.value,
            }
            for entry in page.entries
        ]
        return entries, page.scan, page.as_of.isoformat(timespec="milliseconds"), page.token

    entries, scan, as_of, following = ask_service(call, amqp_url, timeout)
    if explain:
        print_json({"scan": scan, "as_of": as_of})
        return
    for entry in entries:
        print_json(entry)
    how = "every key is looked at: no index serves this query" if scan else f"by index, as of {as_of}"
    more = "" if following is None else f"; more: --token {following}"
    err.print(f"{how}{more}", style="dim", markup=False, highlight=False, soft_wrap=True)


def rebuild(
    store: Annotated[str, typer.Argument(help="Name of the store.")] = DEFAULT_STORE,
    mongo_url: Annotated[
        str | None, typer.Option(help="MongoDB URL of the default store. Better kept in HOLDFAST_MONGO_URL.")
    ] = None,
    config_file: Annotated[Path | None, typer.Option(help="TOML file with stores and their indexes.")] = None,
) -> None:
    """Make the indexes of a store anew out of its log, while workers and queries go on.

    Broken off, it is gone on with by the next call, or else by a worker.
    """
    settings = load_settings(mongo_url=mongo_url, config_file=config_file)
    warn_of_plaintext(settings, stores=True)
    # What goes wrong on the way is said by the error at the end.
    logging.disable()
    stores = settings.stores()
    if store not in stores:
        raise InvalidError(f"no store {store!r} is configured; there are: {', '.join(sorted(stores))}", field="store")
    chosen = stores[store]
    if not isinstance(chosen, IndexedStore):
        raise InvalidError(f"the store {store!r} is of a type that keeps no indexes", field="store")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_rebuild(store, chosen))
    err.print(f"the indexes of {store} are built", highlight=False)


async def _rebuild(name: str, store: IndexedStore) -> None:
    await store.open()
    try:
        with _bar(name) as progress:
            await store.rebuild(progress)
    except StoreError as error:
        raise type(error)(f"store {name!r}: {error}") from None
    finally:
        await store.close()


@contextmanager
def _bar(name: str) -> Iterator[OnProgress]:
    """A bar on the terminal; nothing if there is none."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _condition(text: str) -> Condition:
    try:
        data = parse_json(text.encode())
    except InvalidError as error:
        raise InvalidError(str(error), field="filter") from None
    return Condition(data)
