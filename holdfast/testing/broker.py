"""A broker in memory: it takes what links publish, hands it to one session, and brings the replies back."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..amqp import Valve
from ..events.topology import HOP_HEADER, SWEEP_HEADER
from ..worker.delivery import Delivery
from ..worker.publication import Publication


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What could not be processed, and why."""

    body: bytes
    #: The error code, as in docs/protocol.md.
    reason: str
    detail: str


class MemoryBroker:
    """The broker of one session. It loses nothing and never waits, so that all of it happens in the session's loop."""

    def __init__(self, answer: Callable[[str, bytes], None], tell: Callable[[Publication], None]) -> None:
        """Make a broker, in the session's event loop.

        :param answer: takes the address and the body of each reply.
        :param tell: takes each message of the change feed.
        """
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.valve: Valve | None = None
        self.reluctant = False
        self.has_alarm = False
        self.account: str | None = "worker"
        self.dead_letters: list[DeadLetter] = []
        self._answer = answer
        self._tell = tell
        self._tags = itertools.count(1)
        self._deliver: Callable[[Delivery, int], None] | None = None

    def publish(self, partition: int, body: bytes, *, reply_to: str, author: str | None) -> None:
        """Take one message of commands."""
        delivery = Delivery(
            tag=next(self._tags),
            body=body,
            reply_to=reply_to,
            correlation_id=None,
            message_id=None,
            author=author,
            redelivered=False,
            suspect=False,
            hopped=False,
            headers={},
        )
        self._hand_over(delivery, partition)

    def _hand_over(self, delivery: Delivery, partition: int) -> None:
        if self._deliver is None:
            raise RuntimeError("nobody consumes yet")
        self._deliver(delivery, partition)

    async def consume(self, partitions: Callable[[Delivery, int], None], _: Callable[[Delivery], None]) -> None:
        """Begin to hand out messages. Those of our clients never come by the ingress."""
        self._deliver = partitions

    async def reply(self, body: bytes, *, to: str, correlation_id: str | None) -> None:  # noqa: ARG002
        """Bring a reply to its link; our links match by command id."""
        self._answer(to, body)

    async def tell(self, publication: Publication, patience: float) -> None:  # noqa: ARG002
        """Bring a message of the change feed to those who follow it. Of other exchanges there are none here."""
        self._tell(publication)

    async def ask(self, publication: Publication, patience: float) -> None:
        """As ``tell``."""
        await self.tell(publication, patience)

    async def keep(self, publications: Sequence[Publication]) -> None:
        """There are no streams here."""

    async def bury(
        self,
        delivery: Delivery,  # noqa: ARG002
        body: bytes,
        *,
        reason: str,
        detail: str,
        again: bool = False,  # noqa: ARG002
    ) -> None:
        """Keep a dead letter."""
        self.dead_letters.append(DeadLetter(body, reason, detail))

    async def forward(self, delivery: Delivery, partition: int, body: bytes) -> None:
        """Hand commands to the partition they belong to."""
        forwarded = Delivery(
            tag=next(self._tags),
            body=body,
            reply_to=delivery.reply_to,
            correlation_id=delivery.correlation_id,
            message_id=delivery.message_id,
            author=delivery.author,
            redelivered=False,
            suspect=False,
            hopped=True,
            headers={HOP_HEADER: 1},
        )
        self._hand_over(forwarded, partition)

    async def sweep(self, store: str, partition: int, body: bytes) -> None:
        """Hand keys whose time has come to their partition."""
        swept = Delivery(
            tag=next(self._tags),
            body=body,
            reply_to=None,
            correlation_id=None,
            message_id=None,
            author=self.account,
            redelivered=False,
            suspect=False,
            hopped=False,
            headers={SWEEP_HEADER: store},
        )
        self._hand_over(swept, partition)

    async def acknowledge(self, tag: int, *, multiple: bool) -> None:
        """Take note that it is done. Nothing is ever delivered again here."""

    async def check(self) -> None:
        """Return, since it is always there."""
