"""Burials: what a dead letter tells about the message that it was."""

import re
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
    REPLY_TO_HEADER,
    TIME_HEADER,
)
from .delivery import Delivery

#: Characters of a dead letter's detail, which may quote what was sent: headers have to fit into one frame.
MAX_DETAIL = 1000

_LETTER_ID = re.compile(r"[0-9a-f]{16}")


def burial_headers(delivery: Delivery, *, reason: str, detail: str, now: int) -> dict[str, Any]:
    """The headers of a dead letter.

    A message that is replayed from the dead letter queue brings the id of its letter along: if it fails again, it is
    the same letter. Everybody else gets an id that nobody can guess.

    :param now: milliseconds since 1970.
    """
    letter = delivery.headers.get(LETTER_HEADER)
    if not (isinstance(letter, str) and _LETTER_ID.fullmatch(letter)):
        letter = secrets.token_hex(8)
    noted = {
        LETTER_HEADER: letter,
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
