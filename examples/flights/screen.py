"""What the tour shows: titled steps, tables, a progress bar where there is a terminal and plain lines where not."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.json import JSON
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.table import Table

#: Without a terminal a line stands for this much of a progress.
TENTHS = 10


class Screen:
    """Prints the tour."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._steps = 0

    def step(self, title: str, why: str) -> None:
        """Begin a step: its number and title, and what it shows."""
        self._steps += 1
        self.console.print()
        self.console.print(Rule(f"[bold]{self._steps}. {escape(title)}[/bold]", align="left", style="cyan"))
        self.console.print(why, style="italic")

    def say(self, text: str) -> None:
        """A line of result; may hold rich's markup."""
        self.console.print(text)

    def note(self, text: str) -> None:
        """A line of set-up."""
        self.console.print(f"  {text}", style="dim", markup=False)

    def json(self, data: Any) -> None:
        """Data as JSON."""
        self.console.print(Padding(JSON.from_data(data), (0, 2)))

    def table(self, *columns: str, rows: list[list[str]]) -> None:
        """A small table."""
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*map(escape, row))
        self.console.print(Padding(table, (0, 2)))

    def check(self, good: bool, text: str) -> bool:
        """A line of a final count; gives back whether it is good."""
        self.console.print(f"  [green]✓[/green] {text}" if good else f"  [bold red]✗ {text}[/bold red]")
        return good

    @contextmanager
    def progress(self, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Show how far something is; the block calls what it gets with the number that is done."""
        began = time.monotonic()
        if self.console.is_terminal:
            with Progress(
                BarColumn(bar_width=40),
                TaskProgressColumn(),
                MofNCompleteColumn(),
                TextColumn("[bold]{task.fields[rate]:>7,.0f}[/bold] " + unit + "/s"),
                TimeElapsedColumn(),
                console=self.console,
            ) as bars:
                task = bars.add_task("", total=total, rate=0.0)
                yield lambda done: bars.update(task, completed=done, rate=done / (time.monotonic() - began + 1e-9))
            return
        shown = 0

        def show(done: int) -> None:
            nonlocal shown
            if done * TENTHS // total > shown:
                shown = done * TENTHS // total
                rate = done / (time.monotonic() - began + 1e-9)
                self.note(f"{shown * 100 // TENTHS:3} %  {done:,} of {total:,}  {rate:,.0f} {unit}/s")

        yield show
