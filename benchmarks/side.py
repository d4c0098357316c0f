"""A side: one contender's client in a process of its own, told by the benchmark over its standard input what to do.

One JSON object per line each way. When the input ends, because the benchmark has ended in whatever way, the side
ends too.
"""

import asyncio
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import orjson
import uvloop

from .load import Operation, closed_loop
from .values import Value, endless_values, every_key, key_name, uniform_keys
from .ycsb import RECORDS, MissingRecordError, Records, record_key, workload

#: What the benchmark passes along: plain data.
Options = dict[str, Any]


class Side(ABC):
    """What a contender can do. The addresses come as options of ``open``."""

    #: What the benchmark may ask for.
    tasks: ClassVar[frozenset[str]] = frozenset({"open", "measure", "fill", "fill_ycsb", "count"})
    #: Callers at a time while records are put in place; this is never measured.
    fill_in_flight = 512

    def __init__(self) -> None:
        self.values = endless_values()
        self._records = Records()

    @abstractmethod
    async def open(self, options: Options) -> None:
        """Connect."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect."""

    def save(self, key: str, value: Value) -> Awaitable[object]:
        """Store a value."""
        raise NotImplementedError(f"{type(self).__name__} does not save")

    def read(self, key: str) -> Awaitable[object | None]:
        """Give the value of a key, None if there is none."""
        raise NotImplementedError(f"{type(self).__name__} does not read")

    def operation(self, name: str, options: Options) -> Operation:
        """The operation of a name, to be run again and again."""
        match name:
            case "save":
                return self._saves(uniform_keys(options["prefix"], options["keys"]))
            case "save-each":
                return self._saves(every_key(options["prefix"], options["keys"], options["first"]))
            case "read":
                return self._reads(uniform_keys(options["prefix"], options["keys"]))
            case "ycsb":
                return workload(options["workload"], self, self._records, self.values)
            case _:
                raise NotImplementedError(f"{type(self).__name__} has no operation {name!r}")

    def _saves(self, next_key: Callable[[], str]) -> Operation:
        save, values = self.save, self.values
        return lambda: save(next_key(), next(values))

    def _reads(self, next_key: Callable[[], str]) -> Operation:
        async def read() -> None:
            key = next_key()
            if await self.read(key) is None:
                raise MissingRecordError(f"{key} was stored, and is not there")

        return read

    async def measure(
        self,
        *,
        operation: str,
        options: Options,
        in_flight: int,
        seconds: float,
        warmup: float,
        limit: int | None = None,
    ) -> Options:
        """Run an operation as the closed loop does, and give the sample."""
        run = self.operation(operation, options)
        sample = await closed_loop(run, in_flight=in_flight, seconds=seconds, warmup=warmup, limit=limit)
        return sample.to_json()

    async def fill(self, *, prefix: str, keys: int, versions: int = 1) -> None:
        """Save so many keys so many times each."""
        for _ in range(versions):
            await self.store([key_name(prefix, number) for number in range(keys)])

    async def fill_ycsb(self) -> None:
        """Put YCSB's records in place."""
        await self.store([record_key(number) for number in range(RECORDS)])
        self._records = Records()

    async def store(self, keys: list[str]) -> None:
        """Save each of the keys once."""
        waiting = iter(keys)
        # Bounded by the keys; no caller waits longer for a call than the contender's own timeout.
        await closed_loop(
            lambda: self.save(next(waiting), next(self.values)),
            in_flight=min(self.fill_in_flight, len(keys)),
            seconds=600,
            limit=len(keys),
        )

    async def count(self, *, key: str, clients: int, seconds: float) -> Options:
        """Increment one counter from many clients, and prove that nothing was lost and nothing done twice."""
        raise NotImplementedError(f"{type(self).__name__} does not count")


class WrongCountError(Exception):
    """A counter is not what its increments make it."""


async def _serve(side: Side) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    # Only answers go to the standard output; whatever a library prints goes where errors go.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    waiting: asyncio.Future[bytes] = asyncio.ensure_future(reader.readline())
    while line := await waiting:
        waiting = asyncio.ensure_future(reader.readline())
        request = orjson.loads(line)
        task = asyncio.ensure_future(_answer(side, request["task"], request["options"]))
        # A line while the task runs can only be the end of the input: nobody is left to answer.
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            os._exit(1)
        answers.write(orjson.dumps(task.result()) + b"\n")
    await side.close()


async def _answer(side: Side, task: str, options: Options) -> Options:
    if task not in side.tasks:
        return {"error": f"no such task: {task}"}
    try:
        arguments = {"options": options} if task == "open" else options
        return {"result": await getattr(side, task)(**arguments)}
    except Exception as error:  # noqa: BLE001 - whatever it is, the benchmark has to hear of it
        # The benchmark says what failed; the traceback is in the side's log.
        sys.excepthook(type(error), error, error.__traceback__)
        return {"error": f"{type(error).__name__}: {error}"}


def run_side(side: type[Side]) -> None:
    """The main program of a side's process."""

    async def main() -> None:
        await _serve(side())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
