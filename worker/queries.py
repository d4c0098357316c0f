"""Queries: answered beside a store's commit loop, few at a time and each in limited time."""

import asyncio
import logging
from collections.abc import Callable

import orjson

from ..events import InvalidError, QueryCommand, Status, StoreUnavailable
from ..events.replies import error
from ..stores import EventStore, KeyScope
from .decide import Answer, expiry
from .delivery import Delivery
from .outbox import Outbox
from .search import TIME_LIMIT, Query, Search, SlowQueryError

log = logging.getLogger(__name__)

#: Queries of one store that are answered at the same time.
SEARCHERS = 2

_NOT_SCANNED = "no index serves this query, and it would have to look at every key, which this store's settings forbid"
_TOO_SLOW = (
    f"the query could not be answered within {TIME_LIMIT:g} s: ask for fewer keys, or have an index declared on a "
    "field that it filters or sorts by"
)


class Queries:
    """Answers the queries of one store, in the order in which they came."""

    def __init__(
        self, name: str, store: EventStore, *, outbox: Outbox, service_time: Callable[[], int], scans: bool = True
    ) -> None:
        """Make one. It has to be run.

        :param scans: whether queries that no index serves may look at every key.
        """
        self._name = name
        self._store = store
        self._outbox = outbox
        self._service_time = service_time
        self._scans = scans
        self._waiting: asyncio.Queue[tuple[Delivery, QueryCommand, KeyScope]] = asyncio.Queue()

    def add(self, delivery: Delivery, command: QueryCommand, scope: KeyScope) -> None:
        """Put a command behind those that wait. They are bounded as what is in hand is.

        :param scope: the keys that its sender may see.
        """
        self._waiting.put_nowait((delivery, command, scope))

    async def run(self) -> None:
        """Answer until cancelled. So many of these at once are so many searchers."""
        while True:
            delivery, command, scope = await self._waiting.get()
            if delivery.reply_to is None:
                # There is nobody to be told.
                self._outbox.answer(delivery, None)
                continue
            await self._outbox.unsent.room()
            answer, size = await self._answer(delivery, command, scope)
            self._outbox.answer(delivery, {"id": command.id, **answer}, size=size)

    async def _answer(self, delivery: Delivery, command: QueryCommand, scope: KeyScope) -> tuple[Answer, int]:
        """The answer, and how many bytes its entries are."""
        now = self._service_time()
        late = expiry(command, now)
        if late is not None:
            return late, 0
        seconds = TIME_LIMIT if command.deadline is None else (command.deadline - now) / 1000
        try:
            search = Search(self._store, Query.of(command, scope), service_time=self._service_time, seconds=seconds)
            plan = await search.plan()
            if plan.scan and not self._scans:
                return error(Status.INVALID, "scan", _NOT_SCANNED), 0
            told: Answer = {"status": "ok", "scan": plan.scan, "as_of": plan.as_of}
            if command.explain:
                return told, 0
            page = await search.run(plan)
        except InvalidError as fault:
            return error(Status.INVALID, fault.code, str(fault), field=fault.field), 0
        except SlowQueryError:
            return error(Status.UNAVAILABLE, "too_slow", _TOO_SLOW), 0
        except StoreUnavailable:
            return error(Status.UNAVAILABLE, "store_away", "the store cannot be reached at the moment"), 0
        except Exception as fault:
            log.exception("query %s of the store %s cannot be answered", command.id, self._name)
            body = command.model_dump_json(exclude_unset=True).encode()
            self._outbox.bury(delivery, body, reason="internal", detail=type(fault).__name__)
            return error(Status.INTERNAL, "internal", "the worker could not process this command"), 0
        entries = b"[%s]" % b",".join(page.entries)
        return {**told, "entries": orjson.Fragment(entries), "token": page.token}, len(entries)
