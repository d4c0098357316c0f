"""What a run leaves: a JSON file with everything, and a table in Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from .display import curve_cells, number
from .result import Comparison, Figure, Row

_HEAD = ("measure", "Holdfast", "beside", "", "ratio", "goal")


def write_json(file: Path, rows: Sequence[Row], circumstances: dict[str, Any]) -> None:
    """All samples of all rounds, and under which circumstances they were taken."""
    data = circumstances | {"rows": [row.to_json() for row in rows]}
    file.write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2) + b"\n")


def write_markdown(file: Path, rows: Sequence[Row], circumstances: dict[str, Any], plots: Sequence[Path]) -> None:
    """The table, its notes, and the plots."""
    file.write_text("\n".join(markdown(rows, circumstances, [plot.name for plot in plots])) + "\n", encoding="utf-8")


def markdown(rows: Sequence[Row], circumstances: dict[str, Any], plots: Sequence[str]) -> list[str]:
    """The lines of the page."""
    machine, software = circumstances["machine"], circumstances["software"]
    loads = ", ".join(f"{load:g}" for load in machine["load_average_before"])
    place = (
        f"{circumstances['started']}; {machine['usable_cpus']} CPUs ({machine['cpu']}), "
        f"{machine['memory_mib'] / 1024:.0f} GiB, data on {machine['data_filesystem']}, load average before: {loads}. "
        f"Python {machine['python']}, RabbitMQ {software['rabbitmq']}, MongoDB {software['mongod']}, "
        f"nats-server {software['nats-server']}."
    )
    manner = (
        "One worker, one client process for each contender, values of 200 bytes, writes with majority and journal. "
        "Contenders took turns on one machine that also ran all servers. Figures are the median over the rounds "
        "(least to most), ratios the median of the ratios round by round (least to most)."
    )
    lines = [
        "# Benchmark results",
        "",
        place,
        "",
        manner,
        "",
        _line(_HEAD),
        _line(["---", "---:", "---", "---:", "---:", "---"]),
        *(_line(_cells(comparison)) for row in rows for comparison in row.comparisons),
        "",
    ]
    for row in rows:
        lines += [f"- {row.title}: {note}" for note in row.notes]
    for row in rows:
        for kind, curve in row.curves.items():
            cells = curve_cells(curve)
            levels = list(next(iter(cells.values())))
            lines += ["", f"{kind.capitalize()}s: rate, p50 / p99, by what is in flight", ""]
            lines += [_line(["", *(f"{level:,}" for level in levels)]), _line(["---", *("---:" for _ in levels)])]
            lines += [_line([name, *of_name.values()]) for name, of_name in cells.items()]
    if plots:
        lines += ["", *(f"![{plot.removesuffix('.png').replace('-', ' ')}]({plot})" for plot in plots)]
    return lines


def _cells(comparison: Comparison) -> list[str]:
    ratio = comparison.ratio
    goal = ""
    if comparison.goal is not None:
        goal = f"{comparison.goal}, {'reached' if comparison.reached else '**missed**'}"
    return [
        comparison.measure,
        _figure(comparison.ours),
        comparison.theirs.title,
        _figure(comparison.theirs),
        f"**{ratio.median:.2f}** ({ratio.low:.2f}-{ratio.high:.2f})",
        goal,
    ]


def _figure(figure: Figure) -> str:
    seen = figure.spread
    unit = figure.unit if figure.unit.startswith("/") else f" {figure.unit}"
    return f"{number(seen.median)}{unit} ({number(seen.low)}-{number(seen.high)})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
