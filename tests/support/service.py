"""A real worker in a thread of the test process, for tests that block."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from holdfast.stores import EventStore, MongoStore
from holdfast.worker import Worker, WorkerOptions

PARTITIONS = 4


@dataclass(frozen=True, slots=True)
class Service:
    """Where a running service is."""

    amqp_url: str
    mongo_url: str
    partitions: int


@contextmanager
def running_worker(
    amqp_url: str, mongo_url: str, *, stores: Mapping[str, EventStore] | None = None, **options: Any
) -> Iterator[Service]:
    """A worker on the default store that is ready; drained and gone afterwards.

    :param stores: in place of the default store.
    :param options: as of WorkerOptions.
    """
    options = {"partitions": PARTITIONS, "head_cache_bytes": 2**20, "value_cache_bytes": 2**20} | options
    chosen = WorkerOptions(amqp_url=amqp_url, **options)
    up = threading.Event()
    fault: list[BaseException] = []
    loop = asyncio.new_event_loop()
    worker: list[Worker] = []

    async def run() -> None:
        worker.append(Worker(chosen, stores or {"default": MongoStore(mongo_url)}))
        running = asyncio.ensure_future(worker[0].run())
        ready = asyncio.ensure_future(worker[0].ready.wait())
        await asyncio.wait({running, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        up.set()
        await running

    def in_thread() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                runner.run(run())
        except BaseException as error:  # noqa: BLE001 - it belongs to the test, not to this thread
            fault.append(error)
        finally:
            up.set()

    thread = threading.Thread(target=in_thread, name="worker")
    thread.start()
    try:
        assert up.wait(30), "the worker was not ready after 30 s"
        if not fault:
            yield Service(amqp_url, mongo_url, chosen.partitions)
    finally:
        if worker and not loop.is_closed():
            loop.call_soon_threadsafe(worker[0].stop)
        thread.join(30)
    if fault:
        raise fault[0]
