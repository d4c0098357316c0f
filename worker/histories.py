"""Histories: pages of a store's log, read beside its commit loop, and few at a time, so that writers hardly notice."""

import asyncio
import logging
from collections.abc import Callable

import orjson

from ..events import HistoryCommand, Status, StoreUnavailable
from ..events.replies import error
from .decide import expiry
from .delivery import Delivery
from .engine import Engine
from .outbox import Outbox, Wire

log = logging.getLogger(__name__)

#: Pages of one store that are read at the same time. Each may take as much memory as the database gives at a time.
READERS = 2


class Histories:
    """Reads the pages that were asked for, in that order, and answers for them."""

    def __init__(self, engine: Engine, *, outbox: Outbox, service_time: Callable[[], int]) -> None:
        """Make one for a store. It has to be run."""
        self._engine = engine
        self._outbox = outbox
        self._service_time = service_time
        self._waiting: asyncio.Queue[tuple[Delivery, HistoryCommand]] = asyncio.Queue()

    def add(self, delivery: Delivery, command: HistoryCommand) -> None:
        """Put a command behind those that wait. They are bounded as what is in hand is."""
        self._waiting.put_nowait((delivery, command))

    async def run(self) -> None:
        """Read until cancelled. So many of these at once are so many readers."""
        while True:
            delivery, command = await self._waiting.get()
            await self._outbox.unsent.room()
            answer, size = await self._answer(delivery, command)
            self._outbox.answer(delivery, {"id": command.id, **answer}, size=size)

    async def _answer(self, delivery: Delivery, command: HistoryCommand) -> tuple[Wire, int]:
        """The answer, and how many bytes its events are."""
        late = expiry(command, self._service_time())
        if late is not None:
            # Whoever asked has gone, and others wait.
            return late, 0
        try:
            entries, following = await self._engine.history(
                command.key, after_version=command.after_version, limit=command.limit
            )
        except StoreUnavailable:
            return error(Status.UNAVAILABLE, "store_away", "the store cannot be reached at the moment"), 0
        except Exception as fault:
            log.exception("history %s cannot be read", command.id)
            body = command.model_dump_json(exclude_unset=True).encode()
            self._outbox.bury(delivery, body, reason="internal", detail=type(fault).__name__)
            return error(Status.INTERNAL, "internal", "the worker could not process this command"), 0
        # Of an event that saved null, null is the value, and not the lack of one.
        events = orjson.dumps(
            [
                ({"value": None} if entry.type == "saved" else {}) | entry.model_dump(exclude_none=True)
                for entry in entries
            ]
        )
        # As bytes, so that it is known how many they are, and nothing larger waits to be sent.
        return {"status": "ok", "events": orjson.Fragment(events), "next": following}, len(events)
