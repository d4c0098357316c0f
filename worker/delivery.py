"""A delivery: one message from a queue, and how much of it is still to be done before it is acknowledged."""

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from aiormq.abc import DeliveredMessage

from ..events import InvalidError
from ..events.codec import Decoded
from ..events.topology import HOP_HEADER, RESERVED_PREFIX
from .properties import DELIVERY_COUNT_HEADER, UNREADABLE_HEADER

#: From this delivery on, a message is handled apart from others …
APART_FROM = 3
#: … and from this one on, the commands in it one at a time. That is slow, and most messages come back for reasons
#: that are none of theirs: each loss of a connection counts for everything that was in hand.
SUSPECT_FROM = 5
#: From this delivery on, a message that comes up in the first session of a worker's life may be what ended the lives
#: before. All that was in hand with it has come back as often, and would be buried with it by the broker.
POISON_FROM = 5
#: Far more deliveries than there ever are, unless a publisher has made them up.
MAX_COUNT = 1_000_000

#: Addresses at which there is nobody. For the second one the broker puts a real address when a message is published.
#: Messages that come into it by other ways than AMQP 0-9-1 may still have it, and for whoever forwards such a message
#: the broker closes the channel.
_NOBODY = (None, "", "amq.rabbitmq.reply-to")


@dataclass(slots=True, eq=False)
class Delivery:
    """One message in hand."""

    tag: int
    body: bytes
    reply_to: str | None
    correlation_id: str | None
    message_id: str | None
    author: str | None
    #: The broker has handed it out before.
    redelivered: bool
    #: It came back so often that something in it may be what kills workers.
    suspect: bool
    #: A worker has forwarded it already.
    hopped: bool
    headers: dict[str, Any]
    #: It came back often enough to keep others out of its way.
    apart: bool = False
    #: So often that it, or one that came back with it, may be what killed workers.
    poison: bool = False
    #: The queue that it came out of.
    queue: str = ""
    #: How often it has been delivered, this time included.
    count: int = 1
    is_array: bool = False
    #: Its body, if that has been read already, or why it cannot be read.
    decoded: Decoded | InvalidError | None = None
    #: Commands without an answer.
    remaining: int = 0
    #: Bytes that it is counted with while it is in hand.
    held: int = 0

    @classmethod
    def of(cls, message: DeliveredMessage, queue: str = "") -> "Delivery":
        """Read the properties that matter off an incoming message, and only those: the others may be anything."""
        properties = message.header.properties
        headers = properties.headers or {}
        # The broker counts the deliveries that failed before this one. On the first, the header is a publisher's own,
        # who might have its message taken for what kills workers.
        failed = headers.get(DELIVERY_COUNT_HEADER, 0) if message.redelivered else 0
        if not isinstance(failed, int):
            failed = 0
        return cls(
            tag=message.delivery_tag or 0,
            body=message.body,
            reply_to=None if properties.reply_to in _NOBODY else properties.reply_to,
            correlation_id=properties.correlation_id,
            message_id=properties.message_id,
            author=properties.user_id or None,
            redelivered=bool(message.redelivered),
            suspect=failed >= SUSPECT_FROM - 1,
            apart=failed >= APART_FROM - 1,
            poison=failed >= POISON_FROM - 1,
            hopped=HOP_HEADER in headers,
            headers=dict(headers),
            queue=queue,
            count=max(0, min(failed, MAX_COUNT)) + 1,
        )

    @property
    def reply_address_is_reserved(self) -> bool:
        """Whether the sender names one of Holdfast's own queues for the reply, which nobody may."""
        return self.reply_to is not None and self.reply_to.startswith(RESERVED_PREFIX)

    @property
    def fingerprint(self) -> str:
        """What it is known by from one delivery to the next. Messages that are the same in everything share it."""
        about = repr((self.queue, self.author, self.message_id, self.correlation_id, self.reply_to)).encode()
        return sha256(sha256(about).digest() + self.body).hexdigest()

    @property
    def unreadable(self) -> str | None:
        """Why the properties could not be read, if they could not."""
        fault = self.headers.get(UNREADABLE_HEADER)
        return None if fault is None else str(fault)


class Acknowledger:
    """Which delivery tags of one channel can be acknowledged, in as few frames as possible.

    Tags count up from 1. A run of finished ones that begins at the oldest open one takes a single
    acknowledgement of all up to its end; others are acknowledged one by one, so that nothing slow holds them up.
    """

    def __init__(self) -> None:
        self._oldest = 1
        #: Tags above the oldest open one that are acknowledged already.
        self._ahead: set[int] = set()

    def finish(self, tags: list[int]) -> list[tuple[int, bool]]:
        """Note that these are finished. Give back (tag, multiple) pairs to acknowledge, in order.

        The broker closes the channel if a tag is acknowledged twice, also as the end of a multiple.
        """
        fresh = set(tags)
        ahead = self._ahead
        last, count = 0, 0
        while self._oldest in fresh or self._oldest in ahead:
            if self._oldest in fresh:
                last, count = self._oldest, count + 1
            ahead.discard(self._oldest)
            self._oldest += 1
        single = sorted(tag for tag in fresh if tag >= self._oldest)
        ahead.update(single)
        frames = [(last, count > 1)] if count else []
        return frames + [(tag, False) for tag in single]
