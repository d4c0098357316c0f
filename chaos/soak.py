"""A soak: minutes of load at half the rate that is possible. Memory stays flat, and no queue grows."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from benchmarks.machine import describe_machine, resident_mib
from holdfast.events import partition_queue
from holdfast.local import ServerStateError

from .cluster import until
from .display import Display
from .soak_client import IN_FLIGHT, KEYS, READS, SoakClient, SoakOptions
from .stage import Size, Stage

#: Seconds in which the highest rate is measured.
MEASURING = 20.0
#: Of the highest rate.
SHARE = 0.5
#: Share of the time after which memory has to be flat: caches are full and the interpreter has what it needs.
WARMUP_SHARE = 0.25
#: MiB by which the line through the samples after the warm-up may rise, however long that is.
MAX_GROWTH_MIB = 16.0
#: Share of the calls that have to be answered in time for the rate to have been held.
MIN_RATE_SHARE = 0.98
#: Messages in all queues by which the second half's average may exceed the first's.
MAX_MORE_WAITING = 50.0
#: Seconds between two samples of memory, and between two of the queues.
_MEMORY_INTERVAL = 1.0
_QUEUE_INTERVAL = 5.0
#: Seconds for the last calls.
_END_TIMEOUT = 60.0


@dataclass
class Memory:
    """One process's memory over the time of a soak."""

    #: (seconds since the beginning, MiB).
    samples: list[tuple[float, float]] = field(default_factory=list)
    #: Of the line through the samples after the warm-up: MiB at its beginning, and by how much it rises until its end.
    start: float = 0.0
    growth: float = 0.0
    highest: float = 0.0

    def evaluate(self, since: float) -> None:
        """Put a line through what was sampled since then."""
        points = [(at, mib) for at, mib in self.samples if at >= since]
        slope, start = fit(points)
        self.start, self.growth = start, slope * (points[-1][0] - points[0][0])
        self.highest = max(mib for _, mib in self.samples)


@dataclass
class SoakReport:
    """What came of a soak."""

    minutes: float
    machine: dict[str, Any]
    highest_rate: float = 0.0
    rate: float = 0.0
    client: dict[str, Any] = field(default_factory=dict)
    worker_memory: Memory = field(default_factory=Memory)
    client_memory: Memory = field(default_factory=Memory)
    #: (seconds since the beginning, messages in all queues).
    waiting: list[tuple[float, int]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def write(self, directory: Path) -> None:
        """Write ``soak.md`` and ``soak.json``."""
        (directory / "soak.md").write_text(self.markdown())
        data = {"passed": self.passed} | orjson.loads(orjson.dumps(self))
        (directory / "soak.json").write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2))

    def markdown(self) -> str:
        """The report as a page."""
        depths = [depth for _, depth in self.waiting]
        client = self.client
        rates = (
            f"- {self.rate:,.0f} calls a second, {READS:.0%} of them reads, over {KEYS:,} keys; the highest rate with "
            f"{IN_FLIGHT} in flight is {self.highest_rate:,.0f}"
        )
        calls = (
            f"- {client.get('done', 0):,} calls answered, {client.get('failed', 0):,} failed; p50 "
            f"{client.get('p50', 0):g} ms, p99 {client.get('p99', 0):g} ms, at most "
            f"{client.get('most_outstanding', 0):,} in flight"
        )
        mean, most = sum(depths) / max(1, len(depths)), max(depths, default=0)
        lines = [
            f"# Soak of {self.minutes:g} minutes: {'passed' if self.passed else 'FAILED'}",
            "",
            *(f"- {finding}" for finding in self.findings),
            rates,
            calls,
            f"- messages in all queues: {mean:.1f} on average, {most:,} at most",
            "",
            f"| memory (RSS), after the first {WARMUP_SHARE:.0%} of the time | MiB | growth, MiB | highest |",
            "|---|---:|---:|---:|",
            *(
                f"| {name} | {memory.start:.1f} | {memory.growth:+.1f} | {memory.highest:.1f} |"
                for name, memory in (("worker", self.worker_memory), ("client", self.client_memory))
            ),
            "",
        ]
        return "\n".join(lines)


