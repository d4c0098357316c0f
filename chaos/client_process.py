"""A process of callers, so that clients can be killed: ``python -m chaos.client_process FILE``.

It calls until it is asked to stop (SIGTERM), lets each caller finish what it is at, and leaves. What it has done so
far it writes to a file, twice a second; what it calls, into its history.
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

import holdfast
from holdfast.local import Server
from holdfast.local.process import load_state, save_state

from .cluster import patiently
from .history import Recorder
from .line import RawLine
from .plan import Plan
from .workload import Caller, Tally

#: Seconds between two reports.
REPORT_INTERVAL = 0.5
#: Calls in flight of one client at most.
MAX_IN_FLIGHT = 8192

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """What a client process needs to know."""

    name: str
    amqp_url: str
    seed: str
    #: Numbers of its callers, from … to below.
    first_caller: int
    last_caller: int
    #: Hot keys at a time.
    groups: int
    partitions: int
    #: Where the plans begin.
    generation: int = 0


class ClientProcess(Server):
    """A client process, ready when it is connected and calls."""

    kind = "client"

    def __init__(self, directory: Path, options: ClientOptions) -> None:
        super().__init__(directory)
        self.options = options

    @property
    def log_path(self) -> Path:
        """What it has to say."""
        return self.console_path

    @property
    def history_path(self) -> Path:
        """What it called."""
        return self.directory.with_name(f"{self.directory.name}.history")

    @property
    def _report_path(self) -> Path:
        return self.directory / "report.json"

    def report(self) -> dict[str, Any]:
        """What it has done so far: ``outcomes``, ``findings``, … Empty before the first report."""
        return load_state(self._report_path)

    def ask_to_stop(self) -> None:
        """Have it make no more calls, and end when those in flight have ended."""
        self._signal(signal.SIGTERM)

    def _prepare(self) -> tuple[Sequence[str], dict[str, str]]:
        paths = {"history": str(self.history_path), "report": str(self._report_path)}
        config = self.directory / "client.json"
        save_state(config, asdict(self.options) | paths)
        return [sys.executable, "-m", "chaos.client_process", str(config)], dict(os.environ) | {"PYTHONPATH": str(ROOT)}

    def _probe(self) -> bool:
        return bool(self.report().get("ready"))


async def _run(config: dict[str, Any]) -> None:
    history, report = Path(config.pop("history")), Path(config.pop("report"))
    options = ClientOptions(**config)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    tally = Tally()
    async with contextlib.AsyncExitStack() as stack:
        recorder = stack.enter_context(Recorder(history))
        clients = tuple(
            [await stack.enter_async_context(_connected(options, f"{options.name}-{number}")) for number in range(2)]
        )
        line = RawLine(options.amqp_url)
        beside = [asyncio.ensure_future(line.run())]
        callers = [
            Caller(
                f"{options.name}.{number}",
                Plan(
                    options.seed,
                    options.name,
                    number,
                    groups=options.groups,
                    partitions=options.partitions,
                    generation=options.generation,
                ),
                clients=clients,
                line=line,
                recorder=recorder,
                tally=tally,
                partitions=options.partitions,
            )
            for number in range(options.first_caller, options.last_caller)
        ]

        def write(*, ready: bool) -> None:
            save_state(
                report,
                {
                    "ready": ready,
                    "outcomes": tally.outcomes,
                    "kinds": tally.kinds,
                    "findings": tally.findings,
                    "acknowledged": [tally.acknowledged.get(number, 0) for number in range(options.partitions)],
                    "generation": max(caller.generation for caller in callers),
                },
            )

        async def keep_reporting() -> None:
            while True:
                write(ready=True)
                await asyncio.sleep(REPORT_INTERVAL)

        beside.append(asyncio.ensure_future(keep_reporting()))
        try:
            await asyncio.gather(*(caller.run(stopping.is_set) for caller in callers))
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        write(ready=False)


@contextlib.asynccontextmanager
async def _connected(options: ClientOptions, name: str) -> AsyncIterator[holdfast.Client]:
    async def attempt() -> holdfast.Client:
        client = holdfast.connect(options.amqp_url, name=name, max_in_flight=MAX_IN_FLIGHT, timeout=30)
        await client.open()
        return client

    # It may begin in the middle of another fault.
    client = await patiently(attempt)
    try:
        yield client
    finally:
        await client.close()


def main() -> None:
    """Run the process."""
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("aio_pika", "aiormq"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    gc.freeze()
    config = json.loads(Path(sys.argv[1]).read_text())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_run(config))


if __name__ == "__main__":
    main()
