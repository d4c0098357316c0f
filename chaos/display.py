"""What the terminal shows while a run goes on."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Display:
    """A bar over the time of the load, how many operations there are so far, and what goes wrong at the moment.

    :param seconds: of load.
    """

    def __init__(self, console: Console, seconds: float) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("[bold]{task.fields[phase]}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[load]} {task.description}"),
            console=console,
            transient=True,
        )
        self._bar = self._progress.add_task("", total=seconds, phase="starting", load="", start=False)
        self._faults: list[str] = []
        self._last = (0.0, 0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, line: str, style: str = "dim") -> None:
        """One line that stays."""
        self._console.print(line, style=style, highlight=False, markup=False)

    def phase(self, name: str) -> None:
        """What is being done."""
        self._progress.update(self._bar, phase=name)
        self.say(name, style="bold")

    def load_begins(self) -> None:
        """The bar counts from now on."""
        self._progress.start_task(self._bar)

    def load(self, elapsed: float, operations: int, unknown: int) -> None:
        """How far the load has come."""
        now = time.monotonic()
        then, before = self._last
        rate = (operations - before) / (now - then) if then else 0.0
        self._last = (now, operations)
        told = f"{operations:,} operations, {rate:,.0f}/s, {unknown:,} unknown"
        self._progress.update(self._bar, completed=elapsed, load=told)

    def begins(self, fault: str) -> None:
        """A fault begins."""
        self._faults.append(fault)
        self._show_faults()

    def ends(self, fault: str, seconds: float, failure: str) -> None:
        """A fault is over."""
        self._faults.remove(fault)
        self._show_faults()
        if failure:
            self.say(f"  {fault}: FAILED, {failure}", style="red")
        else:
            self.say(f"  {fault}: {seconds:.1f} s")

    def _show_faults(self) -> None:
        self._progress.update(self._bar, description=f"[red]{', '.join(self._faults)}")
