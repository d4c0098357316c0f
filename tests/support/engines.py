"""Engines on scripted stores, with a clock that stands still until it is moved."""

from collections.abc import Awaitable, Callable
from typing import Any

from holdfast.stores import EventStore
from holdfast.worker import Engine

from .commands import NOW, Operation, one
from .scripted import ScriptedStore


class Clock:
    """Service time and time since boot, both moved by hand."""

    def __init__(self) -> None:
        self.millis = NOW
        self.seconds = 1000.0

    def now(self) -> int:
        """Service time."""
        return self.millis

    def uptime(self) -> float:
        """Time since boot."""
        return self.seconds

    def pass_(self, seconds: float) -> None:
        """Move both."""
        self.millis += round(seconds * 1000)
        self.seconds += seconds


def engine_on(store: EventStore, clock: Clock | None = None, **options: Any) -> Engine:
    """An engine whose service time stands still, unless there is a clock."""
    clock = clock or Clock()
    return Engine(store, service_time=clock.now, uptime=clock.uptime, **options)


def another_worker(store: ScriptedStore, *commands: Operation) -> Callable[[], Awaitable[None]]:
    """What another worker does with these commands, one after the other, when its turn comes."""

    async def work() -> None:
        engine = engine_on(store.inner)
        for command in commands:
            await one(engine, command)

    return work
