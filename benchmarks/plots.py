"""Plots of throughput and latency against what is in flight."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from .load import Sample

#: Contender → its points.
Curves = Mapping[str, Sequence[Sample]]

_COLOURS = {"Holdfast": "#c0392b", "Motor": "#2c7a51", "NATS KV": "#2a6ebb", "aio-pika echo": "#8a8a8a"}
_MARKERS = {"Holdfast": "o", "Motor": "s", "NATS KV": "^", "aio-pika echo": "x"}


def plot_all(curves: Mapping[str, Curves], folder: Path) -> list[Path]:
    """One file of throughput and one of latency for each kind of operation. The files written."""
    mpl.use("Agg")
    written: list[Path] = []
    for kind, of_kind in curves.items():
        written.append(_throughput(kind, of_kind, folder / f"{kind}-throughput.png"))
        written.append(_latency(kind, of_kind, folder / f"{kind}-latency.png"))
    return written


def _throughput(kind: str, curves: Curves, file: Path) -> Path:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, points in curves.items():
        axes.plot(_xs(points), [point.rate for point in points], label=name, **_style(name))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:,.0f}"))
    _finish(axes, f"{kind}s per second", curves)
    axes.legend(frameon=False)
    figure.savefig(file, dpi=150)
    return file


def _latency(kind: str, curves: Curves, file: Path) -> Path:
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, percentile in ((left, "p50"), (right, "p99")):
        for name, points in curves.items():
            axes.plot(_xs(points), [getattr(point, percentile) for point in points], label=name, **_style(name))
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda time, _: f"{time:g}"))
        _finish(axes, f"{percentile} of a {kind}, ms", curves)
    left.legend(frameon=False)
    figure.savefig(file, dpi=150)
    return file


def _finish(axes: Axes, title: str, curves: Curves) -> None:
    levels = sorted({x for points in curves.values() for x in _xs(points)})
    axes.set_xscale("log", base=2)
    axes.set_xticks(levels, [f"{level:,}" for level in levels])
    axes.minorticks_off()
    axes.set_xlabel("in flight")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _xs(points: Sequence[Sample]) -> list[int]:
    return [point.in_flight for point in points]


def _style(name: str) -> dict[str, Any]:
    return {"color": _COLOURS.get(name), "marker": _MARKERS.get(name, "."), "linewidth": 1.8, "markersize": 5}
