"""The closed-loop load generator: so many callers, each of which starts its next call when the last has ended."""

import asyncio
import math
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

#: One call. What it returns is not looked at; what it raises fails the measurement.
Operation = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Sample:
    """What one measurement gave. Times of calls are in milliseconds."""

    in_flight: int
    operations: int
    seconds: float
    rate: float
    mean: float
    p50: float
    p99: float
    longest: float

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of ``to_json``."""
        return cls(**data)


class NothingMeasuredError(Exception):
    """No call ended while the measurement ran."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest of the ordered values that so much of them does not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


async def closed_loop(
    operation: Operation, *, in_flight: int, seconds: float, warmup: float = 0.0, limit: int | None = None
) -> Sample:
    """Run ``operation`` in ``in_flight`` tasks for ``warmup + seconds``, or until ``limit`` calls have ended.

    Calls that end within ``seconds`` after the warm-up count, whenever they began.
    """
    clock = time.perf_counter
    begin = clock() + warmup
    end = begin + seconds
    times = array("d")
    left = limit if limit is not None else 1 << 62
    last = begin

    async def caller() -> None:
        nonlocal left, last
        while left > 0 and (started := clock()) < end:
            left -= 1
            await operation()
            ended = clock()
            if begin <= ended <= end:
                times.append(ended - started)
                last = ended

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(caller())
    except BaseExceptionGroup as group:
        # One is enough to say what went wrong; most of the others only follow from it.
        raise group.exceptions[0] from None
    if not times:
        raise NothingMeasuredError(f"not one call ended within {seconds:g} s with {in_flight} in flight")
    return summarise(times, in_flight=in_flight, seconds=last - begin if left <= 0 else seconds)


def summarise(times: "array[float]", *, in_flight: int, seconds: float) -> Sample:
    """A sample from the times of its calls in seconds."""
    ordered = sorted(times)
    return Sample(
        in_flight=in_flight,
        operations=len(ordered),
        seconds=seconds,
        rate=len(ordered) / seconds,
        mean=1000 * sum(ordered) / len(ordered),
        p50=1000 * percentile(ordered, 0.50),
        p99=1000 * percentile(ordered, 0.99),
        longest=1000 * ordered[-1],
    )
