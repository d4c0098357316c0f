"""Burials: what a dead letter tells about the message that it was."""

import secrets
from typing import Any

from ..events.topology import (
    AUTHOR_HEADER,
    DELIVERIES_HEADER,
    DETAIL_HEADER,
    LETTER_HEADER,
    MESSAGE_ID_HEADER,
    QUEUE_HEADER,
    REASON_HEADER,
    REPLAY_HEADER,
    REPLY_TO_HEADER,
    TIME_HEADER,
)
from .delivery import Delivery

#: Characters of a dead letter's detail, which may quote what was sent: headers have to fit into one frame.
MAX_DETAIL = 1000


def replayed(delivery: Delivery) -> dict[str, Any]:
    """The header that tells that a message is replayed from a dead letter, which then still stands in its queue.

    Empty if it is not: whoever replays one waits for the answer, so that it has an address for that.
    """
    letter = delivery.headers.get(REPLAY_HEADER)
    return {REPLAY_HEADER: letter} if isinstance(letter, str) and delivery.reply_to is not None else {}


def burial_headers(delivery: Delivery, *, reason: str, detail: str, now: int) -> dict[str, Any]:
    """The headers of a dead letter. Each has an id that nobody can guess.

    :param now: milliseconds since 1970.
    """
    noted = {
        LETTER_HEADER: secrets.token_hex(8),
        REASON_HEADER: reason,
        DETAIL_HEADER: detail[:MAX_DETAIL],
        TIME_HEADER: now,
        QUEUE_HEADER: delivery.queue,
        DELIVERIES_HEADER: delivery.count,
        AUTHOR_HEADER: delivery.author,
        MESSAGE_ID_HEADER: delivery.message_id,
        # Not as a property: RabbitMQ has addresses of replies that it lets nobody publish again.
        REPLY_TO_HEADER: delivery.reply_to,
    }
    return {name: value for name, value in noted.items() if value is not None}
