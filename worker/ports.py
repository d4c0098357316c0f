"""What a session needs of a broker, so that it can have another one than RabbitMQ: one in memory, for tests."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from ..amqp import Valve
from .delivery import Delivery
from .outbox import Broker
from .publisher import PublishingBroker


class SessionBroker(PublishingBroker, Broker, Protocol):
    """The connections of one session, open already."""

    #: Tells whether there is room for more messages. Set before the first one is consumed.
    valve: Valve | None
    #: Whether others may be better owners of partitions. Set before, too.
    reluctant: bool
    #: The user whose connections these are.
    account: str | None

    @property
    def lost(self) -> asyncio.Future[None]:
        """Set with the reason when anything of the session breaks."""

    async def consume(self, partitions: Callable[[Delivery, int], None], ingress: Callable[[Delivery], None]) -> None:
        """Begin to take messages."""

    async def forward(self, delivery: Delivery, partition: int, body: bytes) -> None:
        """Send commands to the partition they belong to."""

    async def sweep(self, store: str, partition: int, body: bytes) -> None:
        """Send keys whose time has come to their partition, in this account's own name."""

    async def check(self) -> None:
        """Return if a message can be put into a queue."""
