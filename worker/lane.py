"""A lane: the group-commit loop of one store. Each store has its own, so that one that hangs holds up no other.

Beside the loop go transactions, and what waits for the end of somebody else's. The keys of both are claimed, so that in
each key's order nothing overtakes them, and everything else goes on.
"""

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from ..events import HoldfastError, Status, StoreUnavailable
from ..events.replies import error
from .batch import Batch, Request
from .claims import Claims
from .decide import Answer
from .engine import Engine

log = logging.getLogger(__name__)

#: A batch ends at this many commands …
MAX_BATCH_COMMANDS = 1000
#: … or this many bytes of values.
MAX_BATCH_BYTES = 4 * 1024 * 1024

#: Turns of the event loop without a new request after which a batch begins. A frame takes some to become one.
ARRIVAL_TURNS = 4


#: Seconds between two attempts at what somebody's transaction blocks; each of them waits for about a second by itself.
PARKED_PAUSE = 0.1

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
        self._patience = patience
        self._waiting: deque[Request] = deque()
        #: Requests that have waited for a claim to end, and whose turn has come. They go before all others.
        self._released: deque[Request] = deque()
        self._claims = Claims()
        #: Transactions and parked requests, at work beside the loop.
        self._beside: set[asyncio.Task[None]] = set()
        self._group: asyncio.TaskGroup
        self._wake = asyncio.Event()

    def add(self, requests: Iterable[Request]) -> None:
        """Put requests behind those that wait. Never blocks: the broker's prefetch bounds what comes in."""
        self._waiting.extend(requests)
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled.

        :raises StoreLostError: when the store stays away. What has no answer by then comes back by redelivery.
        """
        try:
            async with asyncio.TaskGroup() as self._group:
                await self._run()
        except BaseExceptionGroup as failures:
            # They all mean the same: the first one will do.
            raise failures.exceptions[0] from None

    async def _run(self) -> None:
        while True:
            if not self._waiting and not self._released:
                self._wake.clear()
                await self._wake.wait()
            await self._let_arrive()
            if self._released:
                requests = gather(self._released)
            else:
                requests = gather(self._waiting)
                if not (requests[0].suspect and requests[0].keys):
                    requests = self._admit(requests)
                elif self._beside:
                    # A transaction that may be what kills workers: nothing else is done meanwhile, so that it shows.
                    self._waiting.extendleft(requests)
                    await asyncio.wait(self._beside)
                    continue
            if requests:
                batch = Batch.of(requests)
                batch.release = self._hand_out
                await self._apply(batch)

    def _admit(self, requests: list[Request]) -> list[Request]:
        """Those that can go into a batch now. Transactions are begun; what has to wait for one gets into line."""
        claims = self._claims
        if not claims and not any(request.keys for request in requests):
            return requests
        admitted: dict[str, list[Request]] = {}
        for request in requests:
            key = request.command.key
            if request.keys:
                # What stands before it in this batch has its keys first.
                for one in request.keys:
                    if one not in claims:
                        claims.take(one, admitted.get(one, ()))
                if claims.join(request, request.keys, alone=True):
                    self._begin(request)
            elif key not in claims or claims.join(request, (key,), alone=False):
                admitted.setdefault(key, []).append(request)
        return [request for group in admitted.values() for request in group]

    def _begin(self, request: Request) -> None:
        self._go_beside(self._apply(Batch([request], release=self._hand_out)))

    def _go_beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    def _park(self, batch: Batch) -> None:
        """Go on with what is blocked beside the loop, key by key, until nobody is in its way any more."""
        for key, parked in batch.take_parked().items():
            for request in self._claims.park(key, parked.members()):
                self._released.remove(request)
            log.info("%d commands wait for the end of a transaction of somebody else", len(parked.pending))
            self._go_beside(self._apply_parked(parked))

    async def _apply_parked(self, batch: Batch) -> None:
        await asyncio.sleep(random.uniform(0.5, 1) * PARKED_PAUSE)  # noqa: S311
        await self._apply(batch)

    async def _hand_out(self, batch: Batch) -> None:
        """Give out what has its answer, and wait until there is room for more."""
        answered = batch.take()
        if answered:
            self._answered(answered)
            for request in answered:
                # The engine still has the requests of its round. Their values must not stay with them.
                request.answer = HANDED_OUT
                request.events = ()
                request.receipt = None
            if self._claims:
                self._leave(answered)
        if batch.limit is not None:
            # The store has just answered. What the wait takes is none of its fault.
            batch.limit.reschedule(None)
        if self._room is not None:
            await self._room()
        batch.hear()

    def _leave(self, answered: list[Request]) -> None:
        """Give up the claims of what is done, and go on with what has waited for that."""
        for request in answered:
            for following in self._claims.leave(request):
                if following.keys:
                    self._begin(following)
                else:
                    self._released.append(following)
                    self._wake.set()

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
        if batch.parked:
            self._park(batch)

    async def _apply_with_patience(self, batch: Batch) -> None:
        loop = asyncio.get_running_loop()

        def out_of_patience(_: RetryCallState) -> bool:
            return loop.time() - batch.heard >= self._patience

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            stop=out_of_patience,
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            reraise=True,
        )
        batch.patience = self._patience
        batch.hear()
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
            async with asyncio.timeout_at(batch.heard + self._patience) as batch.limit:
                await self.engine.apply(batch)
        except TimeoutError:
            if batch.limit is None or not batch.limit.expired():
                raise
            raise StoreUnavailable("it is still away") from None
        finally:
            batch.limit = None


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
