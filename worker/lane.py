"""A lane: the group-commit loop of one store. Each store has its own, so that one that hangs holds up no other."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from ..events import HoldfastError, Status, StoreUnavailable
from ..events.replies import error
from .batch import Batch, Request
from .decide import Answer
from .engine import Engine

log = logging.getLogger(__name__)

#: A batch ends at this many commands …
MAX_BATCH_COMMANDS = 1000
#: … or this many bytes of values.
MAX_BATCH_BYTES = 4 * 1024 * 1024

#: Turns of the event loop without a new request after which a batch begins. A frame takes some to become one.
ARRIVAL_TURNS = 4


#: Stands in the place of an answer that has left.
HANDED_OUT: Answer = {}


class StoreLostError(HoldfastError):
    """A store was away for longer than the worker's patience: time to let go of the partitions."""


class Lane:
    """Gathers what is waiting, applies it as one batch, hands out the answers, and again."""

    def __init__(
        self,
        engine: Engine,
        *,
        answered: Callable[[list[Request]], None],
        failed: Callable[[Request, BaseException], None],
        room: Callable[[], Awaitable[None]] | None = None,
        patience: float = 5.0,
    ) -> None:
        """Make a lane.

        :param answered: called with requests that have their final answers, in order.
        :param room: waits until answers that were given before have gone far enough for more.
        :param failed: called for a request that cannot be processed at all; it has an ``internal`` answer by then.
        :param patience: seconds for which a store may be away.
        """
        self.engine = engine
        self._answered = answered
        self._failed = failed
        self._room = room
        #: When the store was last known not to be away, as far as patience with it goes.
        self._since = 0.0
        self._patience = patience
        #: Of an attempt that may not take longer.
        self._limit: asyncio.Timeout | None = None
        self._waiting: deque[Request] = deque()
        self._wake = asyncio.Event()

    def add(self, requests: Iterable[Request]) -> None:
        """Put requests behind those that wait. Never blocks: the broker's prefetch bounds what comes in."""
        self._waiting.extend(requests)
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled.

        :raises StoreLostError: when the store stays away. What has no answer by then comes back by redelivery.
        """
        while True:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            await self._let_arrive()
            batch = Batch.of(gather(self._waiting))
            batch.release = self._hand_out
            await self._apply(batch)

    async def _hand_out(self, batch: Batch) -> None:
        """Give out what has its answer, and wait until there is room for more."""
        answered = batch.take()
        if answered:
            self._answered(answered)
            for request in answered:
                # The engine still has the requests of its round. Their values must not stay with them.
                request.answer = HANDED_OUT
        if self._limit is not None:
            # The store has just answered. What the wait takes is none of its fault.
            self._limit.reschedule(None)
        if self._room is not None:
            await self._room()
        self._since = asyncio.get_running_loop().time()
        if self._limit is not None:
            self._limit.reschedule(self._since + self._patience)

    async def _let_arrive(self) -> None:
        """Let what the socket has received already become requests: a few turns of the event loop, no waiting."""
        seen, still = len(self._waiting), 0
        while still < ARRIVAL_TURNS and seen < MAX_BATCH_COMMANDS:
            await asyncio.sleep(0)
            if len(self._waiting) == seen:
                still += 1
            else:
                seen, still = len(self._waiting), 0

    async def _apply(self, batch: Batch) -> None:
        try:
            await self._apply_with_patience(batch)
        except StoreUnavailable as lost:
            raise StoreLostError(f"the store was away for more than {self._patience:g} s: {lost}") from lost
        except Exception as fault:
            if len(batch.pending) == 1:
                # This command, and no other, cannot be processed.
                request = batch.pending[0]
                log.exception("command %s cannot be processed", request.command.id)
                request.answer = error(Status.INTERNAL, "internal", "the worker could not process this command")
                self._failed(request, fault)
                await batch.let_go()
                return
            log.warning("a batch of %d failed and is taken apart: %r", len(batch.pending), fault)
            await batch.let_go()
            for single in batch.split():
                await self._apply(single)
        else:
            await self._hand_out(batch)

    async def _apply_with_patience(self, batch: Batch) -> None:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            stop=self._out_of_patience,
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            reraise=True,
        )
        self._since = asyncio.get_running_loop().time()
        async for attempt in retrying:
            with attempt:
                if attempt.retry_state.attempt_number == 1:
                    # It ends by the store's own timeouts. One that is slow, but there, is not given up.
                    await self.engine.apply(batch)
                else:
                    await self._apply_again(batch)

    async def _apply_again(self, batch: Batch) -> None:
        """With no more time than there is patience. The driver alone may look for a server for longer than that."""
        try:
            async with asyncio.timeout_at(self._since + self._patience) as self._limit:
                await self.engine.apply(batch)
        except TimeoutError:
            if self._limit is None or not self._limit.expired():
                raise
            raise StoreUnavailable("it is still away") from None
        finally:
            self._limit = None

    def _out_of_patience(self, _: RetryCallState) -> bool:
        return asyncio.get_running_loop().time() - self._since >= self._patience


def gather(waiting: deque[Request]) -> list[Request]:
    """Take the next batch off the front. A suspect request makes a batch of its own; so does a message set apart."""
    first = waiting.popleft()
    requests = [first]
    size = first.size
    if first.suspect:
        return requests
    while waiting and len(requests) < MAX_BATCH_COMMANDS:
        following = waiting[0]
        if following.suspect or size + following.size > MAX_BATCH_BYTES:
            break
        if (first.apart or following.apart) and following.origin is not first.origin:
            break
        size += following.size
        requests.append(waiting.popleft())
    return requests
