"""Histories: what is read of a store's log beside its commit loop, few at a time, so that writers hardly notice.

Pages of events, earlier states, and lists of keys.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

import orjson

from ..events import HistoryCommand, KeysCommand, ReadCommand, Status, StoreUnavailable
from ..events.replies import error
from ..stores import KeyScope
from ..stores.scopes import EVERYTHING
from .decide import expiry
from .delivery import Delivery
from .engine import Engine
from .listing import list_keys
from .outbox import Outbox, Wire
from .past import read_past

log = logging.getLogger(__name__)

#: Answers of one store that are made at the same time. Each may take as much memory as the database gives at a time.
READERS = 2


class Question(NamedTuple):
    """What somebody asks."""

    delivery: Delivery
    command: HistoryCommand | ReadCommand | KeysCommand
    #: Of keys: those that are looked through, and which of them may be read; None: all.
    scope: KeyScope = EVERYTHING
    readable: Callable[[str], bool] | None = None


class Histories:
    """Answers what was asked, in that order."""

    def __init__(self, engine: Engine, *, outbox: Outbox, service_time: Callable[[], int]) -> None:
        """Make one for a store. It has to be run."""
        self._engine = engine
        self._outbox = outbox
        self._service_time = service_time
        self._waiting: asyncio.Queue[Question] = asyncio.Queue()

    def add(self, delivery: Delivery, command: HistoryCommand | ReadCommand) -> None:
        """Put a command behind those that wait. They are bounded as what is in hand is."""
        self.ask(Question(delivery, command))

    def ask(self, question: Question) -> None:
        """As ``add``, for every kind of question."""
        self._waiting.put_nowait(question)

    async def run(self) -> None:
        """Read until cancelled. So many of these at once are so many readers."""
        while True:
            question = await self._waiting.get()
            await self._outbox.unsent.room()
            answer, size = await self._answer(question)
            self._outbox.answer(question.delivery, {"id": question.command.id, **answer}, size=size)

    async def _answer(self, question: Question) -> tuple[Wire, int]:
        """The answer, and how many bytes the values in it are."""
        delivery, command = question.delivery, question.command
        late = expiry(command, self._service_time())
        if late is not None:
            # Whoever asked has gone, and others wait.
            return late, 0
        try:
            answer = await look_up(self._engine, command, question.scope, question.readable)
        except StoreUnavailable:
            return error(Status.UNAVAILABLE, "store_away", "the store cannot be reached at the moment"), 0
        except Exception as fault:
            log.exception("%s %s cannot be read", command.op, command.id)
            body = command.model_dump_json(exclude_unset=True).encode()
            self._outbox.bury(delivery, body, reason="internal", detail=type(fault).__name__)
            return error(Status.INTERNAL, "internal", "the worker could not process this command"), 0
        # As bytes, so that it is known how many they are, and nothing larger waits to be sent.
        for name in ("events", "keys", "value"):
            if name in answer:
                encoded = orjson.dumps(answer[name])
                return {**answer, name: orjson.Fragment(encoded)}, len(encoded)
        return answer, 0


async def look_up(
    engine: Engine,
    command: HistoryCommand | ReadCommand | KeysCommand,
    scope: KeyScope = EVERYTHING,
    readable: Callable[[str], bool] | None = None,
) -> Wire:
    """The answer to one question.

    :raises StoreUnavailable: if the store cannot be reached.
    """
    if isinstance(command, ReadCommand):
        return await read_past(engine.store, command, engine.purges)
    if isinstance(command, KeysCommand):
        return await list_keys(
            engine.store,
            scope,
            after=command.after,
            limit=command.limit,
            now=engine.now(),
            readable=readable,
            count_only=command.count_only,
        )
    entries, following = await engine.history(
        command.key,
        after_version=command.after_version,
        before_version=command.before_version,
        from_time=command.from_time,
        to_time=command.to_time,
        backward=command.backward,
        limit=command.limit,
    )
    events = [entry.model_dump(exclude_unset=True) for entry in entries]
    return {"status": "ok", "events": events, "next": following}
