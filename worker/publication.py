"""What a worker tells others than those who asked: one message, and what may become of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..events import HoldfastError
from .delivery import Delivery


class RefusedError(HoldfastError):
    """The broker does not take a message: its exchange is missing, or a queue is full, or the account may not."""


class SilentError(RefusedError):
    """A queue neither takes a message nor refuses it. It may take it later."""


class Letter(NamedTuple):
    """What goes to the dead letter queue in the place of a message."""

    delivery: Delivery
    body: bytes


@dataclass(slots=True, eq=False)
class Publication:
    """One message."""

    exchange: str
    routing_key: str
    body: bytes
    content_type: str
    headers: Mapping[str, Any]
    message_id: str | None = None
    #: Those of one line follow one another: each is published when the one before it is confirmed.
    line: tuple[str, str] | None = None
    #: None if nothing is lost with it for good.
    letter: Letter | None = None
    #: What is published in its place, and in that of all like it, if there is no room for it.
    instead: "Publication | None" = None
