"""Commands around the processes: ``worker``, ``health`` and ``dev``."""

import asyncio
import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.logging import RichHandler

from ..events import InvalidError
from ..health import check_health
from ..local import DEFAULT_DIRECTORY, LocalStack
from ..plaintext import told
from ..settings import Settings, load_settings
from ..worker import run_worker
from .options import AmqpUrl
from .terminal import err, fail, out

log = logging.getLogger(__name__)


def settings_help() -> str:
    """Every setting with what it means."""
    lines = [f"HOLDFAST_{name.upper()}: {field.description}" for name, field in Settings.model_fields.items()]
    return "\n\n".join(["Settings:", *lines])


def worker(
    amqp_url: AmqpUrl = None,
    mongo_url: Annotated[
        str | None, typer.Option(help="MongoDB URL of the default store. Better kept in HOLDFAST_MONGO_URL.")
    ] = None,
    config_file: Annotated[Path | None, typer.Option(help="TOML file with stores and access rules.")] = None,
    partitions: Annotated[int | None, typer.Option(help="Command queues; the same for all workers.")] = None,
    health_file: Annotated[Path | None, typer.Option(help="Written every second while ready.")] = None,
) -> None:
    """Run a worker: apply commands to the stores until SIGTERM or Ctrl-C, then finish what is in hand and leave.

    A second signal leaves at once, which loses nothing either. Any number of workers share the work.
    """
    settings = load_settings(
        amqp_url=amqp_url,
        mongo_url=mongo_url,
        config_file=config_file,
        partitions=partitions,
        health_file=health_file,
    )
    # Plain lines where a log collector reads, colours where a person does.
    handler: logging.Handler = RichHandler(console=err, show_path=False) if err.is_terminal else logging.StreamHandler()
    form = "%(message)s" if err.is_terminal else "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=settings.log_level.upper(), format=form, handlers=[handler])
    _quiet_libraries()
    for host in settings.exposed_hosts(stores=True):
        log.warning("%s", told(host))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run_worker(settings.worker_options(), settings.stores()))


def health(
    file: Annotated[Path | None, typer.Option(help="The worker's health file.", envvar="HOLDFAST_HEALTH_FILE")] = None,
) -> None:
    """Say whether the worker that writes a health file is ready; exit code 0 if it is, 1 if not."""
    if file is None:
        raise InvalidError("name the worker's health file: --file, or HOLDFAST_HEALTH_FILE")
    out.print(check_health(file))


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


def _show_status(stack: LocalStack) -> None:
    status = stack.status()
    for name, pid in status.processes.items():
        err.print(f"{name}: {'stopped' if pid is None else f'running, process {pid}'}")
    if status.addresses is None or not status.running:
        fail("nothing runs" if not status.processes else "not everything runs", 1)
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
