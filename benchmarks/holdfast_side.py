"""Holdfast's client: strong reads, plain saves, everything on."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass

import holdfast

from .load import Operation
from .side import Options, Side, WrongCountError, run_side
from .values import Value, uniform_keys
from .ycsb import MissingRecordError

_HISTORY_PAGE = 1000


@dataclass
class Counter:
    """The state that clients count in."""

    n: int = 0


def increment(counter: Counter) -> None:
    """The change that every client makes."""
    counter.n += 1


class HoldfastSide(Side):
    """One client with its one connection."""

    tasks = Side.tasks | {"prove_increments"}

    async def open(self, options: Options) -> None:
        """Connect."""
        #: Increments that were acknowledged.
        self._increments = 0
        # Filling and counting are no load tests of the timeout.
        self._client = await holdfast.connect(options["amqp_url"], timeout=30.0).__aenter__()

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()

    def save(self, key: str, value: Value) -> Awaitable[object]:
        """A plain save, last write wins."""
        return self._client.save(key, value)

    def read(self, key: str) -> Awaitable[object | None]:
        """A strong read."""
        return self._client.read(key)

    def operation(self, name: str, options: Options) -> Operation:
        """What every contender can do, reads that may be behind, and increments."""
        if name == "increment":
            return self._increment(options["key"])
        if name != "read-eventual":
            return super().operation(name, options)
        next_key = uniform_keys(options["prefix"], options["keys"])

        async def read() -> None:
            key = next_key()
            if await self._client.read(key, consistency="eventual") is None:
                raise MissingRecordError(f"{key} was stored, and is not there")

        return read

    def _increment(self, key: str) -> Operation:
        async def increment() -> None:
            await self._client.increment(key)
            self._increments += 1

        return increment

    async def prove_increments(self, *, key: str) -> Options:
        """Each version of the counter is one increment, and none that was acknowledged is missing."""
        entry = await self._client.read(key)
        value, version = (0, 0) if entry is None else (entry.value, entry.version)
        if value != version or value < self._increments:
            raise WrongCountError(f"{self._increments} were acknowledged; {key} is {value} at version {version}")
        return {"value": value, "acknowledged": self._increments}

    async def count(self, *, key: str, clients: int, seconds: float) -> Options:
        """64 handles, one ``update`` after the other on each."""
        handles = [self._client.state(key, Counter, default=Counter) for _ in range(clients)]
        done = gave_up = 0
        begin = time.perf_counter()
        end = begin + seconds

        async def client(handle: holdfast.PersistentState[Counter]) -> None:
            nonlocal done, gave_up
            while time.perf_counter() < end:
                try:
                    await handle.update(increment)
                except holdfast.ConflictError:
                    gave_up += 1
                else:
                    done += 1

        await asyncio.gather(*map(client, handles))
        took = time.perf_counter() - begin
        await self._prove(key, done)
        return {"increments": done, "gave_up": gave_up, "seconds": took, "rate": done / took}

    async def _prove(self, key: str, done: int) -> None:
        """The counter's value is the number of increments, and the history holds each of them, once, in order."""
        counter = self._client.state(key, Counter, default=Counter)
        await counter.read()
        if (counter.value.n, counter.version) != (done, done):
            raise WrongCountError(
                f"{done} increments were acknowledged; the counter is {counter.value.n} at version {counter.version}"
            )
        version = 0
        while version < done:
            page = await self._client.history(key, after_version=version, limit=_HISTORY_PAGE)
            for event in page:
                version += 1
                if event.version != version or event.value != {"n": version}:
                    raise WrongCountError(f"version {version} of the counter is {event.value!r}")
            if not page:
                raise WrongCountError(f"the history ends at version {version} of {done}")


if __name__ == "__main__":
    run_side(HoldfastSide)
