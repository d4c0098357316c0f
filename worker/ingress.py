"""Forwarding: commands that came by the ingress, or to a wrong partition, go to the queue they belong to, once.

A message is split by partition where it has to be. What cannot be sorted goes to partition 0 and is refused there,
so that there is one place that judges commands.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from aio_pika.exceptions import DeliveryError

from ..events import InvalidError, Status, partition_of
from ..events.codec import parse_json, usable_id
from ..events.limits import MAX_MESSAGE_BYTES, MAX_MESSAGE_COMMANDS
from ..events.replies import error
from ..events.topology import DEFAULT_STORE
from .beside import READ_BESIDE_BYTES, beside
from .broker import CannotKeepAuthorError
from .delivery import Delivery
from .intake import RESERVED_ADDRESS, Elsewhere
from .outbox import Outbox

log = logging.getLogger(__name__)

_NO_IMPERSONATOR = (
    "the worker may not pass on commands in their sender's name: "
    "send them to their own partition, or have the worker's account given the tag impersonator"
)

Publish = Callable[[Delivery, int, bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Refusal:
    status: Status
    code: str
    message: str


class Forwarder:
    """Forwards with confirms; only then the original is acknowledged."""

    def __init__(self, *, outbox: Outbox, partitions: int, publish: Publish) -> None:
        self._outbox = outbox
        self._partitions = partitions
        self._publish = publish

    async def take(self, delivery: Delivery) -> None:
        """Forward a message from the ingress queue."""
        if delivery.unreadable is not None:
            # Who waits for an answer, and for which, is not known.
            self._outbox.bury_whole(delivery, reason="bad_properties", detail=delivery.unreadable)
            return
        if delivery.reply_address_is_reserved:
            # Here, because parts of it would be buried one by one.
            self._outbox.bury_whole(delivery, reason="bad_reply_to", detail=RESERVED_ADDRESS)
            return
        if len(delivery.body) < READ_BESIDE_BYTES:
            parts, is_array = sort_by_partition(delivery.body, self._partitions)
        else:
            parts, is_array = await beside(sort_by_partition, delivery.body, self._partitions)
        delivery.is_array = is_array
        self._outbox.expect(delivery, sum(len(items) for _, items in parts.values()))
        await asyncio.gather(
            *(self._forward(delivery, partition, body, items) for partition, (body, items) in parts.items())
        )

    async def pass_on(self, elsewhere: Elsewhere) -> None:
        """Forward the commands of a message that came to a wrong partition."""
        delivery = elsewhere.delivery
        await asyncio.gather(
            *(
                self._forward(delivery, partition, body, part)
                for partition, items in elsewhere.parts.items()
                for body, part in (in_messages(items) if delivery.is_array else [(delivery.body, items)])
            )
        )

    async def _forward(self, delivery: Delivery, partition: int, body: bytes, items: list[Any]) -> None:
        refused: _Refusal | None = None
        try:
            if delivery.is_array and len(body) > MAX_MESSAGE_BYTES:
                message = f"takes {len(body)} bytes as it is written, and a message is limited to {MAX_MESSAGE_BYTES}"
                refused = _Refusal(Status.TOO_LARGE, code="too_large", message=message)
            else:
                await self._publish(delivery, partition, body)
        except DeliveryError:
            # The queue is full or gone. Waiting for it would hold up every other partition.
            message = f"partition {partition} takes no more commands at the moment"
            refused = _Refusal(Status.UNAVAILABLE, code="queue_full", message=message)
        except CannotKeepAuthorError:
            # Under no name or another's it would be another command: with other rights, and another answer to a repeat.
            refused = _Refusal(Status.DENIED, code="no_impersonator", message=_NO_IMPERSONATOR)
        if refused is not None and delivery.reply_to is None:
            self._outbox.bury(delivery, body, reason=refused.code, detail=refused.message)
        for item in items:
            reply = None
            if refused is not None:
                has_id = delivery.is_array or (isinstance(item, dict) and "id" in item)
                command_id = usable_id(item if has_id else {"id": delivery.message_id})
                status = refused.status
                # Of a message that was delivered before, a worker may have forwarded this already, before it died.
                if status is Status.UNAVAILABLE and delivery.redelivered and may_change(item):
                    status = Status.UNKNOWN
                reply = {"id": command_id, **error(status, refused.code, refused.message)}
            self._outbox.answer(delivery, reply)


def in_messages(items: list[Any]) -> Iterator[tuple[bytes, list[Any]]]:
    """Commands as bodies within the limit of a message; one that is larger by itself goes alone.

    They came in one message, but written again they may take up to four times as many bytes: a 1e15, and there may be
    many of them, is written as 1000000000000000.0.
    """
    body = orjson.dumps(items)
    if len(body) <= MAX_MESSAGE_BYTES or len(items) == 1:
        yield body, items
    else:
        middle = len(items) // 2
        yield from in_messages(items[:middle])
        yield from in_messages(items[middle:])


def may_change(item: Any) -> bool:
    """Whether a command may change something, as far as can be told without judging it."""
    return not isinstance(item, dict) or item.get("op") not in (
        "read",
        "history",
        "query",
        "keys",
        "watch",
        "changes",
        "describe",
    )


def sort_by_partition(body: bytes, partitions: int) -> tuple[dict[int, tuple[bytes, list[Any]]], bool]:
    """Split a message by the partitions of its commands: partition to (body, commands), and whether it is an array.

    An object stays an object, and what is already whole stays byte for byte what it was.
    """
    whole: dict[int, tuple[bytes, list[Any]]] = {0: (body, [None])}
    if len(body) > MAX_MESSAGE_BYTES:
        return whole, False
    try:
        data = parse_json(body)
    except InvalidError:
        return whole, False
    if not isinstance(data, list):
        return {_partition(data, partitions): (body, [data])}, False
    if len(data) > MAX_MESSAGE_COMMANDS:
        return whole, False
    parts: dict[int, list[Any]] = {}
    for item in data:
        parts.setdefault(_partition(item, partitions), []).append(item)
    if len(parts) == 1:
        return {partition: (body, items) for partition, items in parts.items()}, True
    try:
        written = {partition: (orjson.dumps(items), items) for partition, items in parts.items()}
        if all(len(part) <= MAX_MESSAGE_BYTES for part, _ in written.values()):
            return written, True
    except (TypeError, RecursionError):
        pass  # some element cannot be written again as it came (an integer beyond 64 bits, say)
    # A command may be processed anywhere, if at a cost, so the whole goes to one place as it is.
    return {0: (body, data)}, True


def _partition(item: Any, partitions: int) -> int:
    if isinstance(item, dict):
        store, key = item.get("store", DEFAULT_STORE), item.get("key")
        operations = item.get("operations")
        if item.get("op") == "transact" and isinstance(operations, list) and operations:
            # Where commands on its first key are applied.
            key = operations[0].get("key") if isinstance(operations[0], dict) else None
        if isinstance(store, str) and isinstance(key, str):
            try:
                return partition_of(store, key, partitions)
            except UnicodeEncodeError:
                return 0
    return 0
