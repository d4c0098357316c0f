"""A watch on everything, in a process of its own, which proves that it was told all."""

import asyncio

import holdfast

from .side import Options, Side, WrongCountError, run_side
from .values import key_name


class FeedSide(Side):
    """Takes every change and counts it."""

    tasks = frozenset({"open", "prove"})

    async def open(self, options: Options) -> None:
        """Connect and begin to watch."""
        self._client = await holdfast.connect(options["amqp_url"], timeout=30.0).__aenter__()
        self._watch = await self._client.watch().__aenter__()
        self._told: dict[str, int] = {}
        self._changes = 0
        self._caught_up = asyncio.Event()
        self._taking = asyncio.create_task(self._take())
        await self._caught_up.wait()

    async def close(self) -> None:
        """Disconnect."""
        self._taking.cancel()
        await asyncio.gather(self._taking, return_exceptions=True)
        await self._client.close()

    async def _take(self) -> None:
        told = self._told
        async for item in self._watch:
            if isinstance(item, holdfast.Change):
                if not item.initial and item.version != told.get(item.key, 0) + 1:
                    raise WrongCountError(f"{item.key}: version {item.version} after {told.get(item.key, 0)}")
                told[item.key] = item.version
                self._changes += 1
            else:
                self._caught_up.set()

    async def prove(self, *, prefix: str, keys: int) -> Options:
        """Wait until what is there has been told, each version of each key once."""
        names = [key_name(prefix, number) for number in range(keys)]
        entries = await self._client.read_many(names)
        newest = {key: entry.version for key, entry in entries.items() if entry is not None}
        async with asyncio.timeout(60):
            while any(self._told.get(key, 0) < version for key, version in newest.items()):
                if self._taking.done():
                    self._taking.result()
                await asyncio.sleep(0.05)
        return {"changes": self._changes, "versions": sum(newest.values())}


if __name__ == "__main__":
    run_side(FeedSide)
