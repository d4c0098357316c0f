"""Applying transactions: decided in memory, committed by the store in one step, and again if somebody was quicker.

::

    look up the id if it may be in the log, and the heads of keys that are not remembered      one query each
    decide all operations in order                                                             no I/O
    a refusal: look at the keys and the id behind a fence; record it if later state could reverse it
    else: events, receipt and guards in one transaction of the database                        the commit

Nothing that is decided is ever decided while the database's transaction is open, so that it is open for two or three
round trips. Ownership of partitions plays no part in safety: keys of other owners are written as one's own are, and
the log's index tells who was first.
"""

import asyncio
import random
from collections.abc import Callable

import orjson

from ..events import Event, Receipt, Record, Status, StoreUnavailable, TransactCommand
from ..events.replies import error
from ..stores import AlreadyApplied, EventStore, Fence, Head, Outcome, TransactionalStore
from .batch import Batch, Request
from .decide import Answer, Rejection, answer_again, head_of
from .floor import Floor
from .knowledge import Knowledge, state_of
from .lapse import has_lapsed, lapse
from .retelling import find_lapses, place_before, places_at_end
from .transaction import Commit, decide_transaction, refusal_of

#: Milliseconds of service time for which a transaction without a deadline is tried, if others are quicker each time.
CONTENTION_PATIENCE = 10_000
#: So long before its deadline one is given up, so that the answer still finds somebody.
ANSWER_MARGIN = 500
#: Attempts at one time. Each of them has a connection to the database for itself.
AT_A_TIME = 16
#: Seconds of the first pause between two attempts, at most, and of all later ones.
FIRST_PAUSE = 0.004
LONGEST_PAUSE = 0.25


