"""Rewriting stored values online: ``migrate`` and ``rotate-keys``."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress as Bar
from rich.progress import TextColumn

from ..client import Client, Encryption, Schema
from ..client.rewrite import OnProgress, Progress, rotate_keys
from ..client.rewrite import migrate as migrate_values
from ..client.schema import schema_of
from ..events import InvalidError
from ..events.topology import DEFAULT_STORE
from ..settings import load_settings
from .options import AmqpUrl, Store, Timeout
from .service import ask_service
from .terminal import err, print_json, printable

DryRun = Annotated[bool, typer.Option("--dry-run", help="Count what would be rewritten, and write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]


def migrate(
    schema: Annotated[
        str, typer.Argument(help="The schema, or the class that has one, as module:name.", metavar="MODULE:NAME")
    ],
    prefix: Annotated[str, typer.Option(help="Of keys whose values are all of that type.")] = "",
    store: Store = DEFAULT_STORE,
    dry_run: DryRun = False,
    json: Json = False,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Save values of earlier schema versions again, in the form of the present one, while programs go on.

    A run that was broken off is taken up by the next one. Exit code 1 if there are values that fit no version.
    """
    chosen = find_schema(schema)

    async def call(client: Client) -> Progress:
        with _shown(f"migrating to {chosen.name} {chosen.version}") as show:
            return await migrate_values(client, chosen, store=store, prefix=prefix, dry=dry_run, on_progress=show)

    _report(ask_service(call, amqp_url, timeout), dry=dry_run, json=json)


def rotate(
    prefix: Annotated[str, typer.Option(help="Only of keys that begin with it.")] = "",
    store: Store = DEFAULT_STORE,
    accept_plain: Annotated[
        bool, typer.Option("--accept-plain", help="Seal values that are not encrypted yet, too.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
    keys_file: Annotated[
        Path | None, typer.Option(help="Encryption keys, the primary one first. Or HOLDFAST_KEYS_FILE.")
    ] = None,
    amqp_url: AmqpUrl = None,
    timeout: Timeout = None,
) -> None:
    """Seal values with the primary key that are sealed with another one, while programs go on.

    A run that was broken off is taken up by the next one. Exit code 1 if there are values that no key opens.
    """
    path = load_settings(keys_file=keys_file).keys_file
    if path is None:
        raise InvalidError("say where the keys are, by HOLDFAST_KEYS_FILE", field="keys_file")
    encryption = Encryption.from_file(path, plain="accept" if accept_plain else "refuse")

    async def call(client: Client) -> Progress:
        with _shown(f"sealing with {encryption.primary}") as show:
            return await rotate_keys(client, encryption, store=store, prefix=prefix, dry=dry_run, on_progress=show)

    _report(ask_service(call, amqp_url, timeout, sealed=True), dry=dry_run, json=json)


def find_schema(name: str) -> Schema[Any]:
    """The schema of that name, or of the class of that name.

    :raises InvalidError: if there is none.
    """
    module, colon, attribute = name.partition(":")
    if not module or not colon or not attribute:
        raise InvalidError(f"{name!r} is not of the form module:name, such as app.models:Profile", field="schema")
    # As for `python -m`: a program's own modules are where it is started.
    if os.getcwd() not in sys.path:  # noqa: PTH109 - sys.path holds texts
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as fault:
        raise InvalidError(f"{name!r} cannot be imported: {fault}", field="schema") from None
    schema = found if isinstance(found, Schema) else schema_of(found)
    if schema is None:
        raise InvalidError(f"{name!r} is no schema, nor a class that has one", field="schema")
    return schema


@contextmanager
def _shown(what: str) -> Iterator[OnProgress]:
    """Progress on the terminal; nothing if there is none."""
    columns = (
        TextColumn(
            "{task.description}: {task.fields[looked]:,} values looked at, {task.fields[rewritten]:,} rewritten"
        ),
        TextColumn("{task.fields[after]}"),
    )
    with Bar(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(what, total=None, looked=0, rewritten=0, after="")

        def show(now: Progress) -> None:
            bar.update(task, looked=now.looked, rewritten=now.rewritten, after=printable(now.after or ""))

        yield show


def _report(progress: Progress, *, dry: bool, json: bool) -> None:
    if json:
        print_json(asdict(progress))
    else:
        for key, fault in progress.faults.items():
            print(printable(f"{key}: {fault}"))
        resumed = ", going on where an earlier run was broken off" if progress.resumed else ""
        done = "to be rewritten" if dry else "rewritten"
        print(
            f"{progress.looked:,} values looked at{resumed}, {progress.rewritten:,} {done}, "
            f"{progress.faulty:,} that cannot be read"
        )
    if progress.faulty:
        raise typer.Exit(1)
