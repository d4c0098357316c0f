"""The outbox: what leaves a worker once a batch is done. Always replies first, acknowledgements last.

In between, events go to the change feed, and messages that writes carried to where they are meant for. The next batch
does not wait for that, but acknowledgements do: what is lost with a worker is delivered again, and told again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import orjson

from ..events.limits import REPLY_MESSAGE_BYTES
from .budget import Budget
from .delivery import Acknowledger, Delivery
from .publication import Publication
from .publisher import Publisher

Wire = dict[str, Any]

log = logging.getLogger(__name__)

#: Seconds after which it is looked whether replies are not written because the broker has an alarm. It stops reading
#: them then, and the alarm may last until acknowledgements let it throw something away; so these do not wait.
REPLY_PATIENCE = 1.0
#: Bytes of replies that may wait to be written in the meantime. Those beyond are dropped: who asked asks again.
MAX_LATE_BYTES = 32 * 1024 * 1024
#: Bytes of answers that may wait for their turn to be sent. Whoever can wait gives no more of them meanwhile.
MAX_UNSENT_BYTES = 16 * 1024 * 1024
#: Bytes of messages that may be in hand. Beyond it no more are read until some are done: the broker's prefetch counts
#: messages, and a few hundred of the largest would be more than a worker has.
MAX_IN_HAND_BYTES = 16 * 1024 * 1024
#: Bytes of those that may be parsed: the batch at work and the next one. As objects they can take thirty times as much.
MAX_PARSED_BYTES = 8 * 1024 * 1024
#: What an answer takes beside the values in it, about.
ANSWER_BYTES = 1024
#: Bytes of the change feed that may wait for the end of an alarm. Those beyond are left out, and a notice says so.
MAX_LATE_FEED_BYTES = 32 * 1024 * 1024
#: Dead letters that wait for their confirms at one time.
BURIALS = 64


class Broker(Protocol):
    """What the outbox needs of the broker."""

    async def reply(self, body: bytes, *, to: str, correlation_id: str | None) -> None:
        """Publish a reply, without a confirm: a client whose reply is lost asks again under the same id."""

    async def bury(self, delivery: Delivery, body: bytes, *, reason: str, detail: str, again: bool = False) -> None:
        """Publish to the dead letter queue and wait for the confirm; with ``again`` also what was replayed from it."""

    async def acknowledge(self, tag: int, *, multiple: bool) -> None:
        """Acknowledge deliveries of the consuming channel."""

    @property
    def has_alarm(self) -> bool:
        """Whether the broker has said that it takes no messages until further notice."""


#: A body, who gets it, and the correlation id.
_Message = tuple[bytes, str, str | None]


#: To which delivery, the reply, and its bytes, about. Each command has one, and a plain tuple costs next to nothing.
_Reply = tuple[Delivery, Wire, int]


@dataclass(slots=True)
class _Load:
    replies: list[_Reply] = field(default_factory=list)
    dead: list[tuple[Delivery, bytes, str, str]] = field(default_factory=list)
    publications: list[Iterable[Publication]] = field(default_factory=list)
    #: How many publications have to be done, of all since the beginning, before anything is acknowledged …
    published: int = 0
    #: … and of those how many have to be in any case, also if the broker has an alarm.
    promised: int = 0
    done: list[int] = field(default_factory=list)
    #: Bytes of messages that are done.
    held: int = 0

    def __bool__(self) -> bool:
        return bool(self.replies or self.dead or self.publications or self.done)


class Outbox:
    """Collects answers, and sends what has come together in one turn of its loop.

    A crash between any two steps is harmless: what was not acknowledged is delivered again and gets the same answer.
    """

    def __init__(self, broker: Broker, *, stamp: Callable[[], Wire], publisher: Publisher | None = None) -> None:
        """Make an outbox.

        :param stamp: the fields that every reply carries: epoch and service time.
        :param publisher: takes what is told to others. It has to be run, too.
        """
        self._broker = broker
        self._stamp = stamp
        self._publisher = publisher or Publisher()
        #: What is said but not acknowledged, because something of it, or before it, is not published yet.
        self._unpublished: deque[_Load] = deque()
        self._unpublished_wake = asyncio.Event()
        #: How many publications are acknowledged, of all since the beginning. Whatever a session before has left is.
        self._settled = self._publisher.given
        #: How many publications have to be done until the last one is that is never left out.
        self._promised = 0
        self._load = _Load()
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._acknowledger = Acknowledger()
        self._open = 0
        #: Replies that are being written; more than one only when that took longer than the patience lasted.
        self._late: set[asyncio.Task[None]] = set()
        self._late_bytes = 0
        #: Answers and dead letters that wait to be sent, but for late answers.
        self.unsent = Budget(MAX_UNSENT_BYTES)
        #: Messages that are not acknowledged yet.
        self.in_hand = Budget(MAX_IN_HAND_BYTES)
        #: Those of them that have been expected.
        self.parsed = Budget(MAX_PARSED_BYTES)

    def hold(self, delivery: Delivery) -> None:
        """Count a delivery's bytes as in hand, once, until it is acknowledged."""
        if delivery.held == 0:
            delivery.held = len(delivery.body)
            self.in_hand.take(delivery.held)

    def expect(self, delivery: Delivery, commands: int) -> None:
        """Note a delivery in hand, and how many answers it takes until it can be acknowledged."""
        self.hold(delivery)
        self.parsed.take(delivery.held)
        delivery.remaining = commands
        self._open += 1
        self._idle.clear()
        if commands == 0:
            self._finish(delivery)

    def answer(self, delivery: Delivery, reply: Wire | None, *, size: int = 0) -> None:
        """Count one command as done, and send its reply if there is somebody to send it to.

        :param size: bytes of the values in the reply. Who gives large ones waits for room in ``unsent`` before.
        """
        if reply is not None and delivery.reply_to is not None:
            size += ANSWER_BYTES
            self._load.replies.append((delivery, reply, size))
            self.unsent.take(size)
        delivery.remaining -= 1
        if delivery.remaining == 0:
            self._finish(delivery)
        self._wake.set()

    def publish(self, publications: Iterable[Publication]) -> None:
        """Tell others, in order, when the replies are out: they are made then. Call it before the ``answer`` for the
        commands that are behind them.
        """
        self._load.publications.append(publications)

    async def until_promised(self) -> None:
        """Wait until all messages that writes carried, of what was given to ``publish`` before, are confirmed."""
        promised: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.publish(self._tell_promised(promised))
        self._wake.set()
        await self._publisher.wait(await promised)

    def _tell_promised(self, promised: "asyncio.Future[int]") -> Iterator[Publication]:
        # When those before it are made.
        if not promised.done():
            promised.set_result(self._promised)
        yield from ()

    def bury(self, delivery: Delivery, body: bytes, *, reason: str, detail: str) -> None:
        """Put a body into the dead letter queue. Call it before the ``answer`` for the same command."""
        self._load.dead.append((delivery, body, reason, detail))
        self.unsent.take(len(body))
        self._wake.set()

    def bury_whole(self, delivery: Delivery, *, reason: str, detail: str) -> None:
        """Put a message into the dead letter queue as it came. Nothing else is done with it."""
        self.expect(delivery, 1)
        self.bury(delivery, delivery.body, reason=reason, detail=detail)
        self.answer(delivery, None)

    def abandon(self, delivery: Delivery, reply: Wire, *, reason: str, detail: str) -> None:
        """Put a message that is not done yet into the dead letter queue, as it came, and be done with it.

        What may still be answered for it is sent, and counts for nothing.
        """
        if delivery.remaining == 0:
            self.expect(delivery, 1)
        self.bury(delivery, delivery.body, reason=reason, detail=detail)
        # What is answered later leads away from zero.
        delivery.remaining = 1
        self.answer(delivery, reply)

    def _finish(self, delivery: Delivery) -> None:
        self._load.done.append(delivery.tag)
        self._load.held += delivery.held
        self._wake.set()

    async def idle(self) -> None:
        """Wait until nothing is in hand: all is answered, published and acknowledged."""
        await self._idle.wait()
        await self._publisher.wait(self._publisher.given)

    def leave(self) -> None:
        """Keep for the next session what is acknowledged and not published, and drop what is delivered again."""
        self._publisher.keep(self._settled)

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
            size = sum([size for _, _, size in load.replies])
            await self._send_replies(load.replies, size)
            self.unsent.give(size)
        if load.publications:
            self._publish(load)
        while load.dead:
            burials, load.dead = load.dead[:BURIALS], load.dead[BURIALS:]
            await asyncio.gather(
                *(
                    self._broker.bury(delivery, body, reason=reason, detail=detail)
                    for delivery, body, reason, detail in burials
                )
            )
            self.unsent.give(sum(len(body) for _, body, _, _ in burials))
        if self._unpublished or self._publisher.done < load.published:
            self._unpublished.append(load)
            self._unpublished_wake.set()
        else:
            await self._acknowledge(load)

    def _publish(self, load: _Load) -> None:
        publisher = self._publisher
        for publication in chain.from_iterable(load.publications):
            if publication.instead is not None and publisher.size >= MAX_LATE_FEED_BYTES and self._broker.has_alarm:
                publisher.owe(publication.instead)
                continue
            publisher.put(publication)
            load.published = publisher.given
            if publication.letter is not None:
                load.promised = self._promised = publisher.given

    async def run_published(self) -> None:
        """Acknowledge for ever what has been published, in the order in which it was said."""
        while True:
            while self._unpublished:
                load = self._unpublished[0]
                await self._until_published(load)
                await self._acknowledge(load)
                # Not before: what comes meanwhile must not overtake it.
                self._unpublished.popleft()
            self._unpublished_wake.clear()
            await self._unpublished_wake.wait()

    async def _until_published(self, load: _Load) -> None:
        """Wait as long as it takes, but, for the change feed alone, not for the end of an alarm.

        It may last until acknowledgements let the broker throw something away.
        """
        publisher = self._publisher
        waited = False
        while publisher.done < load.published:
            late = waited or publisher.done < self._settled
            if late and publisher.done >= load.promised and self._broker.has_alarm:
                if waited:
                    log.warning("the broker has an alarm and takes no events: acknowledgements do not wait for them")
                break
            waited = not await publisher.wait(load.published, REPLY_PATIENCE)
        self._settled = max(self._settled, load.published)

    async def _acknowledge(self, load: _Load) -> None:
        for tag, multiple in self._acknowledger.finish(load.done):
            await self._broker.acknowledge(tag, multiple=multiple)
        self.in_hand.give(load.held)
        self.parsed.give(load.held)
        self._open -= len(load.done)
        if self._open == 0:
            self._idle.set()

    async def _send_replies(self, replies: list[_Reply], size: int) -> None:
        """Write them, and wait for that as long as it takes, but not for the end of an alarm."""
        if self._late and self._broker.has_alarm and self._late_bytes + size > MAX_LATE_BYTES:
            log.warning("the broker has an alarm and takes no replies: %d of them are dropped", len(replies))
            return
        writing = asyncio.ensure_future(self._write(replies))
        self._late.add(writing)
        self._late_bytes += size

        def written(task: asyncio.Task[None]) -> None:
            self._late.discard(task)
            self._late_bytes -= size
            if not task.cancelled() and (fault := task.exception()) is not None:
                # It means that the connection is lost, which is told by other ways too.
                log.info("replies could not be written: %r", fault)

        writing.add_done_callback(written)
        known = len(self._late) > 1
        while not (known and self._broker.has_alarm):
            await asyncio.wait({writing}, timeout=REPLY_PATIENCE)
            if writing.done():
                writing.result()
                return
            if self._broker.has_alarm:
                log.warning("the broker has an alarm and takes no replies: acknowledgements do not wait for them")
                known = True

    async def _write(self, replies: list[_Reply]) -> None:
        # Made one at a time, so that not all of them are in memory twice.
        for body, address, correlation_id in self._encode(replies):
            await self._broker.reply(body, to=address, correlation_id=correlation_id)

    def _encode(self, replies: list[_Reply]) -> Iterator[_Message]:
        stamp = self._stamp()
        groups: dict[tuple[str, str | None], list[_Reply]] = {}
        group: list[_Reply] = []
        last: Delivery | None = None
        for each in replies:
            delivery, reply, _ = each
            address = delivery.reply_to or ""
            reply.update(stamp)
            if not delivery.is_array:
                yield orjson.dumps(reply), address, delivery.correlation_id
                continue
            if delivery is not last:
                # Replies to several arrays share a message if their sender does not tell them apart.
                last, group = delivery, groups.setdefault((address, delivery.correlation_id), [])
            group.append(each)
        for (address, correlation_id), group in groups.items():
            for part in parts(group):
                for body in pack(part):
                    yield body, address, correlation_id


def parts(replies: list[_Reply], limit: int = REPLY_MESSAGE_BYTES) -> Iterator[list[Wire]]:
    """Split replies into parts of about ``limit`` bytes, as far as their sizes are known beforehand."""
    part: list[Wire] = []
    size = 0
    for _, reply, bytes_of_it in replies:
        if part and size + bytes_of_it > limit:
            yield part
            part, size = [], 0
        part.append(reply)
        size += bytes_of_it
    if part:
        yield part


def pack(replies: list[Wire], limit: int = REPLY_MESSAGE_BYTES) -> list[bytes]:
    """Encode replies as arrays of ``limit`` bytes at most; a single larger one goes alone."""
    body = orjson.dumps(replies)
    if len(body) <= limit or len(replies) == 1:
        return [body]
    middle = len(replies) // 2
    return pack(replies[:middle], limit) + pack(replies[middle:], limit)