async def soak(directory: Path, minutes: float, display: Display, *, measuring: float = MEASURING) -> SoakReport:
    """Find out what rate is possible, keep half of it up, and look at memory and queues meanwhile.

    :param directory: an empty one, for everything that the run leaves.
    :raises LocalStackError: if a server, worker or client does not start.
    """
    report = SoakReport(minutes, describe_machine(directory))
    async with Stage(directory, seed="soak", size=Size(workers=1), say=display.say) as stage:
        display.phase(f"measuring the highest rate for {measuring:g} s")
        report.highest_rate = await _measure(stage, measuring)
        report.rate = report.highest_rate * SHARE
        display.phase(f"{report.rate:,.0f} calls a second")
        await _keep_up(stage, report, minutes * 60, display)
        await stage.drain()
    judge(report)
    report.write(directory)
    return report


async def _measure(stage: Stage, seconds: float) -> float:
    options = SoakOptions(amqp_url=stage.cluster.amqp_url, seconds=seconds, rate=None)
    client = SoakClient(stage.directory / "measure", options)
    await asyncio.to_thread(client.start)
    await until(lambda: not client.running, "the rate is measured", seconds + _END_TIMEOUT)
    rate = client.report().get("rate")
    if rate is None:
        raise ServerStateError(f"the client that measures the rate failed; its log is {client.log_path}")
    return float(rate)


async def _keep_up(stage: Stage, report: SoakReport, seconds: float, display: Display) -> None:
    options = SoakOptions(amqp_url=stage.cluster.amqp_url, seconds=seconds, rate=report.rate)
    client = SoakClient(stage.directory / "client", options)
    (worker,) = stage.cluster.workers
    try:
        await asyncio.to_thread(client.start)
        display.load_begins()
        began = last_look = time.monotonic()
        while client.running:
            now = time.monotonic() - began
            if now > seconds + _END_TIMEOUT:
                report.findings.append(f"the client did not end {_END_TIMEOUT:g} s after its time")
                break
            for process, memory in ((worker, report.worker_memory), (client, report.client_memory)):
                if (pid := process.pid) is not None:
                    memory.samples.append((round(now, 1), round(resident_mib(pid), 2)))
            if time.monotonic() - last_look > _QUEUE_INTERVAL:
                last_look = time.monotonic()
                report.waiting.append((round(now, 1), await asyncio.to_thread(_waiting, stage)))
            display.load(now, client.report().get("done", 0), 0)
            await asyncio.sleep(_MEMORY_INTERVAL)
    finally:
        client.kill()
    report.client = client.report()


def _waiting(stage: Stage) -> int:
    return sum(stage.cluster.depth(partition_queue(number)) for number in range(stage.size.partitions))


def judge(report: SoakReport) -> None:
    """Put what is wrong with a soak into its findings."""
    seconds = report.minutes * 60
    for name, memory in (("worker", report.worker_memory), ("client", report.client_memory)):
        memory.evaluate(seconds * WARMUP_SHARE)
        if memory.growth > MAX_GROWTH_MIB:
            report.findings.append(
                f"the memory of the {name} grew by {memory.growth:.1f} MiB after the warm-up, more than "
                f"{MAX_GROWTH_MIB:g} MiB"
            )
    done, failed = report.client.get("done", 0), report.client.get("failed", 0)
    if failed:
        report.findings.append(f"{failed:,} calls failed; the last one: {report.client.get('error')}")
    if done < MIN_RATE_SHARE * report.rate * seconds:
        report.findings.append(
            f"the rate was not held: {done:,} calls instead of {report.rate * seconds:,.0f} were answered"
        )
    depths = [depth for _, depth in report.waiting]
    if len(depths) < 4:
        report.findings.append(f"the queues were looked at {len(depths)} times only: the soak was too short")
        return
    half = len(depths) // 2
    before, after = sum(depths[:half]) / half, sum(depths[half:]) / (len(depths) - half)
    if after > 2 * before + MAX_MORE_WAITING:
        report.findings.append(f"the queues grew: {before:.0f} messages on average, then {after:.0f}")


def fit(points: list[tuple[float, float]]) -> tuple[float, float]:
    """The line through points by least squares: its slope, and its height at the first one."""
    if len(points) < 2:
        raise ValueError("a line needs two points")
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
    return slope, mean_y + slope * (points[0][0] - mean_x)
