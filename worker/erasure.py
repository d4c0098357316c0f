"""Erasure: what a purge does after its event is in the log, beside the commit loop.

The command is answered, and acknowledged, only when the values of all earlier versions are gone. A worker that dies on
the way leaves it in its queue: it comes again, is recognised by its event, and what is left of the values is erased.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from ..events import StoreUnavailable
from ..stores import CompactableStore
from .batch import Request
from .lane import StoreLostError
from .purges import Purges

log = logging.getLogger(__name__)

#: Versions that are stripped at a time.
STEP: Final = 500

Answer = dict[str, Any]


class Erasures:
    """Erases for one store, one purge after another."""

    def __init__(
        self,
        store: CompactableStore,
        purges: Purges,
        *,
        answered: Callable[[Request, Answer], None],
        published: Callable[[], Awaitable[None]],
        patience: float = 5.0,
    ) -> None:
        """Make one. It has to be run.

        :param purges: is told what is done.
        :param answered: called with a request and its answer, once everything is erased.
        :param published: waits until nothing is needed any more of what writes before the purge wanted to be published.
        :param patience: seconds for which the store may be away.
        """
        self._store = store
        self._purges = purges
        self._answered = answered
        self._published = published
        self._patience = patience
        self._waiting: asyncio.Queue[tuple[Request, Answer]] = asyncio.Queue()

    def add(self, request: Request, answer: Answer) -> None:
        """Take a purge that is in the log."""
        self._waiting.put_nowait((request, answer))

    async def run(self) -> None:
        """Erase until cancelled.

        :raises StoreLostError: when the store stays away. What has no answer by then comes back by redelivery.
        """
        while True:
            request, answer = await self._waiting.get()
            # What is published again when a worker dies comes out of the log.
            await self._published()
            await self._erase(request.command.key, answer["version"] - 1)
            self._purges.finish(request.command.key, answer["version"])
            self._answered(request, answer)

    async def _erase(self, key: str, last: int) -> None:
        # From 0 on: a transaction may have begun with the key when it was not there, and carry messages.
        for first in range(0, last + 1, STEP):
            retrying = AsyncRetrying(
                retry=retry_if_exception_type(StoreUnavailable),
                stop=stop_after_delay(self._patience),
                wait=wait_random_exponential(multiplier=0.05, max=1.0),
                reraise=True,
            )
            try:
                async for attempt in retrying:
                    with attempt:
                        await self._store.strip([(key, first, min(last, first + STEP - 1))])
            except StoreUnavailable as lost:
                raise StoreLostError(f"the store was away for more than {self._patience:g} s: {lost}") from lost
