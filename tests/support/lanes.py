"""A lane at work, and what comes out of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from holdfast.worker import Engine, Request
from holdfast.worker.lane import Lane

from .commands import brief, wire


class Running:
    """A lane at work, and what came out of it."""

    def __init__(self, engine: Engine, patience: float = 5.0) -> None:
        self.answered: list[list[Request]] = []
        self.handed_out: list[Request] = []
        self.failed: list[tuple[Request, str]] = []
        self._news = asyncio.Event()
        self.lane = Lane(engine, answered=self._on_answered, failed=self._on_failed, patience=patience)
        self.task = asyncio.create_task(self.lane.run())

    def _on_answered(self, made: list[Request]) -> None:
        # As they are now: a lane keeps nothing of an answer that has left.
        self.answered.append([replace(each) for each in made])
        self.handed_out += made
        self._news.set()

    def _on_failed(self, made: Request, fault: BaseException) -> None:
        assert made.answer is not None
        assert made not in self.handed_out, "told of after it was answered"
        self.failed.append((made, str(fault)))

    async def until(self, count: int) -> list[str]:
        """The answers in order, once there are so many."""
        async with asyncio.timeout(20):
            while sum(map(len, self.answered)) < count:
                self._news.clear()
                waiting = asyncio.create_task(self._news.wait())
                await asyncio.wait({waiting, self.task}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                if self.task.done():
                    await self.task
        return [brief(wire(each.answer)) for batch in self.answered for each in batch]


@asynccontextmanager
async def running(engine: Engine, patience: float = 5.0) -> AsyncIterator[Running]:
    lane = Running(engine, patience)
    try:
        yield lane
    finally:
        lane.task.cancel()
        await asyncio.gather(lane.task, return_exceptions=True)
