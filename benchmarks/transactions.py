"""Transactions per second, beside plain saves: ``python -m benchmarks.transactions [SECONDS] [IN_FLIGHT]``.

One client, one worker, MongoDB and RabbitMQ, all on this machine. Each kind is measured once, for so many seconds.
"""

import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import holdfast
from holdfast import Check, Client, Save
from holdfast.local import LocalStack

#: Keys that the uniform kinds are spread over.
KEYS = 10_000
SECONDS = 5.0
IN_FLIGHT = 64
#: Seconds before anything is counted.
WARM_UP = 1.0

Call = Callable[[int], Awaitable[object]]


def kinds(client: Client) -> dict[str, Call]:
    """What is measured, by its name: each is given the number of the call."""

    def pair(number: int) -> tuple[str, str]:
        return f"a/{number % KEYS}", f"b/{number * 7919 % KEYS}"

    def two_saves(number: int) -> Awaitable[object]:
        one, other = pair(number)
        return client.transact([Save(one, number), Save(other, number)])

    def save_and_check(number: int) -> Awaitable[object]:
        one, _ = pair(number)
        return client.transact([Save(one, number), Check(f"never/{number % KEYS}", exists=False)])

    def ten_saves(number: int) -> Awaitable[object]:
        return client.transact([Save(f"{part}/{number % KEYS}", number) for part in range(10)])

    def hot_key(number: int) -> Awaitable[object]:
        return client.transact([Save(f"a/{number % KEYS}", number), Save("hot", number)])

    return {
        "plain saves": lambda number: client.save(f"a/{number % KEYS}", number),
        "two saves": two_saves,
        "a save and a check": save_and_check,
        "ten saves": ten_saves,
        "two saves, one key always the same": hot_key,
    }


async def measure(call: Call, *, seconds: float, in_flight: int) -> tuple[float, float]:
    """Calls per second, and the median of the seconds that one took, with so many in flight."""
    numbers = itertools.count()
    took: list[float] = []
    begin = time.perf_counter() + WARM_UP
    end = begin + seconds

    async def caller() -> None:
        while (started := time.perf_counter()) < end:
            await call(next(numbers))
            done = time.perf_counter()
            if begin <= done <= end:
                took.append(done - started)

    await asyncio.gather(*(caller() for _ in range(in_flight)))
    return len(took) / seconds, sorted(took)[len(took) // 2]


async def run(amqp_url: str, seconds: float, in_flight: int) -> None:
    """Measure every kind, and say what came of it."""
    async with holdfast.connect(amqp_url, timeout=60) as client:
        for flying in dict.fromkeys((1, in_flight)):
            for name, call in kinds(client).items():
                rate, median = await measure(call, seconds=seconds, in_flight=flying)
                print(f"{flying:4d} in flight  {name:36s} {rate:9,.0f} /s   p50 {1000 * median:7.1f} ms")


def main() -> None:
    """Start the servers, measure, stop them."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS
    in_flight = int(sys.argv[2]) if len(sys.argv) > 2 else IN_FLIGHT
    with tempfile.TemporaryDirectory() as folder:
        stack = LocalStack(Path(folder), workers=1, cache_gb=0.5, database="transactions")
        try:
            asyncio.run(run(stack.start(timeout=180).amqp_url, seconds, in_flight))
        finally:
            stack.stop()


if __name__ == "__main__":
    main()
