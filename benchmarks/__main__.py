"""The command line of the benchmarks."""

import asyncio
import os
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from holdfast.local import LocalStackError

from .bench import Bench
from .display import Display
from .machine import describe_machine, describe_software, find_nats_server
from .plan import Plan
from .plots import plot_all
from .process import SideFailedError
from .profiler import estimate_profile, profile_saves
from .report import write_json, write_markdown
from .result import Row
from .rows import ROWS
from .servers import Servers

#: Seconds that starting and stopping everything takes, about.
_AROUND = 15.0
#: A run that takes so much longer than it should is ended.
_OVERRUN = 2.5

console = Console(stderr=True)


def _selected(only: str | None) -> list[str]:
    wanted = [name.strip() for name in only.split(",") if name.strip()] if only else list(ROWS)
    unknown = [name for name in wanted if name not in ROWS]
    if unknown or not wanted:
        raise typer.BadParameter(f"no such row: {', '.join(unknown) or only!r}; there are: {', '.join(ROWS)}")
    return [name for name in ROWS if name in wanted]


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Everything once, in about two minutes.")] = False,
    only: Annotated[
        str | None, typer.Option(help=f"Only these rows, separated by commas: {', '.join(ROWS)}.", metavar="ROWS")
    ] = None,
    preload: Annotated[
        int | None, typer.Option(min=1000, help="Events in the full log of the row `million`. (default: 5,000,000)")
    ] = None,
    preload_seconds: Annotated[
        float | None, typer.Option(min=1, help="Seconds at most to put them there. (default: 300)")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, max=50, help="Rounds of every row. (default: 5 or 3, YCSB 2)")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.2, max=60, help="Seconds of each measurement in rows with rounds. (default: 4)"),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Run py-spy on the worker and the client during extra saves.")
    ] = False,
    mongo_cache: Annotated[float | None, typer.Option(min=0.25, help="MongoDB's cache in GiB. (default: 2)")] = None,
    output: Annotated[Path, typer.Option(help="The folder for what is written.")] = Path("bench-results"),
    directory: Annotated[
        Path | None, typer.Option(help="Where the servers keep their data meanwhile. (default: the temporary folder)")
    ] = None,
) -> None:
    """Measure Holdfast beside Motor, an aio-pika echo and NATS JetStream KV, on servers started for it on this machine.

    Writes results.json, results.md and plots. The whole run takes about 12 minutes; the machine should have
    nothing else to do. A contender that fails fails the run.
    """
    names = _selected(only)
    changes: dict[str, Any] = {
        "preload": preload,
        "preload_seconds": preload_seconds,
        "rounds": rounds,
        "short_rounds": rounds,
        "ycsb_rounds": rounds,
        "seconds": seconds,
        "mongo_cache": mongo_cache,
    }
    plan = (Plan.quick() if quick else Plan()).with_changes(**changes)
    if any(ROWS[name].needs_nats for name in names) and find_nats_server() is None:
        raise typer.BadParameter("there is no nats-server; install it, on Debian with: apt-get install nats-server")
    estimate = _AROUND + sum(ROWS[name].estimate(plan) for name in names) + (estimate_profile() if profile else 0)
    output.mkdir(parents=True, exist_ok=True)
    try:
        rows, circumstances = _measure(names, plan, directory, estimate, output if profile else None)
    except KeyboardInterrupt:
        console.print("interrupted; nothing is written")
        raise typer.Exit(130) from None
    plots = [plot for row in rows for plot in plot_all(row.curves, output)]
    write_json(output / "results.json", rows, circumstances)
    write_markdown(output / "results.md", rows, circumstances, plots)
    console.print(f"written to {output}: results.json, results.md{''.join(f', {plot.name}' for plot in plots)}")


def _measure(
    names: list[str], plan: Plan, directory: Path | None, estimate: float, profiles: Path | None
) -> tuple[list[Row], dict[str, Any]]:
    """Start everything, measure, stop everything. The rows, and the circumstances."""
    with_nats = any(ROWS[name].needs_nats for name in names)
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=directory) as folder:
        circumstances: dict[str, Any] = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "rows_measured": names,
            "plan": plan.to_json(),
            "settings": {name: value for name, value in os.environ.items() if _may_be_shown(name)},
            "machine": describe_machine(Path(folder)),
            "software": describe_software(),
        }
        if circumstances["machine"]["data_filesystem"] in ("tmpfs", "ramfs"):
            console.print("[yellow]The data is in memory, where syncing is free: --directory puts it on a disk.[/]")
        with (
            Display(console, estimate) as display,
            Servers(Path(folder), mongo_cache=plan.mongo_cache, with_nats=with_nats, progress=display.say) as servers,
        ):
            circumstances["software"] |= servers.versions()
            display.advance(_AROUND / 2)
            rows = asyncio.run(_run(names, plan, servers, display, profiles, estimate))
    return rows, circumstances


async def _run(
    names: list[str], plan: Plan, servers: Servers, display: Display, profiles: Path | None, estimate: float
) -> list[Row]:
    rows: list[Row] = []
    # Every step has its own limit; this one is for what nobody thought of.
    limit = estimate * _OVERRUN + 120
    try:
        async with asyncio.timeout(limit), Bench(plan, servers, display) as running:
            for name in names:
                display.begin(name)
                row = await ROWS[name].measure(running)
                rows.append(row)
                display.show(row)
                if name == "saves" and profiles is not None:
                    for file in await profile_saves(running, profiles):
                        display.say(f"profile: {file}")
    except TimeoutError:
        raise SideFailedError(f"the run was ended after {limit:.0f} s, much longer than it should take") from None
    return rows


def _may_be_shown(name: str) -> bool:
    return name.startswith("HOLDFAST_") and not name.endswith(("_URL", "_FILE", "_DIR"))


def main() -> None:
    """Run, and end with a clear message and a code if something fails."""
    # A SIGTERM stops everything in order, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(bench)
    try:
        app(prog_name="python -m benchmarks")
    except (SideFailedError, LocalStackError) as error:
        console.print(f"[bold red]failed:[/] {error}", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
