"""Motor without anything between it and MongoDB: one document per key, written where it stands."""

import asyncio
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any

import uuid_utils
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import ReturnDocument, WriteConcern
from pymongo.read_concern import ReadConcern

from .load import Operation
from .side import Options, Side, WrongCountError, run_side
from .values import Value, uniform_keys

_MAJORITY = WriteConcern("majority", j=True)


class MotorSide(Side):
    """One client with the driver's default pools."""

    async def open(self, options: Options) -> None:
        """Connect."""
        self._client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(options["mongo_url"])
        database = self._client[options["database"]]
        self._states = database.get_collection("states", write_concern=_MAJORITY, read_concern=ReadConcern("majority"))
        self._inserts = database.get_collection("inserts", write_concern=_MAJORITY)
        await self._client.admin.command("ping")

    async def close(self) -> None:
        """Disconnect."""
        self._client.close()

    def save(self, key: str, value: Value) -> Awaitable[object]:
        """Write the key's document in place, and count its version up; majority and journal."""
        return self._states.find_one_and_update(
            {"_id": key},
            {"$set": {"value": value}, "$inc": {"version": 1}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )

    def read(self, key: str) -> Awaitable[object | None]:
        """Read the key's document from the primary, read concern majority."""
        return self._states.find_one({"_id": key})

    def operation(self, name: str, options: Options) -> Operation:
        """Beside the common ones: ``insert``, one document of the shape of an event, without any index of its own."""
        if name != "insert":
            return super().operation(name, options)
        next_key = uniform_keys(options["prefix"], options["keys"])

        def insert() -> Awaitable[object]:
            return self._inserts.insert_one(
                {
                    "_id": {"c": str(uuid_utils.uuid7()), "n": 0},
                    "key": next_key(),
                    "version": 1,
                    "type": "saved",
                    "value": next(self.values),
                    "time": datetime.now(UTC),
                    "digest": b"12345678",
                }
            )

        return insert

    async def store(self, keys: list[str]) -> None:
        """Documents put in place many at a time, which is never measured."""
        await self._states.delete_many({"_id": {"$in": keys}})
        await self._states.insert_many(
            [{"_id": key, "value": next(self.values), "version": 1} for key in keys], ordered=False
        )

    async def count(self, *, key: str, clients: int, seconds: float) -> Options:
        """Optimistic retry: read, then write on condition that the version is still the same, until it is."""
        await self._states.insert_one({"_id": key, "n": 0, "version": 0})
        done = 0
        begin = time.perf_counter()
        end = begin + seconds

        async def client() -> None:
            nonlocal done
            while time.perf_counter() < end:
                seen = await self._states.find_one({"_id": key})
                if seen is None:
                    raise WrongCountError("the counter is gone")
                won = await self._states.find_one_and_update(
                    {"_id": key, "version": seen["version"]},
                    {"$set": {"n": seen["n"] + 1}, "$inc": {"version": 1}},
                )
                done += won is not None

        await asyncio.gather(*(client() for _ in range(clients)))
        took = time.perf_counter() - begin
        final = await self._states.find_one({"_id": key}) or {}
        if (final.get("n"), final.get("version")) != (done, done):
            raise WrongCountError(f"{done} increments were acknowledged; the counter is {final.get('n')}")
        return {"increments": done, "gave_up": 0, "seconds": took, "rate": done / took}


if __name__ == "__main__":
    run_side(MotorSide)
