"""The check of a store's log: ``verify``."""

import asyncio
import gc
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ..events import InvalidError, StoreError
from ..settings import Settings, load_settings
from ..stores import MongoStore
from ..verify import DEFAULT_MAX_FAULTS, Report
from ..verify import Progress as OnProgress
from ..verify import verify as verify_log
from .service import warn_of_plaintext
from .terminal import err, print_json, printable


def verify(
    store: Annotated[
        list[str] | None, typer.Option(help="Only this store; may be given again.", show_default="all of them")
    ] = None,
    max_faults: Annotated[int, typer.Option(min=1, help="Faults that are shown of each store.")] = DEFAULT_MAX_FAULTS,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a store.")] = False,
    mongo_url: Annotated[
        str | None, typer.Option(help="MongoDB URL of the default store. Better kept in HOLDFAST_MONGO_URL.")
    ] = None,
    config_file: Annotated[Path | None, typer.Option(help="TOML file with stores.")] = None,
) -> None:
    """Check the logs of stores: versions, ids, times, digests, indexes, and what lookups say of current states.

    Nothing is written, and workers may go on meanwhile. Exit code 0 if all is sound, 1 if a log has a fault or cannot
    be reached.
    """
    settings = load_settings(mongo_url=mongo_url, config_file=config_file)
    warn_of_plaintext(settings, stores=True)
    # What goes wrong on the way is tried again, or said by the error at the end.
    logging.disable()
    # Millions of objects come and go, and none of them in a circle.
    gc.set_threshold(500_000)
    sound = True
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for chosen in _choose(settings, store):
            began = time.monotonic()
            report = runner.run(_verify(chosen, max_faults))
            if json:
                print_json(report.to_json())
            else:
                _show(report, time.monotonic() - began)
            sound = sound and report.sound
    if not sound:
        raise typer.Exit(1)


def _choose(settings: Settings, names: list[str] | None) -> list[MongoStore]:
    """The stores to check. One in memory is in its worker's memory, out of reach."""
    stores = settings.stores()
    for name in names or ():
        if name not in stores:
            raise InvalidError(
                f"no store {name!r} is configured; there are: {', '.join(sorted(stores))}", field="store"
            )
    chosen = [one for name, one in stores.items() if isinstance(one, MongoStore) and (not names or name in names)]
    if not chosen or (names and len(chosen) < len(set(names))):
        raise InvalidError("only stores of the type mongo have a log that can be checked", field="store")
    return chosen


async def _verify(store: MongoStore, max_faults: int) -> Report:
    # What a worker would mend is to be seen.
    await store.open(create=False)
    try:
        with _bar(store.name) as progress:
            return await verify_log(store, store.name, max_faults=max_faults, progress=progress)
    except StoreError as error:
        raise type(error)(f"store {store.name!r}: {error}") from None
    finally:
        await store.close()


@contextmanager
def _bar(name: str) -> Iterator[OnProgress]:
    """A bar on the terminal; nothing if there is none."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        # Every record is looked at twice.
        yield lambda done, total: bar.update(task, completed=done // 2, total=total // 2)


def _show(report: Report, seconds: float) -> None:
    for fault in report.faults:
        print(printable(str(fault)))
    hidden = report.broken.total() - len(report.faults)
    if hidden:
        print(f"… and {hidden:,} more")
    rate = report.events / seconds if seconds else 0
    print(
        f"{report.store}: {report.events:,} events and {report.refusals:,} refusals of {report.keys:,} keys, "
        f"{report.transactions:,} transactions, "
        f"{report.present:,} of them present; {seconds:.1f} s, {rate:,.0f} events/s"
    )
    kinds = ", ".join(f"{rule} {count:,}" for rule, count in report.broken.most_common())
    print(f"{report.store}: {'sound' if report.sound else f'{report.broken.total():,} faults: {kinds}'}")
