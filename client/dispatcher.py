"""The dispatcher: gathers concurrent calls into few messages, and gets every call an answer or an honest error.

Calls of one partition are sent together: at the end of the event loop's turn if nothing of the partition is
unconfirmed, else when it is. So a lone call never waits, and under load messages grow instead of multiplying.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from aio_pika.exceptions import DeliveryError
from aiormq.exceptions import ChannelAccessRefused

from ..events import ClosedError, Reply, partition_of
from ..events.limits import CLIENT_MESSAGE_BYTES
from .calls import Call
from .deadlines import Deadlines

log = logging.getLogger(__name__)

#: Seconds after which a call without an answer is sent again, in case the answer was lost; at least. Twice as many
#: after each time, and more where answers take long at the moment, so that a service which is behind is not kept there
#: by repeats.
RESEND_AFTER = 4.0
#: Seconds that messages on their way may take to end when the client is closed.
CLOSE_PATIENCE = 2.0
#: Commands in one message at most.
MAX_COMMANDS = 1000


class Wireable(Protocol):
    """The part of a link that sends."""

    @property
    def up(self) -> bool:
        """Whether messages can be published now."""

    @property
    def generation(self) -> int:
        """Counts connections."""

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

        :param on_epoch: told the epoch of replies that carry another one than ``epoch``.
        """
        self._link = link
        self._on_epoch = on_epoch
        #: The topology's epoch that the partitions belong to.
        self.epoch: int | None = None
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._give_up)
        self._calls: dict[str, Call] = {}
        #: Calls under an id that another call has at the moment. Their turn comes when that one has ended.
        self._behind: dict[str, deque[Call]] = {}
        self._lanes = [_Lane(0)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        #: Seconds that the slowest answer took, of those that came since it was last looked at.
        self._slowest = 0.0
        self._patience = RESEND_AFTER
        self._resender = self._loop.call_later(RESEND_AFTER / 2, self._resend)

    @property
    def in_flight(self) -> int:
        """Calls without an answer."""
        return len(self._calls)

    def submit(self, call: Call, timeout: float) -> None:
        """Send a call. Its future gets the reply, or an error once ``timeout`` seconds are over.

        :raises ClosedError: if the dispatcher is closed.
        """
        if self._closed:
            raise ClosedError("this client is closed")
        self._deadlines.add(call, timeout)
        if call.id in self._calls:
            self._behind.setdefault(call.id, deque()).append(call)
        else:
            self._start(call)

    def _start(self, call: Call) -> None:
        self._calls[call.id] = call
        self._enqueue(call)

    def forget(self, call: Call) -> None:
        """Stop caring for a call that has ended, or whose caller has gone."""
        self._deadlines.drop(call)
        if self._calls.get(call.id) is not call:
            return
        del self._calls[call.id]
        behind = self._behind.get(call.id)
        while behind:
            following = behind.popleft()
            if not behind:
                del self._behind[call.id]
            if not following.reply.done():
                self._start(following)
                break

    def on_replies(self, replies: Iterable[Reply]) -> None:
        """Hand replies to their calls. Those of calls that have ended are passed over."""
        now = self._loop.time()
        for reply in replies:
            if reply.id is None:
                log.warning("a worker could not read a message of ours: %s", reply.error)
                continue
            call = self._calls.get(reply.id)
            if call is None:
                continue
            self._slowest = max(self._slowest, now - call.first_sent_at)
            self.forget(call)
            if not call.reply.done():
                call.reply.set_result(reply)
            if reply.epoch is not None and reply.epoch != self.epoch:
                self._on_epoch(reply.epoch)

    def on_up(self) -> None:
        """Send everything that has no answer again, in the original order: the old reply queue is gone."""
        for lane in self._lanes:
            lane.waiting.clear()
            lane.busy = False
        for call in self._calls.values():
            call.queued = call.confirmed = False
            self._enqueue(call)

    def repartition(self, partitions: int) -> None:
        """Use this many partitions from now on."""
        if partitions == len(self._lanes):
            return
        waiting = [call for lane in self._lanes for call in lane.waiting]
        self._lanes = [_Lane(number) for number in range(partitions)]
        for call in waiting:
            call.queued = False
            self._enqueue(call)

    async def close(self) -> None:
        """Stop sending, and end what has no answer."""
        self._closed = True
        self._resender.cancel()
        calls = [*self._calls.values(), *(call for behind in self._behind.values() for call in behind)]
        self._calls.clear()
        self._behind.clear()
        for call in calls:
            self.forget(call)
            call.abandon()
        self._deadlines.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            # What the driver does not give back ends with the connection.
            await asyncio.wait(tasks, timeout=CLOSE_PATIENCE)

    def _lane_of(self, call: Call) -> _Lane:
        lanes = self._lanes
        # A call without a key (describe) may go anywhere.
        return lanes[partition_of(call.store, call.key, len(lanes)) if call.key else 0]

    def _enqueue(self, call: Call) -> None:
        if call.queued:
            return
        call.queued = True
        lane = self._lane_of(call)
        lane.waiting.append(call)
        self._schedule(lane)

    def _schedule(self, lane: _Lane) -> None:
        if lane.waiting and not lane.busy and not lane.scheduled:
            lane.scheduled = True
            self._loop.call_soon(self._flush, lane)

    def _flush(self, lane: _Lane) -> None:
        lane.scheduled = False
        if lane.busy or self._closed or not self._link.up:
            return
        calls: list[Call] = []
        size = 0
        now = self._loop.time()
        while lane.waiting and len(calls) < MAX_COMMANDS:
            call = lane.waiting[0]
            if calls and size + len(call.body) > CLIENT_MESSAGE_BYTES and not call.reply.done():
                break
            lane.waiting.popleft()
            call.queued = False
            if call.reply.done():
                continue
            size += len(call.body) + 1
            if call.attempts == 0:
                call.first_sent_at = now
            call.attempts += 1
            call.sent_at = now
            calls.append(call)
        if calls:
            lane.busy = True
            task = self._loop.create_task(self._publish(lane, calls, self._link.generation))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _publish(self, lane: _Lane, calls: list[Call], generation: int) -> None:
        refused = False
        try:
            await self._link.publish(lane.number, b"[" + b",".join([call.body for call in calls]) + b"]")
        except DeliveryError:
            refused = True
        except ChannelAccessRefused:
            # It ended the channel, and with it publishes that may have been allowed. Writes are tried again.
            for call in [call for call in calls if not call.mutates]:
                self.forget(call)
                call.deny("the broker does not let this user send commands: it needs to write to holdfast.commands")
            return
        except Exception as fault:  # noqa: BLE001 - the link knows the driver; here it means the same, whatever it is
            # What became of it is unknown; when the link is up again it is sent again under the same ids.
            log.debug("publishing to partition %d: %r", lane.number, fault)
            return
        if generation != self._link.generation:
            return  # all of it has been put into the lanes again
        for call in calls:
            if not refused:
                call.confirmed = True
            elif not call.confirmed:
                # What the broker has taken before will be answered, whatever becomes of a repeat.
                self.forget(call)
                call.refuse("the broker does not take the command: its queue is full, or no worker ever ran")
        lane.busy = False
        self._schedule(lane)

    def _give_up(self, call: Call, timeout: float) -> None:
        call.give_up(timeout)
        self.forget(call)

    def _resend(self) -> None:
        """Send again what has waited long for its answer. Being a repeat, it is harmless if none was lost."""
        now = self._loop.time()
        if self._slowest or not self._calls:
            # With no answer at all there is no sign that it has become quicker.
            self._patience = max(RESEND_AFTER, 2 * self._slowest, self._patience / 2)
            self._slowest = 0.0
        for call in self._calls.values():
            if call.attempts and now - call.sent_at > self._patience * 2 ** (call.attempts - 1):
                self._enqueue(call)
        self._resender = self._loop.call_later(RESEND_AFTER / 2, self._resend)
