"""The dispatcher: gathers concurrent calls into few messages, and gets every call an answer or an honest error.

Calls of one partition are sent together: at the end of the event loop's turn if nothing of the partition is
unconfirmed, else when it is. So a lone call never waits, and under load messages grow instead of multiplying.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from aio_pika.exceptions import AMQPError, DeliveryError

from ..events import Reply, partition_of
from ..events.limits import CLIENT_MESSAGE_BYTES
from .calls import Call

log = logging.getLogger(__name__)

#: Seconds after which a call without an answer is sent again, in case the answer was lost.
RESEND_AFTER = 4.0
#: Commands in one message at most.
MAX_COMMANDS = 1000


class Wireable(Protocol):
    """The part of a link that sends."""

    up: bool
    generation: int

    async def publish(self, partition: int, body: bytes) -> None:
        """Publish and wait for the confirm."""


class _Lane:
    """The calls of one partition that wait to be sent."""

    __slots__ = ("busy", "number", "scheduled", "waiting")

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: deque[Call] = deque()
        #: A message is not confirmed yet.
        self.busy = False
        self.scheduled = False


class Dispatcher:
    """Sends calls and matches replies by command id."""

    def __init__(self, link: Wireable, *, on_epoch: Callable[[int], None]) -> None:
        """Make a dispatcher for one partition; ``repartition`` sets the real number.

        :param on_epoch: told the epoch of replies that carry another one than the last.
        """
        self._link = link
        self._on_epoch = on_epoch
        self._epoch: int | None = None
        self._loop = asyncio.get_running_loop()
        self._calls: dict[str, Call] = {}
        self._lanes = [_Lane(0)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._resender = self._loop.call_later(RESEND_AFTER / 2, self._resend)

    @property
    def in_flight(self) -> int:
        """Calls without an answer."""
        return len(self._calls)

    def submit(self, call: Call, timeout: float) -> None:
        """Send a call. Its future gets the reply, or an error once ``timeout`` seconds are over."""
        self._calls[call.id] = call
        call.timer = self._loop.call_later(timeout, self._give_up, call, timeout)
        lane = self._lane_of(call)
        lane.waiting.append(call)
        self._schedule(lane)

    def forget(self, call: Call) -> None:
        """Stop caring for a call whose caller has gone."""
        self._calls.pop(call.id, None)
        if call.timer is not None:
            call.timer.cancel()

    def on_replies(self, replies: Iterable[Reply]) -> None:
        """Hand replies to their calls. Those of calls that have ended are passed over."""
        for reply in replies:
            if reply.id is None:
                continue
            call = self._calls.pop(reply.id, None)
            if call is None:
                continue
            if call.timer is not None:
                call.timer.cancel()
            if not call.reply.done():
                call.reply.set_result(reply)
            if reply.epoch is not None and reply.epoch != self._epoch:
                self._epoch = reply.epoch
                self._on_epoch(reply.epoch)

    def on_up(self) -> None:
        """Send everything that has no answer again, in the original order: the old reply queue is gone."""
        for lane in self._lanes:
            lane.waiting.clear()
            lane.busy = False
        for call in self._calls.values():
            self._lane_of(call).waiting.append(call)
        for lane in self._lanes:
            self._schedule(lane)

    def repartition(self, partitions: int) -> None:
        """Use this many partitions from now on."""
        if partitions == len(self._lanes):
            return
        waiting = [call for lane in self._lanes for call in lane.waiting]
        self._lanes = [_Lane(number) for number in range(partitions)]
        for call in waiting:
            self._lane_of(call).waiting.append(call)
        for lane in self._lanes:
            self._schedule(lane)

    async def close(self) -> None:
        """Stop sending."""
        self._resender.cancel()
        for call in list(self._calls.values()):
            self.forget(call)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _lane_of(self, call: Call) -> _Lane:
        lanes = self._lanes
        # A call without a key (describe) may go anywhere.
        return lanes[partition_of(call.store, call.key, len(lanes)) if call.key else 0]

    def _schedule(self, lane: _Lane) -> None:
        if lane.waiting and not lane.busy and not lane.scheduled:
            lane.scheduled = True
            self._loop.call_soon(self._flush, lane)

    def _flush(self, lane: _Lane) -> None:
        lane.scheduled = False
        if lane.busy or not self._link.up:
            return
        calls: list[Call] = []
        size = 0
        now = self._loop.time()
        while lane.waiting and len(calls) < MAX_COMMANDS:
            call = lane.waiting[0]
            if call.reply.done():
                lane.waiting.popleft()
                continue
            if calls and size + len(call.body) > CLIENT_MESSAGE_BYTES:
                break
            size += len(call.body) + 1
            call.attempts += 1
            call.sent_at = now
            calls.append(lane.waiting.popleft())
        if calls:
            lane.busy = True
            task = self._loop.create_task(self._publish(lane, calls, self._link.generation))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _publish(self, lane: _Lane, calls: list[Call], generation: int) -> None:
        try:
            await self._link.publish(lane.number, b"[" + b",".join([call.body for call in calls]) + b"]")
        except DeliveryError:
            for call in calls:
                self._calls.pop(call.id, None)
                call.refuse("the broker does not take the command: its queue is full, or no worker ever ran")
        except (AMQPError, OSError, RuntimeError) as fault:
            # What became of it is unknown; when the link is up again it is sent again under the same ids.
            log.debug("publishing to partition %d: %r", lane.number, fault)
        if generation == self._link.generation:
            lane.busy = False
            self._schedule(lane)

    def _give_up(self, call: Call, timeout: float) -> None:
        self._calls.pop(call.id, None)
        call.give_up(timeout)

    def _resend(self) -> None:
        """Send again what has waited long for its answer. Being a repeat, it is harmless if none was lost."""
        before = self._loop.time() - RESEND_AFTER
        for call in self._calls.values():
            if 0 < call.sent_at < before and not call.reply.done():
                call.sent_at = 0.0
                lane = self._lane_of(call)
                lane.waiting.append(call)
                self._schedule(lane)
        self._resender = self._loop.call_later(RESEND_AFTER / 2, self._resend)
