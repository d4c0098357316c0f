"""The outbox: what leaves a worker once a batch is done. Always replies first, acknowledgements last."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from ..events.limits import REPLY_MESSAGE_BYTES
from .delivery import Acknowledger, Delivery

Wire = dict[str, Any]

log = logging.getLogger(__name__)

#: Seconds that acknowledgements wait for their replies to be written. The broker stops reading replies while it has
#: an alarm, and the alarm may last until acknowledgements let it throw something away.
REPLY_PATIENCE = 1.0
#: Bytes of replies that may wait to be written in the meantime. Those beyond are dropped: who asked asks again.
MAX_LATE_BYTES = 32 * 1024 * 1024


class Broker(Protocol):
    """What the outbox needs of the broker."""

    async def reply(self, body: bytes, *, to: str, correlation_id: str | None) -> None:
        """Publish a reply, without a confirm: a client whose reply is lost asks again under the same id."""

    async def bury(self, delivery: Delivery, body: bytes, *, reason: str, detail: str) -> None:
        """Publish to the dead letter queue and wait for the confirm."""

    async def acknowledge(self, tag: int, *, multiple: bool) -> None:
        """Acknowledge deliveries of the consuming channel."""


#: A body, who gets it, and the correlation id.
_Message = tuple[bytes, str, str | None]


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
        #: Replies that are being written; more than one only when that took longer than the patience lasted.
        self._late: set[asyncio.Task[None]] = set()
        self._late_bytes = 0

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
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                load, self._load = self._load, _Load()
                if load:
                    await self._send(load)
        finally:
            for task in self._late:
                task.cancel()

    async def _send(self, load: _Load) -> None:
        if load.replies:
            await self._send_replies(self._encode(load.replies))
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

    async def _send_replies(self, messages: list[_Message]) -> None:
        """Write them, and wait for that, but not for as long as an alarm may last."""
        size = sum(len(body) for body, _, _ in messages)
        if self._late and self._late_bytes + size > MAX_LATE_BYTES:
            log.warning("the broker takes no replies: %d messages of them are dropped", len(messages))
            return
        patient = not self._late
        writing = asyncio.ensure_future(self._write(messages))
        self._late.add(writing)
        self._late_bytes += size

        def written(task: asyncio.Task[None]) -> None:
            self._late.discard(task)
            self._late_bytes -= size
            if not task.cancelled():
                task.exception()  # it means that the connection is lost, which is told by other ways too

        writing.add_done_callback(written)
        if patient:
            await asyncio.wait({writing}, timeout=REPLY_PATIENCE)
            if writing.done():
                writing.result()
            else:
                log.warning("the broker takes no replies, it may have an alarm: acknowledgements do not wait for them")

    async def _write(self, messages: list[_Message]) -> None:
        for body, address, correlation_id in messages:
            await self._broker.reply(body, to=address, correlation_id=correlation_id)

    def _encode(self, replies: list[tuple[Delivery, Wire]]) -> list[_Message]:
        stamp = self._stamp()
        messages: list[_Message] = []
        groups: dict[tuple[str, str | None], list[Wire]] = {}
        for delivery, reply in replies:
            address = delivery.reply_to or ""
            reply.update(stamp)
            if delivery.is_array:
                # Replies to several arrays share a message if their sender does not tell them apart.
                groups.setdefault((address, delivery.correlation_id), []).append(reply)
            else:
                messages.append((orjson.dumps(reply), address, delivery.correlation_id))
        for (address, correlation_id), group in groups.items():
            messages += ((body, address, correlation_id) for body in pack(group))
        return messages


def pack(replies: list[Wire], limit: int = REPLY_MESSAGE_BYTES) -> list[bytes]:
    """Encode replies as arrays of about ``limit`` bytes at most; a single larger one goes alone."""
    body = orjson.dumps(replies)
    if len(body) <= limit or len(replies) == 1:
        return [body]
    middle = len(replies) // 2
    return pack(replies[:middle], limit) + pack(replies[middle:], limit)
