"""``python -m examples.flights``: see the package's docstring."""

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from holdfast import HoldfastError
from holdfast.local import LocalStack, LocalStackError
from holdfast.local.process import tail

from .departures import Departures, fetch
from .screen import Screen
from .tour import Tour

#: Departures by default: with them the tour takes less than a minute on two cores.
DEFAULT_LIMIT = 80_000


def main() -> int:
    """Run the tour; 0 if the count at its end is exact."""
    options = _options()
    logging.basicConfig(level=logging.CRITICAL)
    # Settings of the caller's are meant for servers of the caller's.
    for name in [name for name in os.environ if name.startswith("HOLDFAST_") and name != "HOLDFAST_CACHE_DIR"]:
        del os.environ[name]
    screen = Screen()
    began = time.monotonic()
    screen.console.print("[bold]Holdfast: a year of departures from New York, through RabbitMQ into MongoDB[/bold]")
    with tempfile.TemporaryDirectory(prefix="holdfast-demo-") as directory:
        stack = LocalStack(Path(directory) / "stack", workers=2, progress=screen.note)
        try:
            screen.step("Set-up", "Real servers of their own, in a temporary folder, with two worker processes.")
            departures = Departures(fetch(screen.note), options.limit)
            screen.note(f"{len(departures):,} of the data's {departures.total:,} departures are used")
            addresses = stack.start()
            running = stack.status().processes.items()
            screen.table("running", "process", rows=[[name, str(pid)] for name, pid in running])
            exact = uvloop.run(Tour(screen, stack, departures).run(addresses))
        except (HoldfastError, LocalStackError, ExceptionGroup) as fault:
            _explain(screen, fault, stack)
            return 1
        except KeyboardInterrupt:
            screen.say("\nstopping")
            return 130
        finally:
            stack.stop()
    seconds = time.monotonic() - began
    screen.say("")
    if exact:
        screen.say(
            f"[bold green]The count is exact.[/bold green] All in {seconds:.0f} s; servers and data are gone again."
        )
        if options.limit is not None and len(departures) < departures.total:
            screen.say(f"All {departures.total:,} departures: [bold]make demo ALL=1[/bold]")
        return 0
    screen.say("[bold red]The count is off.[/bold red]")
    return 1


def _explain(screen: Screen, fault: Exception, stack: LocalStack) -> None:
    """Say what failed, and what the workers said, before all of it is gone."""
    screen.console.print(f"\nThe demo failed: {fault}", style="bold red", markup=False)
    for inner in fault.exceptions if isinstance(fault, ExceptionGroup) else ():
        screen.console.print(f"  {type(inner).__name__}: {inner}", style="red", markup=False)
    for part in stack.status().processes:
        if part.startswith("worker-"):
            screen.note(f"{part} said:\n{tail(stack.log_path(part), 20)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.flights", description="A guided tour on real input.")
    parser.add_argument("--limit", type=_number, default=DEFAULT_LIMIT, help="departures to use (default: %(default)s)")
    parser.add_argument("--all", dest="limit", action="store_const", const=None, help="use all 336,776 departures")
    return parser.parse_args()


def _number(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError("at least 2")
    return number


if __name__ == "__main__":
    sys.exit(main())
