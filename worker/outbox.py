"""The outbox: what leaves a worker once a batch is done. Always replies first, acknowledgements last."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from ..events.limits import REPLY_MESSAGE_BYTES
from .delivery import Acknowledger, Delivery

Wire = dict[str, Any]


class Broker(Protocol):
    """What the outbox needs of the broker."""

    async def reply(self, body: bytes, *, to: str, correlation_id: str | None) -> None:
        """Publish a reply, without a confirm: a client whose reply is lost asks again under the same id."""

    async def bury(self, delivery: Delivery, body: bytes, *, reason: str, detail: str) -> None:
        """Publish to the dead letter queue and wait for the confirm."""

    async def acknowledge(self, tag: int, *, multiple: bool) -> None:
        """Acknowledge deliveries of the consuming channel."""


@dataclass(slots=True)
class _Load:
    replies: list[tuple[Delivery, Wire]] = field(default_factory=list)
    dead: list[tuple[Delivery, bytes, str, str]] = field(default_factory=list)
    done: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.replies or self.dead or self.done)


class Outbox:
    """Collects answers, and sends what has come together in one turn of its loop.

    A crash between any two steps is harmless: what was not acknowledged is delivered again and gets the same answer.
    """

    def __init__(self, broker: Broker, *, stamp: Callable[[], Wire]) -> None:
        """Make an outbox.

        :param stamp: the fields that every reply carries: epoch and service time.
        """
        self._broker = broker
        self._stamp = stamp
        self._load = _Load()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._acknowledger = Acknowledger()
        self._open = 0

    def expect(self, delivery: Delivery, commands: int) -> None:
        """Note a delivery in hand, and how many answers it takes until it can be acknowledged."""
        delivery.remaining = commands
        self._open += 1
        self._idle.clear()
        if commands == 0:
            self._finish(delivery)

    def answer(self, delivery: Delivery, reply: Wire | None) -> None:
        """Count one command as done, and send its reply if there is somebody to send it to."""
        if reply is not None and delivery.reply_to is not None:
            self._load.replies.append((delivery, reply))
        delivery.remaining -= 1
        if delivery.remaining == 0:
            self._finish(delivery)
        self._wake.set()

    def bury(self, delivery: Delivery, body: bytes, *, reason: str, detail: str) -> None:
        """Put a body into the dead letter queue. Call it before the ``answer`` for the same command."""
        self._load.dead.append((delivery, body, reason, detail))
        self._wake.set()

    def bury_whole(self, delivery: Delivery, *, reason: str, detail: str) -> None:
        """Put a message into the dead letter queue as it came. Nothing else is done with it."""
        self.expect(delivery, 1)
        self.bury(delivery, delivery.body, reason=reason, detail=detail)
        self.answer(delivery, None)

    def _finish(self, delivery: Delivery) -> None:
        self._load.done.append(delivery.tag)
        self._wake.set()

    async def idle(self) -> None:
        """Wait until nothing is in hand: all is answered and acknowledged."""
        await self._idle.wait()

    async def run(self) -> None:
        """Send for ever. An error of the broker ends it."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            load, self._load = self._load, _Load()
            if load:
                await self._send(load)

    async def _send(self, load: _Load) -> None:
        await self._send_replies(load.replies)
        burials: list[Awaitable[None]] = [
            self._broker.bury(delivery, body, reason=reason, detail=detail)
            for delivery, body, reason, detail in load.dead
        ]
        if burials:
            await asyncio.gather(*burials)
        for tag, multiple in self._acknowledger.finish(load.done):
            await self._broker.acknowledge(tag, multiple=multiple)
        self._open -= len(load.done)
        if self._open == 0:
            self._idle.set()

    async def _send_replies(self, replies: list[tuple[Delivery, Wire]]) -> None:
        stamp = self._stamp()
        groups: dict[tuple[str, str | None], list[Wire]] = {}
        for delivery, reply in replies:
            address = delivery.reply_to or ""
            reply.update(stamp)
            if delivery.is_array:
                # Replies to several arrays share a message if their sender does not tell them apart.
                groups.setdefault((address, delivery.correlation_id), []).append(reply)
            else:
                body = orjson.dumps(reply)
                await self._broker.reply(body, to=address, correlation_id=delivery.correlation_id)
        for (address, correlation_id), group in groups.items():
            for body in pack(group):
                await self._broker.reply(body, to=address, correlation_id=correlation_id)


def pack(replies: list[Wire], limit: int = REPLY_MESSAGE_BYTES) -> list[bytes]:
    """Encode replies as arrays of about ``limit`` bytes at most; a single larger one goes alone."""
    body = orjson.dumps(replies)
    if len(body) <= limit or len(replies) == 1:
        return [body]
    middle = len(replies) // 2
    return pack(replies[:middle], limit) + pack(replies[middle:], limit)
