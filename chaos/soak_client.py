"""The client of a soak, in a process of its own: ``python -m chaos.soak_client FILE``.

It makes calls at a rate that does not depend on how quickly they are answered (an open loop); or, to find out what
rate is possible, as many as are answered (a closed loop).
"""

import asyncio
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import uvloop

import holdfast
from benchmarks.load import closed_loop
from benchmarks.values import endless_values, uniform_keys
from holdfast.local import Server
from holdfast.local.process import load_state, save_state

ROOT = Path(__file__).parents[1]

#: Keys that are written and read, each as likely as every other: caches are full of them soon.
KEYS = 20_000
#: Share of reads.
READS = 0.3
#: Callers of the closed loop.
IN_FLIGHT = 512
#: Seconds of the closed loop that do not count.
WARMUP = 4.0
#: Seconds between two portions of calls of the open loop.
_TICK = 0.01
#: Calls without an answer at which the service is said to have fallen behind.
MAX_OUTSTANDING = 20_000
#: Latencies are counted in so many steps of so many milliseconds.
_STEPS, _STEP = 1_000, 5
_REPORT_INTERVAL = 0.5


@dataclass(frozen=True, kw_only=True)
class SoakOptions:
    """What a soak client needs to know."""

    amqp_url: str
    seconds: float
    #: Calls per second of the open loop; None runs the closed loop.
    rate: float | None


class SoakClient(Server):
    """A soak client process, ready when it is connected. It ends by itself."""

    kind = "soak client"

    def __init__(self, directory: Path, options: SoakOptions) -> None:
        super().__init__(directory)
        self.options = options

    @property
    def log_path(self) -> Path:
        """What it has to say."""
        return self.console_path

    def report(self) -> dict[str, Any]:
        """What it has done so far."""
        return load_state(self.directory / "report.json")

    def _prepare(self) -> tuple[Sequence[str], dict[str, str]]:
        (self.directory / "report.json").unlink(missing_ok=True)
        config = self.directory / "client.json"
        save_state(config, asdict(self.options) | {"report": str(self.directory / "report.json")})
        return [sys.executable, "-m", "chaos.soak_client", str(config)], dict(os.environ) | {"PYTHONPATH": str(ROOT)}

    def _probe(self) -> bool:
        return bool(self.report())


@dataclass(slots=True)
class _Counts:
    done: int = 0
    failed: int = 0
    outstanding: int = 0
    most_outstanding: int = 0
    error: str = ""
    latencies: list[int] = field(default_factory=lambda: [0] * _STEPS)

    def percentile(self, share: float) -> float:
        """Milliseconds within which so many of the calls were answered; rounded up to a step."""
        left = share * sum(self.latencies)
        for step, count in enumerate(self.latencies):
            left -= count
            if left <= 0:
                return float((step + 1) * _STEP)
        return float(_STEPS * _STEP)

    def report(self) -> dict[str, Any]:
        told = {"done": self.done, "failed": self.failed, "most_outstanding": self.most_outstanding}
        return told | {"error": self.error, "p50": self.percentile(0.5), "p99": self.percentile(0.99)}


async def _run(config: dict[str, Any]) -> None:
    report = Path(config.pop("report"))
    options = SoakOptions(**config)
    async with holdfast.connect(options.amqp_url, name="soak") as client:
        call = _calls(client)
        if options.rate is None:
            save_state(report, {"rate": None})
            sample = await closed_loop(call, in_flight=IN_FLIGHT, seconds=options.seconds, warmup=WARMUP)
            save_state(report, {"rate": sample.rate})
            return
        counts = _Counts()

        async def keep_reporting() -> None:
            while True:
                save_state(report, counts.report())
                await asyncio.sleep(_REPORT_INTERVAL)

        reporting = asyncio.ensure_future(keep_reporting())
        await _open_loop(call, options.rate, options.seconds, counts)
        reporting.cancel()
        await asyncio.gather(reporting, return_exceptions=True)
        save_state(report, counts.report())


def _calls(client: holdfast.Client) -> Callable[[], Any]:
    next_key, values, random = uniform_keys("soak", KEYS), endless_values(), Random(1).random

    def call() -> Any:
        if random() < READS:
            return client.read(next_key())
        return client.save(next_key(), next(values))

    return call


async def _open_loop(call: Callable[[], Any], rate: float, seconds: float, counts: _Counts) -> None:
    async def one() -> None:
        began = time.perf_counter()
        try:
            await call()
        except holdfast.HoldfastError as error:
            counts.failed += 1
            counts.error = f"{type(error).__name__}: {error}"
        else:
            counts.done += 1
            counts.latencies[min(int((time.perf_counter() - began) * 1000 / _STEP), _STEPS - 1)] += 1
        finally:
            counts.outstanding -= 1

    began, launched = time.perf_counter(), 0
    tasks: set[asyncio.Task[None]] = set()
    while (elapsed := time.perf_counter() - began) < seconds:
        due = int(elapsed * rate)
        while launched < due:
            launched += 1
            counts.outstanding += 1
            task = asyncio.ensure_future(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        counts.most_outstanding = max(counts.most_outstanding, counts.outstanding)
        if counts.outstanding > MAX_OUTSTANDING:
            counts.error = f"{counts.outstanding} calls without an answer: the service has fallen behind"
            counts.failed += 1
            break
        await asyncio.sleep(_TICK)
    await asyncio.gather(*tasks)


def main() -> None:
    """Run the process."""
    logging.basicConfig(level="WARNING")
    gc.freeze()
    config = json.loads(Path(sys.argv[1]).read_text())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(config))


if __name__ == "__main__":
    main()
