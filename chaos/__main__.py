"""The command line of the chaos runs: ``python -m chaos``."""

import asyncio
import logging
import secrets
import shutil
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.markdown import Markdown

from holdfast.local import LocalStackError

from .crowd import CrowdError
from .display import Display
from .history import HistoryError
from .runner import Options, Runner, check_run, kinds_of
from .soak import soak as run_soak
from .stage import Size

T = TypeVar("T")

console = Console()
app = typer.Typer(name="chaos", add_completion=False, pretty_exceptions_enable=False, help=__doc__)

BUILD = Path("build/chaos")


@app.command()
def run(
    minutes: Annotated[float, typer.Option(min=0.1, help="Minutes of load. Recovery and checks come on top.")] = 10,
    seed: Annotated[str, typer.Option(help="Plans the calls and the faults. [default: a random one]")] = "",
    kinds: Annotated[str, typer.Option(help="Kinds of faults, separated by spaces. [default: all]")] = "",
    rabbits: Annotated[int, typer.Option(min=1, max=3, help="RabbitMQ nodes: three make a cluster.")] = 3,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the histories of a run that has passed, too.")] = False,
) -> None:
    """Run clients against a service on real servers, inject faults, and check that all promises were kept.

    Exit code 0 if nothing is wrong, 1 otherwise.
    """
    seed = seed or secrets.token_hex(4)
    try:
        options = Options(seed=seed, minutes=minutes, kinds=kinds_of(kinds.split()), size=Size(rabbits=rabbits))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--kinds") from None
    directory = _empty(BUILD / seed)
    console.print(f"seed {seed}, {minutes:g} minutes; everything is in {directory}", highlight=False)
    with Display(console, minutes * 60) as display:
        report = _run(Runner(directory.resolve(), options, display).run())
    console.print(Markdown(report.markdown()))
    if report.passed and not keep:
        for path in [*directory.glob("*.history"), *directory.glob("*.jsonl")]:
            path.unlink()
    console.print(f"the report is {directory / 'report.md'} and report.json beside it", highlight=False)
    if not report.passed:
        console.print(f"check what was recorded again with: python -m chaos check {directory}", highlight=False)
        sys.exit(1)


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(min=0.5, help="Minutes at half the rate that is possible.")] = 10,
) -> None:
    """Keep a service busy at half of its highest rate, and see that memory and queues do not grow.

    Exit code 0 if nothing is wrong, 1 otherwise.
    """
    directory = _empty(Path("build/soak"))
    with Display(console, minutes * 60) as display:
        report = _run(run_soak(directory.resolve(), minutes, display))
    console.print(Markdown(report.markdown()))
    console.print(f"the report is {directory / 'soak.md'} and soak.json beside it", highlight=False)
    sys.exit(0 if report.passed else 1)


@app.command()
def check(
    directory: Annotated[Path, typer.Argument(help="The folder of a run.", exists=True, file_okay=False)],
) -> None:
    """Check again what a run has recorded. Exit code 0 if nothing is wrong, 1 otherwise."""
    checked = _run(check_run(directory))
    for finding in checked.findings:
        console.print(finding, style="red", markup=False, highlight=False)
    console.print(f"{checked.operations:,} operations on {checked.keys:,} keys, {checked.wrong:,} findings")
    sys.exit(1 if checked.findings else 0)


def _empty(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def _quiet() -> None:
    # Connections are lost here on purpose; what that leads to is in the report.
    for name in ("aio_pika", "aiormq", "holdfast.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _run(work: Coroutine[Any, Any, T]) -> T:
    _quiet()
    try:
        return asyncio.run(_stoppable(work))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("stopped, and with it everything that was started", style="red")
        raise typer.Exit(130) from None
    except (LocalStackError, CrowdError, HistoryError, TimeoutError) as error:
        console.print(f"chaos: {type(error).__name__}: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None


async def _stoppable(work: Coroutine[Any, Any, T]) -> T:
    """Let SIGTERM end it as Ctrl-C does: with everything that it has started."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - this is one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


if __name__ == "__main__":
    app()