class Transactor:
    """Applies transactions to one store.

    Several may be applied at the same time, also beside batches, if they share no key.
    """

    def __init__(
        self,
        store: EventStore,
        knowledge: Knowledge,
        floor: Floor,
        *,
        service_time: Callable[[], int],
        uptime: Callable[[], float],
        decision_lifetime: float,
        tells_values: bool = False,
        lifetime: int | None = None,
    ) -> None:
        """Make one.

        :param knowledge: that of the engine, which has to be the only one of the store in this process.
        :param floor: likewise.
        :param decision_lifetime: seconds after which a decision is made again before it is sent.
        :param tells_values: events are told to others, so that those of a repeat are wanted.
        :param lifetime: seconds that values live which are not told how long; None if they stay.
        """
        self._store = store
        # Where it is not, no transaction comes so far: the intake refuses them.
        self._transactional = store if isinstance(store, TransactionalStore) else None
        self._knowledge = knowledge
        self._tells_values = tells_values
        self._lifetime = lifetime
        self._floor = floor
        self._service_time = service_time
        self._uptime = uptime
        self._decision_lifetime = decision_lifetime
        self._places = asyncio.Semaphore(AT_A_TIME)

    async def apply(self, batch: Batch, request: Request, command: TransactCommand) -> None:
        """Give the request its final answer. Its batch has no other.

        :raises StoreUnavailable: if the store went away, or the outcome is unknown. The id is looked up the next time.
        """
        began = self._service_time()
        attempts = 0
        while True:
            if await self._is_applied(batch, request, command):
                return
            async with self._places:
                outcome = await self._attempt(request, command, sure=attempts > 0)
            if outcome is Outcome.UNKNOWN:
                raise StoreUnavailable("the outcome of a transaction is not known yet")
            if outcome is Outcome.APPENDED:
                return
            self._knowledge.forget(request.keys)
            batch.hear()
            if outcome is Outcome.NOT_TRIED:
                # Nobody was quicker. The machine was away for a while, and that is nobody's patience.
                began = self._service_time()
                continue
            attempts += 1
            if self._is_out_of_patience(command, began):
                request.answer = _contention(unknown=batch.doubtful)
                return
            # Of two that are in each other's way, one has to be later.
            await asyncio.sleep(random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempts, 10))))  # noqa: S311

    async def _is_applied(self, batch: Batch, request: Request, command: TransactCommand) -> bool:
        """Answer a repeat from the log."""
        if not (batch.uncertain or request.redelivered):
            return False
        batch.doubtful = True
        after = await self._store.fence() if batch.uncertain else None
        found = await self._store.find([command.id], after=after, with_values=False)
        request.redelivered = batch.uncertain = False
        if self._tells_values:
            # What was here before may have left lapses behind that others have not been told of.
            heads = await self._store.heads(request.keys, after=after)
            lapses = await find_lapses(self._store, places_at_end(heads, request.keys), after=after)
            request.events = tuple(lapses.values())
        return await self._answer_again(request, command, found.get(command.id), after)

    async def _attempt(self, request: Request, command: TransactCommand, *, sure: bool) -> Outcome:
        """Decide and commit once. APPENDED says that the request has its answer; without, somebody was quicker."""
        known_at = self._uptime()
        now = self._service_time()
        after: Fence | None = None
        if sure:
            heads, after = await self._sure_heads(request)
        else:
            heads = await self._heads(request)
        if not await self._expire(request, heads, now):
            return Outcome.VERSION_TAKEN
        decision = self._decide(request, command, heads, now)
        if isinstance(decision, Rejection) and decision.about_key and after is None:
            # No negative answer leaves on knowledge that may be behind.
            heads, after = await self._sure_heads(request)
            if not await self._expire(request, heads, now):
                return Outcome.VERSION_TAKEN
            decision = self._decide(request, command, heads, now)
        if isinstance(decision, Rejection):
            return await self._refuse(request, command, decision, now, after)
        if self._uptime() - known_at > self._decision_lifetime:
            return Outcome.NOT_TRIED
        return await self._commit(request, command, decision)

    def _decide(
        self, request: Request, command: TransactCommand, heads: dict[str, Head], now: int
    ) -> Commit | Rejection:
        return decide_transaction(
            command, heads, now=now, author=request.author, digest=request.digest, lifetime=self._lifetime
        )

    async def _expire(self, request: Request, heads: dict[str, Head], now: int) -> bool:
        """Put it into the log that keys have expired, before anything is decided on that. Says whether all went well.

        :raises StoreUnavailable: if it cannot be told.
        """
        events = [lapse(key, head) for key, head in heads.items() if has_lapsed(head, now)]
        if not events:
            return True
        appended = await self._store.append(events)
        for event, outcome in zip(events, appended.outcomes, strict=True):
            if outcome is Outcome.UNKNOWN:
                raise StoreUnavailable("it is not known yet whether the log says that a key has expired")
            if outcome is Outcome.APPENDED:
                heads[event.key] = head_of(event)
                self._knowledge.learn_head(event.key, heads[event.key])
                request.events = (*request.events, event)
        return appended.fence is not None

    async def _heads(self, request: Request) -> dict[str, Head]:
        heads = {key: head for key in request.keys if (head := self._knowledge.head(key)) is not None}
        missing = [key for key in request.keys if key not in heads]
        if missing:
            looked = await self._store.heads(missing)
            for key, head in looked.items():
                self._knowledge.learn_head(key, head)
            heads |= looked
            await self._complete(heads, request)
        return heads

    async def _complete(self, heads: dict[str, Head], request: Request) -> None:
        """Say of keys without an event how they begin."""
        without = set(request.keys) - heads.keys()
        if without:
            await self._floor.look(self._service_time)
            heads |= dict.fromkeys(without, self._floor.head)

    async def _sure_heads(self, request: Request) -> tuple[dict[str, Head], Fence]:
        after = await self._store.fence()
        heads = await self._store.heads(request.keys, after=after)
        await self._complete(heads, request)
        return heads, after

    async def _commit(self, request: Request, command: TransactCommand, commit: Commit) -> Outcome:
        if self._transactional is None:
            raise TypeError("the store cannot append to several keys in one step")
        transacted = await self._transactional.transact(commit.records, commit.guards, firsts=commit.firsts)
        if isinstance(transacted.outcome, AlreadyApplied):
            await self._answer_again(request, command, transacted.outcome.original, None)
            return Outcome.APPENDED
        if transacted.outcome is Outcome.APPENDED:
            for event in commit.events:
                self._knowledge.learn_head(event.key, head_of(event))
                self._knowledge.learn_state(event.key, state_of(event))
            request.events = (*request.events, *commit.events)
            request.receipt = commit.receipt if commit.receipt.messages else None
            request.answer = commit.answer
        return transacted.outcome

    async def _refuse(
        self, request: Request, command: TransactCommand, rejection: Rejection, now: int, after: Fence | None
    ) -> Outcome:
        if rejection.recorded:
            record = refusal_of(command, rejection, now=now, author=request.author, digest=request.digest)
            appended = await self._store.append([record])
            outcome = appended.outcomes[0]
            if isinstance(outcome, AlreadyApplied):
                await self._answer_again(request, command, outcome.original, after)
                return Outcome.APPENDED
            if outcome is Outcome.APPENDED:
                request.answer = await self._with_current(command, rejection.answer, after or appended.fence, request)
            return outcome
        found = await self._store.find([command.id], after=after, with_values=False)
        if not await self._answer_again(request, command, found.get(command.id), after):
            request.answer = await self._with_current(command, rejection.answer, after, request)
        return Outcome.APPENDED

    async def _answer_again(
        self, request: Request, command: TransactCommand, record: Record | None, after: Fence | None
    ) -> bool:
        if record is None:
            return False
        answer = answer_again(record, command, author=request.author, digest=request.digest)
        if isinstance(record, Receipt) and answer["status"] == Status.OK:
            # Who put them there may have died before they were told to others. Once more does no harm.
            request.receipt = record if record.messages else None
            if self._tells_values:
                events = await self._events_of(command, answer, after)
                places = {place for event in events if (place := place_before(event)) is not None}
                lapses = await find_lapses(self._store, places, after=after)
                request.events = (*lapses.values(), *events, *request.events)
        request.answer = await self._with_current(command, answer, after, request)
        return True

    async def _events_of(self, command: TransactCommand, answer: Answer, after: Fence | None) -> list[Event]:
        """The events that a transaction made, in the order of its operations."""
        results = zip(command.operations, answer["results"], strict=True)
        places = [(one.key, result["version"]) for one, result in results if result.get("changed")]
        found: dict[tuple[str, int], Event] = {}
        while missing := [place for place in places if place not in found]:
            events = await self._store.events(missing, after=after)
            if not events:
                break
            found |= events
        # What has been erased since is told to nobody.
        return [found[place] for place in places if place in found and not found[place].stripped]

    async def _with_current(
        self, command: TransactCommand, answer: Answer, after: Fence | None, request: Request
    ) -> Answer:
        """A conflict brings the value that it met to those who asked for it."""
        if not command.return_current or answer["status"] != Status.CONFLICT or not answer["exists"]:
            return answer
        fault = answer["error"]
        if fault["operation"] in request.hidden or fault["winner"] == command.id:
            # Either nobody is to know, or it met what an earlier operation of its own would have made.
            return answer
        place = fault["key"], answer["version"]
        found = await self._store.events([place], after=after or await self._store.fence())
        event = found.get(place)
        if event is None or not event.exists:
            return answer
        value = orjson.dumps(event.value)
        request.answer_size = len(value)
        return {**answer, "error": {**fault, "current": orjson.Fragment(value)}}

    def _is_out_of_patience(self, command: TransactCommand, began: int) -> bool:
        limit = began + CONTENTION_PATIENCE
        if command.deadline is not None:
            limit = min(limit, command.deadline - ANSWER_MARGIN)
        return self._service_time() >= limit


def _contention(*, unknown: bool) -> Answer:
    """The answer to a transaction that others kept from being committed.

    :param unknown: an earlier attempt may have been committed, or may yet be.
    """
    status = Status.UNKNOWN if unknown else Status.UNAVAILABLE
    return error(status, "contention", "others have changed its keys each time that it was tried: try again")
