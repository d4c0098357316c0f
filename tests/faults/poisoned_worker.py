"""A worker that meets its death, or an error, whenever it is about to append an event of the key ``poison``."""

import asyncio
import os
import sys
from collections.abc import Sequence

from holdfast.events import Record
from holdfast.settings import load_settings
from holdfast.stores import Appended, MongoStore
from holdfast.worker import WorkerOptions, run_worker


class PoisonedStore(MongoStore):
    async def append(self, records: Sequence[Record]) -> Appended:
        if any(record.key == "poison" for record in records):
            if sys.argv[1] == "die":
                os._exit(9)
            raise RuntimeError("poison")
        return await super().append(records)


if __name__ == "__main__":
    settings = load_settings()
    assert settings.mongo_url is not None
    options = WorkerOptions(
        amqp_url=settings.amqp_url.get_secret_value(),
        partitions=settings.partitions,
        health_file=settings.health_file,
    )
    asyncio.run(run_worker(options, {"default": PoisonedStore(settings.mongo_url.get_secret_value())}))
