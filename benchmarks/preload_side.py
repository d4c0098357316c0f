"""A log that is full before the measurement: events written straight into the collection, in the store's own format."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import uuid_utils
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient, WriteConcern

from holdfast.events import Event
from holdfast.stores import MongoStore
from holdfast.stores.documents import encode_records

from .side import Options, Side, run_side
from .values import key_name

_BATCH = 5000
_WRITERS = 2
#: Building the index over five million events takes some seconds, more than a store waits for by default.
_INDEX_SECONDS = 300.0


class PreloadSide(Side):
    """Appends events in big unordered batches, and then has the store build its indexes as it does on an empty log."""

    tasks = Side.tasks | {"append_events", "finish"}

    async def open(self, options: Options) -> None:
        """Connect."""
        self._url, self._database = options["mongo_url"], options["database"]
        self._client: MongoClient[dict[str, Any]] = MongoClient(self._url)
        self._name = "default"

    async def close(self) -> None:
        """Disconnect."""
        self._client.close()

    async def append_events(self, *, prefix: str, first: int, keys: int, versions: int) -> None:
        """Append ``versions`` events of each of ``keys`` keys, the number of the first of them being ``first``."""
        batches = self._batches(prefix, first, keys, versions)
        lock = asyncio.Lock()

        async def writer() -> None:
            while True:
                async with lock:
                    batch = next(batches, None)
                if batch is None:
                    return
                await asyncio.to_thread(self._insert, batch)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(_WRITERS):
                tasks.create_task(writer())

    async def finish(self) -> Options:
        """Have a majority journal it all, and the store make its indexes and its view."""
        marks = self._client[self._database].get_collection("preload", write_concern=WriteConcern("majority", j=True))
        await asyncio.to_thread(marks.insert_one, {"done": True})
        store = MongoStore(self._url, name=self._name, database=self._database, timeout_seconds=_INDEX_SECONDS)
        await store.open()
        await store.close()
        collection = self._client[self._database][f"{self._name}.events"]
        return {"events": await asyncio.to_thread(collection.estimated_document_count)}

    def _batches(self, prefix: str, first: int, keys: int, versions: int) -> Iterator[list[Event]]:
        """Version by version, so that a key's events do not lie side by side, as in a log that grew by itself."""
        now = time.time_ns() // 1_000_000
        batch: list[Event] = []
        for version in range(1, versions + 1):
            for number in range(first, first + keys):
                batch.append(
                    Event(
                        id=str(uuid_utils.uuid7()),
                        key=key_name(prefix, number),
                        time=now,
                        digest=number.to_bytes(8, "big"),
                        type="saved",
                        version=version,
                        value=next(self.values),
                    )
                )
                if len(batch) == _BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _insert(self, events: list[Event]) -> None:
        reply = self._client[self._database].command(
            {
                "insert": f"{self._name}.events",
                "documents": [RawBSONDocument(document) for document in encode_records(events)],
                "ordered": False,
                "writeConcern": {"w": 1, "j": False},
            }
        )
        if reply["n"] != len(events):
            raise RuntimeError(f"MongoDB took {reply['n']} of {len(events)} events")


if __name__ == "__main__":
    run_side(PreloadSide)
