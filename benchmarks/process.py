"""The benchmark's end of a side: starts its process, gives it tasks, ends it."""

import asyncio
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from .load import Sample

#: Seconds that a task may take beyond the time that it was given.
_PATIENCE = 90.0


class SideFailedError(Exception):
    """A contender failed, and with it the run. The message says which, at what, and how."""


class SideProcess:
    """A side in a process of its own. Use it in ``async with``.

    :param title: the contender's name in messages.
    :param module: the module below ``benchmarks`` whose main program is the side.
    :param log: where the process writes what goes wrong.
    """

    def __init__(self, title: str, module: str, *arguments: str, log: Path, options: dict[str, Any]) -> None:
        self.title = title
        self._command = [sys.executable, "-m", f"{__package__}.{module}", *arguments]
        self._log = log
        self._options = options
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Start the process and have it connect."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=1 << 20,
                # A Ctrl-C is for the benchmark, which then ends its sides.
                start_new_session=True,
                cwd=Path(__file__).parents[1],
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        try:
            await self.ask("open", options=self._options)
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Have it disconnect, and end the process."""
        await self._end()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    async def measure(
        self,
        operation: str,
        *,
        in_flight: int,
        seconds: float,
        warmup: float = 0.0,
        limit: int | None = None,
        **options: Any,
    ) -> Sample:
        """Measure one operation."""
        request = {
            "operation": operation,
            "options": options,
            "in_flight": in_flight,
            "seconds": seconds,
            "warmup": warmup,
            "limit": limit,
        }
        return Sample.from_json(await self.ask("measure", patience=seconds + warmup + _PATIENCE, options=request))

    async def ask(self, task: str, *, patience: float = _PATIENCE, options: dict[str, Any] | None = None) -> Any:
        """Give it a task, wait for the answer.

        :raises SideFailedError: if the task fails, takes too long, or the process ends.
        """
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(orjson.dumps({"task": task, "options": options or {}}) + b"\n")
        try:
            async with asyncio.timeout(patience):
                await process.stdin.drain()
                line = await process.stdout.readline()
        except TimeoutError:
            raise SideFailedError(f"{self.title}: {task} has not ended after {patience:.0f} s") from None
        except OSError:
            line = b""
        if not line:
            raise SideFailedError(
                f"{self.title}: its process ended during {task}{await self._how()}. {self._last_words()}"
            )
        answer = orjson.loads(line)
        if "error" in answer:
            raise SideFailedError(f"{self.title}: {task} failed with {answer['error']}")
        return answer["result"]

    async def _how(self) -> str:
        assert self._process is not None
        try:
            async with asyncio.timeout(5):
                code = await self._process.wait()
        except TimeoutError:
            return ""
        return f" by signal {-code}" if code < 0 else f" with exit code {code}"

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").rstrip().splitlines()
        return f"It wrote: {lines[-1]}" if lines else "It wrote nothing."

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except BaseException:
            if process.returncode is None:
                process.kill()
                await process.wait()
            raise
