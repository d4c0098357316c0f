"""The command line: ``holdfast``."""

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import orjson
import typer
import uvloop
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from .client import Client, connect
from .client.entry import to_datetime
from .events import ConflictError, HoldfastError, InvalidError
from .events.codec import parse_json
from .events.topology import DEFAULT_STORE
from .health import check_health
from .local import DEFAULT_DIRECTORY, LocalStack, LocalStackError
from .settings import Settings, load_settings
from .worker import run_worker

T = TypeVar("T")

#: Exit code for wrong arguments, as in sysexits.h: typer's own, 2, means that a key is absent.
EX_USAGE = 64

out = Console()
err = Console(stderr=True)

app = typer.Typer(
    name="holdfast",
    help="Durable, versioned application state over RabbitMQ and MongoDB. "
    "Settings come from the environment, HOLDFAST_*; `holdfast worker --help` names them.",
    epilog="Exit codes: 0 done, 1 failed, 2 the key is absent, 3 conflict, 64 wrong arguments.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

AmqpUrl = Annotated[
    str | None,
    typer.Option("--amqp-url", help="AMQP URL of RabbitMQ. Better kept in HOLDFAST_AMQP_URL.", metavar="URL"),
]
Store = Annotated[str, typer.Option(help="Name of the store.")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait for the answer. [default: HOLDFAST_TIMEOUT, 15]")]
Etag = Annotated[str | None, typer.Option(help="Only if the key is at this etag.")]
Key = Annotated[str, typer.Argument(help="The key, such as user/42.")]


def _settings_help() -> str:
    lines = [f"HOLDFAST_{name.upper()}: {field.description}" for name, field in Settings.model_fields.items()]
    return "\n\n".join(["Settings:", *lines])


@app.command(epilog=_settings_help())
def worker(
    amqp_url: AmqpUrl = None,
    mongo_url: Annotated[
        str | None, typer.Option(help="MongoDB URL of the default store. Better kept in HOLDFAST_MONGO_URL.")
    ] = None,
    stores_file: Annotated[Path | None, typer.Option(help="TOML file with the stores.")] = None,
    partitions: Annotated[int | None, typer.Option(help="Command queues; the same for all workers.")] = None,
    health_file: Annotated[Path | None, typer.Option(help="Written every second while ready.")] = None,
) -> None:
    """Run a worker: apply commands to the stores until SIGTERM or Ctrl-C, then finish what is in hand and leave.

    A second signal leaves at once, which loses nothing either. Any number of workers share the work.
    """
    settings = load_settings(
        amqp_url=amqp_url,
        mongo_url=mongo_url,
        stores_file=stores_file,
        partitions=partitions,
        health_file=health_file,
    )
    # Plain lines where a log collector reads, colours where a person does.
    handler: logging.Handler = RichHandler(console=err, show_path=False) if err.is_terminal else logging.StreamHandler()
    form = "%(message)s" if err.is_terminal else "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=settings.log_level.upper(), format=form, handlers=[handler])
    _quiet_libraries()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_worker(settings.worker_options(), settings.stores()))


@app.command()
def health(
    file: Annotated[Path | None, typer.Option(help="The worker's health file.", envvar="HOLDFAST_HEALTH_FILE")] = None,
) -> None:
    """Say whether the worker that writes a health file is ready; exit code 0 if it is, 1 if not."""
    if file is None:
        raise InvalidError("name the worker's health file: --file, or HOLDFAST_HEALTH_FILE")
    out.print(check_health(file))


@app.command()
def dev(
    directory: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path(DEFAULT_DIRECTORY),
    workers: Annotated[int, typer.Option(min=0, help="Workers to start.")] = 1,
    detach: Annotated[bool, typer.Option("--detach", help="Leave it running and return.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop what --detach has left running.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Say what runs, and where.")] = False,
    amqp_url: Annotated[str | None, typer.Option(help="Use this RabbitMQ instead of starting one.")] = None,
    mongo_url: Annotated[str | None, typer.Option(help="Use this MongoDB instead of starting one.")] = None,
) -> None:
    """Run RabbitMQ, MongoDB and a worker on this machine, for development. Data is kept until you delete it.

    Servers that are installed are used; otherwise they are fetched once and kept in a cache. Prints the addresses
    when all is ready, and stops cleanly on Ctrl-C.
    """
    if detach + stop + status > 1:
        raise InvalidError("--detach, --stop and --status exclude each other")
    stack = LocalStack(
        directory,
        amqp_url=amqp_url,
        mongo_url=mongo_url,
        workers=workers,
        detach=detach,
        progress=lambda line: err.print(line, style="dim"),
    )
    if stop:
        stack.stop()
        err.print("stopped")
        return
    if status:
        _show_status(stack)
        return
    addresses = stack.start()
    # Before the addresses are printed: whoever reads them may stop it at once.
    gone = None if detach else _signalled()
    if not detach:
        err.print("[bold]ready.[/bold] Ctrl-C stops it. In another shell:")
    # These two lines are meant for `eval` and scripts too: nothing else goes to standard output.
    print(f"HOLDFAST_AMQP_URL={addresses.amqp_url}")
    print(f"HOLDFAST_MONGO_URL={addresses.mongo_url}", flush=True)
    if gone is None:
        return
    try:
        gone.wait()
    finally:
        err.print("stopping")
        stack.stop()


@app.command()
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

    _print_json(_ask(call, amqp_url, timeout))


@app.command()
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

    found = _ask(call, amqp_url, timeout)
    if found is None:
        _fail(f"{key!r} is absent", 2)
    _print_json(found)


@app.command()
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

    _print_json(_ask(call, amqp_url, timeout))


@app.command()
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

    events = _ask(call, amqp_url, timeout)
    if json:
        for event in events:
            _print_json(event)
        return
    table = Table("version", "type", "time", "author", "value", box=None, pad_edge=False)
    for event in events:
        value = orjson.dumps(event.get("value")).decode() if event["type"] == "saved" else ""
        when = to_datetime(event["time"]).isoformat(timespec="milliseconds")
        table.add_row(str(event["version"]), event["type"], when, event.get("author", ""), value)
    out.print(table)


def main() -> None:
    """Run the command line. What can go wrong is said in one line, with exit code 1."""
    try:
        code = app(standalone_mode=False)
        # Written here, where it can fail, and not when the interpreter ends.
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has read enough, as in `holdfast history KEY | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except typer.Abort:
        sys.exit(130)
    except ConflictError as conflict:
        _fail(f"conflict: {conflict}", 3)
    except (HoldfastError, LocalStackError, OSError) as fault:
        _fail(str(fault), 1)
    except Exception as fault:
        show = getattr(fault, "show", None)
        if show is None:
            raise
        show()  # a mistake in the arguments, which typer words itself
        sys.exit(EX_USAGE)
    # Commands return nothing; this is the code of Ctrl-C, which typer hands on like that.
    sys.exit(code)


def _ask(call: Callable[[Client], Awaitable[T]], amqp_url: str | None, timeout: float | None) -> T:
    settings = load_settings(amqp_url=amqp_url, timeout=timeout)
    # What goes wrong on the way is mended, or said by the error at the end.
    logging.disable()

    async def ask() -> T:
        async with connect(settings.amqp_url.get_secret_value(), timeout=settings.timeout, name="cli") as client:
            return await call(client)

    return asyncio.run(ask())


def _json(text: str) -> Any:
    try:
        return parse_json(text.encode())
    except InvalidError as error:
        raise InvalidError(f"{error}. A text needs quotes: '\"text\"'", field="value") from None


def _print_json(data: Any) -> None:
    sys.stdout.write(orjson.dumps(data).decode() + "\n")


def _fail(message: str, code: int) -> NoReturn:
    err.print(f"holdfast: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def _show_status(stack: LocalStack) -> None:
    status = stack.status()
    for name, pid in status.processes.items():
        err.print(f"{name}: {'stopped' if pid is None else f'running, process {pid}'}")
    if status.addresses is None or not status.running:
        _fail("nothing runs" if not status.processes else "not everything runs", 1)
    print(f"HOLDFAST_AMQP_URL={status.addresses.amqp_url}")
    print(f"HOLDFAST_MONGO_URL={status.addresses.mongo_url}")


def _signalled() -> threading.Event:
    """Set by SIGINT or SIGTERM from now on."""
    event = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: event.set())
    return event


def _quiet_libraries() -> None:
    # They report with tracebacks what the worker reports in a line and mends.
    for name in ("aio_pika", "aiormq", "pymongo"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
