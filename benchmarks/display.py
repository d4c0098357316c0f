"""What the terminal shows while the benchmark runs."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .load import Sample
from .result import Row


class Display:
    """One bar over the whole run, what is measured at the moment, and the results as they come.

    :param seconds: how long the run will take, about.
    """

    def __init__(self, console: Console, seconds: float) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn(f"of about {round(seconds / 60, 1):g} min"),
            console=console,
            transient=True,
        )
        self._bar = self._progress.add_task("starting", total=seconds)
        self._row = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        """One line that stays."""
        self._console.print(line, style="dim", highlight=False)

    def begin(self, row: str) -> None:
        """A row begins."""
        self._row = row
        self.now("preparing")

    def now(self, what: str) -> None:
        """What is going on."""
        self._progress.update(self._bar, description=f"[bold]{self._row}[/bold] {what}")

    def advance(self, seconds: float) -> None:
        """So much of the run is done."""
        self._progress.advance(self._bar, seconds)

    def show(self, row: Row) -> None:
        """A row's results."""
        if row.comparisons:
            self._console.print(_comparisons(row))
        for kind, curve in row.curves.items():
            self._console.print(_curves(kind, curve))
        for note in row.notes:
            self._console.print(f"  {note}", style="dim", highlight=False)


def _comparisons(row: Row) -> Table:
    table = Table(title=row.title, title_justify="left", title_style="bold", expand=False)
    for column in ("", "", "beside", "", "ratio", "goal"):
        table.add_column(column, justify="left" if column == "" or column == "beside" else "right")
    for line in row.comparisons:
        ours, theirs, ratio = line.ours, line.theirs, line.ratio
        goal = "" if line.goal is None else f"[{'green' if line.reached else 'red'}]{line.goal}[/]"
        table.add_row(
            line.measure,
            f"{number(ours.spread.median)} {ours.unit}",
            theirs.title,
            f"{number(theirs.spread.median)} {theirs.unit}",
            f"{ratio.median:.2f}",
            goal,
        )
    return table


def _curves(kind: str, curve: Mapping[str, Sequence[Sample]]) -> Table:
    table = Table(title=f"{kind}s: rate, p50 and p99 by what is in flight", title_justify="left", title_style="bold")
    table.add_column("")
    cells = curve_cells(curve)
    for level in next(iter(cells.values())):
        table.add_column(f"{level:,}", justify="right")
    for name, of_name in cells.items():
        table.add_row(name, *of_name.values())
    return table


def curve_cells(curve: Mapping[str, Sequence[Sample]]) -> dict[str, dict[int, str]]:
    """What to write for each contender at each level."""
    return {
        name: {
            sample.in_flight: f"{number(sample.rate)}/s, {number(sample.p50)} / {number(sample.p99)} ms"
            for sample in samples
        }
        for name, samples in curve.items()
    }


def number(figure: float) -> str:
    """A figure with as many digits as it deserves."""
    if figure >= 1000:
        return f"{round(figure, -1):,.0f}"
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"
