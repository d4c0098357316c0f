"""The sweep: keys whose time has come, and that nobody reads or writes any more, get their ``expired`` events too.

Every worker looks, now and then, along the index on what expires, and sends the keys that it finds to the queues of
their partitions. Who owns a partition takes them like reads that nobody asked for: in their order among the commands,
and with the same right to put an event into the log. That two workers find the same key costs one more look at it.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

import orjson
import uuid_utils
from aio_pika.exceptions import DeliveryError

from ..events import InvalidError, ReadCommand, StoreError, check_key, partition_of
from ..events.codec import parse_json
from ..stores import ExpiringStore, Expiry
from .batch import Request
from .delivery import Delivery

log = logging.getLogger(__name__)

#: Events that are looked at in one go …
PAGE: Final = 500
#: … and seconds between two of these, so that many keys that expire at once leave room for what clients want.
PAUSE: Final = 0.1
#: Milliseconds that a key is left to whoever reads or writes it. The clocks of two workers may differ by as much.
LAG: Final = 1000
#: Milliseconds after which what has expired is looked at once more: an event can get into the log after the time at
#: which it expires, since a worker that was held up may still append what it decided before. What was sent to a queue
#: and came to nothing gets its second chance too.
SETTLED: Final = 5 * 60 * 1000
#: Milliseconds between two of these looks.
SETTLING_INTERVAL: Final = 60 * 1000

#: Sends keys of a store to a partition: their names as a body.
Send = Callable[[str, int, bytes], Awaitable[None]]


class Sweeper:
    """Looks through one store for what has expired. It has to be run."""

    def __init__(
        self,
        name: str,
        store: ExpiringStore,
        *,
        partitions: int,
        send: Send,
        service_time: Callable[[], int],
        interval: float,
    ) -> None:
        """Make one.

        :param interval: seconds between two looks, about.
        """
        self._name = name
        self._store = store
        self._partitions = partitions
        self._send = send
        self._service_time = service_time
        self._interval = interval
        #: What was looked at: up to here, and up to here for good. None before the first look.
        self._seen: Expiry | None = None
        self._settled = Expiry(0)

    async def run(self) -> None:
        """Look until cancelled.

        :raises BrokerLostError: when the connection is lost.
        """
        while True:
            # Jittered, so that workers do not all find the same.
            await asyncio.sleep(self._interval * random.uniform(0.5, 1.5))  # noqa: S311
            try:
                await self.look()
            except StoreError as fault:
                log.debug("not looked for what has expired in %s: %s", self._name, fault)

    async def look(self) -> None:
        """Send off what has expired since the last look.

        :raises StoreUnavailable: if the store cannot be reached. The next look begins where this one was.
        """
        now = self._service_time() - LAG
        if self._seen is None:
            self._seen = self._settled = Expiry(await self._store.swept())
        self._seen = await self._go_through(self._seen, now)
        if now - SETTLED - self._settled.time >= SETTLING_INTERVAL:
            self._settled = await self._go_through(self._settled, now - SETTLED)
            await self._store.note_swept(self._settled.time)

    async def _go_through(self, place: Expiry, until: int) -> Expiry:
        """Look at all from a place on that expires until then. Gives back where to go on the next time."""
        while True:
            page = await self._store.expired(until=until, after=place, limit=PAGE)
            await self._hand_over(page.keys)
            if page.next is None:
                # Before all that expire at that time: there may be more of them later.
                return max(place, Expiry(until))
            place = page.next
            await asyncio.sleep(PAUSE)

    async def _hand_over(self, keys: list[str]) -> None:
        parts: dict[int, list[str]] = {}
        for key in keys:
            parts.setdefault(partition_of(self._name, key, self._partitions), []).append(key)
        for partition, part in parts.items():
            try:
                await self._send(self._name, partition, orjson.dumps(part))
            except DeliveryError:
                log.debug("partition %d takes nothing at the moment: %d keys expire later", partition, len(part))


def requests_of(delivery: Delivery, store: str) -> list[Request]:
    """What a sweep's message asks for.

    :raises InvalidError: if it is none.
    """
    keys = parse_json(delivery.body)
    if not isinstance(keys, list) or len(keys) > PAGE or not all(isinstance(key, str) for key in keys):
        raise InvalidError("not a list of keys", code="malformed")
    return [
        Request(
            ReadCommand(op="read", id=str(uuid_utils.uuid7()), store=store, key=check_key(key)),
            redelivered=delivery.redelivered,
            suspect=delivery.suspect,
            apart=delivery.apart,
            sweep=True,
            origin=delivery,
        )
        for key in keys
    ]
