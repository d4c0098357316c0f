"""What the rows share: the plan, the servers, the contenders, the display."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from .display import Display
from .load import Sample
from .plan import Plan
from .process import SideProcess
from .rounds import interleave
from .servers import Servers

HOLDFAST, MOTOR, NATS, ECHO = "Holdfast", "Motor", "NATS KV", "aio-pika echo"

_MODULES = {HOLDFAST: "holdfast_side", MOTOR: "motor_side", NATS: "nats_side", ECHO: "echo_side"}

Measurement = Callable[[], Awaitable[Sample]]


class Bench:
    """One run. Contenders' processes start when they are first needed, and end with it. Use it in ``async with``."""

    def __init__(self, plan: Plan, servers: Servers, display: Display) -> None:
        self.plan = plan
        self.servers = servers
        self.display = display
        self._sides: dict[str, SideProcess] = {}
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._closing.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._closing.__aexit__(kind, error, trace)

    async def side(self, name: str) -> SideProcess:
        """The process of a contender."""
        if name not in self._sides:
            if name == ECHO:
                await self.open(self.servers.side("the echo service", "echo_side", "service"))
            self._sides[name] = await self.open(self.servers.side(name, _MODULES[name]))
        return self._sides[name]

    async def open(self, side: SideProcess) -> SideProcess:
        """Start a side that ends with the run."""
        return await self._closing.enter_async_context(side)

    async def fill(self, name: str, prefix: str, keys: int, versions: int = 1) -> None:
        """Put keys in place, which also warms the contender up."""
        side = await self.side(name)
        self.display.now(f"{name}: storing {keys:,} keys")
        await side.ask("fill", options={"prefix": prefix, "keys": keys, "versions": versions}, patience=300)

    def measurement(
        self, side: SideProcess, operation: str, *, in_flight: int, seconds: float | None = None, **options: Any
    ) -> Measurement:
        """A measurement, to be taken again and again."""
        length = self.plan.seconds if seconds is None else seconds

        async def measure() -> Sample:
            sample = await side.measure(
                operation, in_flight=in_flight, seconds=length, warmup=self.plan.warmup, **options
            )
            self.display.advance(length + self.plan.warmup)
            return sample

        return measure

    async def interleave(self, contenders: dict[str, Measurement], rounds: int) -> dict[str, list[Sample]]:
        """Take measurements in turns."""
        # What the last one left behind (confirms, acknowledgements, a journal to sync) is not the next one's.
        await asyncio.sleep(0.2)
        return await interleave(contenders, rounds, on_turn=self.display.now)
