"""A store that is away while others of the same worker are there: its commands are told so at once.

Otherwise they would wait in the worker's hands, in the place of the others' commands, or the worker would have to let
go of its partitions, which all stores share.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from ..events import HoldfastError, Status, StoreError
from ..events.replies import error
from ..stores import EventStore
from .batch import Request, is_write
from .decide import Answer

log = logging.getLogger(__name__)

#: Seconds between two looks at whether a store is back …
LOOK_INTERVAL = 1.0
#: … and looks in a row that have to find it there, since its return is an interruption for the others.
LOOKS = 5
#: Seconds that a store may take to say that it is there, once another one has.
ANSWER_PATIENCE = 2.0


class StoreBackError(HoldfastError):
    """A store that was away is there again: the session begins anew, with a lane in its place."""


class AwayLane:
    """In the place of a store's lane. It turns commands away, and looks out for the store."""

    def __init__(self, name: str, store: EventStore, *, turned_away: Callable[[list[Request]], None]) -> None:
        """Make one. It has to be run.

        :param turned_away: called with requests that have their answers, in order.
        """
        self._name = name
        self._store = store
        self._turned_away = turned_away

    def add(self, requests: Iterable[Request]) -> None:
        """Answer requests."""
        requests = list(requests)
        for request in requests:
            request.answer = turn_away(unknown=is_write(request.command) and request.redelivered)
        self._turned_away(requests)

    async def run(self) -> None:
        """Wait until the store is there.

        :raises StoreBackError: then.
        """
        log.warning("the store %s is away: its commands are turned away, those of the others go on", self._name)
        there = 0
        while there < LOOKS:
            await asyncio.sleep(LOOK_INTERVAL)
            try:
                await self._store.health()
            except StoreError as away:
                there = 0
                log.debug("the store %s is still away: %s", self._name, away)
            else:
                there += 1
        raise StoreBackError(f"the store {self._name} is back")


def turn_away(*, unknown: bool = False) -> Answer:
    """The answer to a command whose store is away.

    :param unknown: an earlier delivery of it may have been applied.
    """
    status = Status.UNKNOWN if unknown else Status.UNAVAILABLE
    return error(status, "store_away", "the store cannot be reached at the moment")


async def find_away(stores: Mapping[str, EventStore]) -> set[str]:
    """The names of those that are away.

    :raises StoreError: if all of them are.
    """
    looks = {name: asyncio.ensure_future(store.health()) for name, store in stores.items()}
    try:
        pending = set(looks.values())
        patience = None
        while pending:
            done, pending = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            if any(look.exception() is None for look in done):
                patience = ANSWER_PATIENCE
        away = {name for name, look in looks.items() if not look.done() or _failed(look)}
        if len(away) == len(looks):
            looks[min(away)].result()
        return away
    finally:
        for look in looks.values():
            # Not waited for: the driver may never come back from a server that hangs.
            look.cancel()


def _failed(look: "asyncio.Future[None]") -> bool:
    try:
        look.result()
    except StoreError:
        return True
    return False
