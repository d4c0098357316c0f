"""What a worker and a client need at their limits: memory first, on real servers. ``python -m benchmarks.limits``.

Every case starts a worker of its own, with the default settings. Its memory is the resident set (RSS) as the kernel
counts it: before, the peak during the case, and afterwards.
"""

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import typer
from rich.console import Console
from rich.table import Table

from holdfast.events import partition_queue
from holdfast.local import Addresses, MongoReplicaSet, RabbitServer, WorkerServer

from .limit_cases import CASES
from .machine import describe_machine, describe_software

console = Console(stderr=True)


@dataclass
class Finding:
    """What one case showed."""

    case: str
    #: Of the worker, in MiB.
    before: float
    peak: float
    after: float
    seconds: float
    #: Whatever else there is to tell.
    notes: dict[str, Any] = field(default_factory=dict)


class Stage:
    """Servers, and one worker at a time."""

    def __init__(self, folder: Path, scale: float) -> None:
        self.folder = folder
        self.scale = scale
        self.rabbit = RabbitServer(folder / "rabbitmq", memory_mib=4096)
        self.mongo = MongoReplicaSet(folder / "mongodb", cache_gb=1.0)
        self._worker: WorkerServer | None = None
        self._names = 0

    def __enter__(self) -> Self:
        """Start the servers."""
        self.rabbit.start()
        self.mongo.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self.end_worker()
        self.rabbit.kill()
        self.mongo.kill()

    def scaled(self, number: int) -> int:
        """A number of the full run, in this run."""
        return max(1, round(number * self.scale))

    def begin(self) -> None:
        """A virtual host and a database of their own for the next case."""
        self.end_worker()
        self._names += 1
        self.name = f"limits-{self._names}"
        self.rabbit.create_vhosts([self.name])
        self.amqp_url, self.mongo_url = self.rabbit.url(self.name), self.mongo.url(self.name)

    async def start_worker(self, **settings: object) -> None:
        """Start the worker of this case, or start it again."""
        environment = {f"HOLDFAST_{name.upper()}": str(value) for name, value in settings.items()}
        self._worker = WorkerServer(
            self.folder / f"{self.name}-worker",
            addresses=Addresses(self.amqp_url, self.mongo_url),
            environment=environment,
        )
        await asyncio.to_thread(self._worker.start)

    def end_worker(self) -> None:
        """Stop it; what waits goes on waiting."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.stop()

    @property
    def worker(self) -> WorkerServer:
        """The present one."""
        assert self._worker is not None
        return self._worker

    def memory(self, what: str = "VmRSS") -> float:
        """Of the worker, in MiB: ``VmRSS`` now, ``VmHWM`` at its peak since ``forget_peak``."""
        return memory_of(self.worker.pid or 0, what)

    def forget_peak(self) -> None:
        """Let the peak begin anew."""
        Path(f"/proc/{self.worker.pid}/clear_refs").write_text("5")

    def messages(self) -> int:
        """Messages in the queues of all partitions and of the ingress, those in hand included."""
        queues = [*(partition_queue(number) for number in range(8)), "holdfast.ingress"]
        total = 'lists:sum([begin {ok, Q} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"%s">>, queue, N)), '
        total += "{ok, {_, C}, _} = ra:local_query(amqqueue:get_pid(Q), fun rabbit_fifo:query_messages_total/1), C end "
        total += "|| N <- [%s]])"
        return int(self.rabbit.eval(total % (self.name, ", ".join(f'<<"{queue}">>' for queue in queues))))

    async def until_empty(self, patience: float = 1800) -> None:
        """Wait until nothing is in the queues."""
        deadline = time.monotonic() + patience
        while (left := await asyncio.to_thread(self.messages)) > 0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{left} messages are left after {patience:g} s")
            await asyncio.sleep(0.2)

    async def measured(self, case: str, work: Callable[[], Awaitable[dict[str, Any] | None]]) -> Finding:
        """Do something while the worker's memory is watched."""
        before = self.memory()
        self.forget_peak()
        began = time.perf_counter()
        notes = await work() or {}
        seconds = time.perf_counter() - began
        return Finding(case, before, self.memory("VmHWM"), self.memory(), seconds, notes)


def memory_of(pid: int, what: str = "VmRSS") -> float:
    """Of a process, in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(what)


def limits(
    only: Annotated[str | None, typer.Option(help=f"Only these, separated by commas: {', '.join(CASES)}.")] = None,
    scale: Annotated[float, typer.Option(min=0.0001, max=10, help="Of the numbers of commands and calls.")] = 1.0,
    output: Annotated[Path | None, typer.Option(help="A file for the findings, as JSON.")] = None,
) -> None:
    """Bring a worker and a client to their limits, and show what that takes."""
    names = [name for name in CASES if only is None or name in only.split(",")]
    findings: list[Finding] = []
    with tempfile.TemporaryDirectory(prefix="holdfast-limits-") as folder, Stage(Path(folder), scale) as stage:
        circumstances = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "scale": scale,
            "machine": describe_machine(Path(folder)),
            "software": describe_software(),
        }
        for name in names:
            console.print(f"{name}: {CASES[name].__doc__}")
            stage.begin()
            for finding in asyncio.run(CASES[name](stage)):
                findings.append(finding)
                console.print(f"  {finding}", highlight=False)
    table = Table("case", "before", "peak", "after", "s", "notes")
    for each in findings:
        notes = ", ".join(f"{what} {value}" for what, value in each.notes.items())
        table.add_row(
            each.case, f"{each.before:.0f}", f"{each.peak:.0f}", f"{each.after:.0f}", f"{each.seconds:.1f}", notes
        )
    console.print(table)
    if output is not None:
        output.write_text(json.dumps(circumstances | {"findings": [asdict(each) for each in findings]}, indent=2))


def main() -> None:
    """Run."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(limits)
    app(prog_name="python -m benchmarks.limits")


if __name__ == "__main__":
    main()
