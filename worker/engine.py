"""The group commit: a batch of commands of one store, decided in memory and committed by one append.

::

    look up ids that may be in the log, and the heads of keys that are not remembered     one query each
    decide every command in order                                                         no I/O
    append all events and refusals                                                        one insert: the commit
    reads and rejections: one look behind a fence                                         one query each

All answers are provisional until the append has returned. On its first failure, what precedes it is answered,
and the rest is looked up and decided again. No negative answer leaves on remembered knowledge alone.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from ..events import (
    Event,
    HistoryEntry,
    PatchCommand,
    ReadCommand,
    Record,
    Refusal,
    RestoreCommand,
    StoreUnavailable,
    TransactCommand,
)
from ..events.limits import DEFAULT_MAX_VALUE_BYTES
from ..stores import AlreadyApplied, CompactableStore, EventStore, Fence, Head, Outcome
from .batch import Batch, Request, is_write, wants_value
from .carried import find_carried
from .clock import boot_time
from .decide import Answer, answer_again, head_of
from .floor import Floor
from .knowledge import Knowledge, State, read_answer, state_of
from .past import Page, read_page
from .plan import NO_SOURCES, Plan, Step, Values, make_plan
from .purges import Purges
from .retelling import find_lapses, place_before, places_at_end
from .sources import find_sources
from .transactor import Transactor

#: Decisions older than this are made again before they are appended (seconds, suspended time included).
DECISION_LIFETIME = 60.0
#: What is remembered of keys is dropped this often. Far less than the fence window, after which a version that it
#: rests on may have been purged and be free again.
KNOWLEDGE_LIFETIME = 24 * 3600.0
#: Answers leave on the way when the values in them have become so many bytes. The values of a thousand reads take
#: a GiB together; so those of this many bytes are in memory, and those of one reply of the database.
SLICE_BYTES = 4 * 1024 * 1024
#: How often a key that somebody else moves on is looked at, before a restore of it is refused by the last look.
SURE_LOOKS = 3


class Final(NamedTuple):
    """An answer that is final, but for the value of its key that may belong into it."""

    request: Request
    #: None for a read.
    answer: Answer | None
    #: The version whose value belongs into it; 0 if none does.
    version: int


class Engine:
    """Applies batches to one store.

    Batches may be applied at the same time if they share no key: two appends in flight for one key would cost
    each other a retry, and make an unknown outcome ambiguous.
    """

    def __init__(
        self,
        store: EventStore,
        *,
        service_time: Callable[[], int],
        head_bytes: int = 192 * 1024 * 1024,
        state_bytes: int = 64 * 1024 * 1024,
        max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES,
        uptime: Callable[[], float] = boot_time,
        tells_values: bool = False,
        lifetime: int | None = None,
    ) -> None:
        """Make an engine.

        :param service_time: the current service time in milliseconds.
        :param head_bytes: memory for the newest versions of keys, for decisions.
        :param state_bytes: memory for values, for reads and patches.
        :param max_value_bytes: the largest value that a patch may make.
        :param uptime: seconds on a clock that goes on while the machine sleeps.
        :param tells_values: events are told to others, so that those which are found in the log are wanted whole.
        :param lifetime: seconds that values live which are not told how long; None if they stay.
        """
        self.store = store
        self._compactable = store if isinstance(store, CompactableStore) else None
        self.knowledge = Knowledge(head_bytes=head_bytes, state_bytes=state_bytes)
        #: With which version keys begin.
        self.floor = Floor(store, uptime=uptime)
        self.purges = Purges()
        self._transactor = Transactor(
            store,
            self.knowledge,
            self.floor,
            service_time=service_time,
            uptime=uptime,
            decision_lifetime=DECISION_LIFETIME,
            tells_values=tells_values,
            lifetime=lifetime,
        )
        self._service_time = service_time
        self._max_value_bytes = max_value_bytes
        self._uptime = uptime
        self._tells_values = tells_values
        #: Seconds that values live which are not told how long; None if they stay.
        self.lifetime = lifetime
        self._remembers_since = uptime()

    async def apply(self, batch: Batch) -> None:
        """Give every request of the batch its final answer, but for those that have to be parked.

        A transaction is in a batch of its own.

        :raises StoreUnavailable: if the store went away. Apply the same batch again later: what has its answer
            keeps it, and for the rest the log is asked first.
        """
        try:
            while batch.pending:
                first = batch.pending[0]
                if type(first.command) is TransactCommand:
                    await self._transactor.apply(batch, first, first.command)
                    batch.settle()
                else:
                    await self._round(batch)
        except BaseException:
            batch.uncertain = True
            self._forget(batch.pending)
            batch.settle()
            raise

    async def _round(self, batch: Batch) -> None:
        known_at = self._uptime()
        if known_at - self._remembers_since > KNOWLEDGE_LIFETIME:
            self.knowledge.clear()
            self._remembers_since = known_at
        heads, exact, after = await self._look_up(batch)
        if not batch.pending:
            return
        values = await self._values(batch, heads, after)
        sources = await find_sources(self.store, batch.pending)
        carried = await find_carried(self._compactable, batch.pending, heads)
        # Their heads were looked up before what is to be restored was, so that no refusal rests on them alone.
        restored: set[str] = set()
        if sources is not NO_SOURCES:
            restored = {one.command.key for one in batch.pending if type(one.command) is RestoreCommand}
            exact -= restored
        now = self._service_time()

        def decided() -> Plan:
            return make_plan(
                batch.pending,
                heads,
                exact=exact,
                now=now,
                sources=sources,
                purges=self.purges,
                values=values,
                max_value_bytes=self._max_value_bytes,
                lifetime=self.lifetime,
                carried=carried,
            )

        plan = decided()
        if plan.unproven:
            # A refusal that is recorded is for ever, so what it rests on is made sure of before. Of restores too, which
            # nothing spoke against yet: what they want may be erased only now.
            looked = plan.unproven | restored
            fresh, sources, fence = await self._look_for_sure(batch, looked)
            if len(fresh) < len(looked):
                await self.floor.look(self._service_time)
            for key in looked:
                heads[key] = fresh.get(key) or self.floor.head
            values = await self._values(batch, heads, fence)
            exact |= looked
            # At the same time as before: with another, other commands might be late, and other refusals unproven.
            plan = decided()
        if self._uptime() - known_at > DECISION_LIFETIME:
            self._forget(batch.pending)
            return
        is_part = len(plan.steps) < len(batch.pending)
        settled, after = await self._commit(batch, plan)
        await self._settle(batch, plan, settled, after, now)
        if plan.blocked is not None:
            # Nothing of this key can go on before that; everything else can.
            batch.park(plan.blocked)
            batch.hear()
        if is_part:
            await batch.let_go()

    async def _look_for_sure(
        self, batch: Batch, keys: Collection[str]
    ) -> tuple[dict[str, Head], Mapping[tuple[str, int], Event], Fence]:
        """The heads of keys behind a fence, and what is to be restored at the same moment.

        In this order, because what is restored must not come before a purge that its head does not show. Then what is
        refused for the lack of it might tell of a head from before that purge: so it is looked whether it has moved.
        """
        for last in (False,) * SURE_LOOKS + (True,):
            fence = await self.store.fence()
            heads = await self.store.heads(keys, after=fence)
            sources = await find_sources(self.store, batch.pending)
            if last or sources is NO_SOURCES:
                break
            versions = await self.store.versions(keys, after=await self.store.fence())
            if all(versions.get(key, 0) == version_of(heads.get(key)) for key in keys):
                break
        return heads, sources, fence

    async def _look_up(self, batch: Batch) -> tuple[dict[str, Head], set[str], Fence | None]:
        """Answer repeats from the log, and find the heads that decisions need, which of them are exact, and since when.

        It is since a fence, if anything has gone wrong with the batch, or was found to have expired.
        """
        doubtful = [
            request.command.id
            for request in batch.pending
            if (batch.uncertain or request.redelivered) and is_write(request.command)
        ]
        # What went wrong once is looked at behind a fence, so that neither a primary that is behind nor a key that
        # moves all the time can make it go wrong for ever.
        lapsed, batch.lapsed = batch.lapsed, set()
        self.knowledge.forget(lapsed)
        # What may have been here before may have left a lapse behind that others have not been told of.
        doubted = batch.pending if self._tells_values else ()
        again = [request for request in doubted if batch.uncertain or request.redelivered]
        after = await self.store.fence() if (batch.uncertain and doubtful) or lapsed else None
        if doubtful:
            found = await self.store.find(doubtful, after=after, with_values=self._tells_values)
            await self._answer_again(batch, batch.pending, found, after)
            batch.uncertain = False
            batch.settle()
        heads: dict[str, Head] = {}
        wanted = lapsed.union(request.command.key for request in again if request.answer is None)
        missing: set[str] = set()
        remembered = self.knowledge.head
        for request in batch.pending:
            request.redelivered = False
            if is_write(request.command) or request.sweep or (wanted and request.command.key in wanted):
                key = request.command.key
                if key in heads or key in missing:
                    continue
                head = remembered(key)
                if head is None:
                    missing.add(key)
                else:
                    heads[key] = head
        if missing:
            looked = await self.store.heads(missing, after=after)
            if len(looked) < len(missing):
                await self.floor.look(self._service_time)
            for key in missing:
                head = looked.get(key)
                if head is None:
                    heads[key] = self.floor.head
                else:
                    heads[key] = head
                    self.knowledge.learn_head(key, head)
        if again:
            await self._tell_lapses_again([request for request in again if request.answer is None], heads, after)
        return heads, missing if after is not None else set(), after

    async def _tell_lapses_again(
        self, requests: Sequence[Request], heads: Mapping[str, Head], after: Fence | None
    ) -> None:
        """Let these tell others that their keys have expired, as far as nothing has happened to the keys since."""
        # Of those on one key the first is answered first.
        first = {request.command.key: request for request in reversed(requests)}
        lapses = await find_lapses(self.store, places_at_end(heads, first), after=after)
        for (key, _), event in lapses.items():
            first[key].events = (event,)

    async def _values(self, batch: Batch, heads: Mapping[str, Head], after: Fence | None) -> Values:
        """The values that are to be patched: of the first patch always, of others as far as they come with it."""
        values: dict[tuple[str, int], State] = {}
        missing: dict[tuple[str, int], None] = {}
        for request in batch.pending:
            command = request.command
            if type(command) is PatchCommand and (head := heads[command.key]).exists:
                place = command.key, head.version
                state = self.knowledge.state(*place)
                if state is None:
                    missing[place] = None
                else:
                    values[place] = state
        while missing:
            for place, event in (await self.store.events(missing, after=after)).items():
                if event.stripped:
                    # It is long since that it was the newest one.
                    continue
                values[place] = state_of(event)
                self.knowledge.learn_state(event.key, values[place])
            first = next(iter(missing))
            if first in values:
                break
            if len(missing) == 1:
                # The newest event is always there: whoever says that it is not is behind.
                raise StoreUnavailable("an event was not found where its version was seen")
            missing = {first: None}
        return values

    async def _commit(self, batch: Batch, plan: Plan) -> tuple[int, Fence | None]:
        """Append the plan's records. Give back how many steps are settled, and the append as a fence."""
        if not plan.records:
            return len(plan.steps), None
        appended = await self.store.append(plan.records)
        outcomes = appended.outcomes
        landed = len(outcomes)
        if appended.fence is None:
            landed = next(i for i, outcome in enumerate(outcomes) if outcome is not Outcome.APPENDED)
        steps, places = plan.steps, plan.places
        learn_head, learn_state = self.knowledge.learn_head, self.knowledge.learn_state
        finders: dict[str, Request] = {}
        for number in range(landed):
            record = plan.records[number]
            # A refusal may have to wait for the value that it met.
            if type(record) is Event:
                if record.type == "purged":
                    self.purges.note([record])
                state = state_of(record)
                learn_head(record.key, head_of(record))
                learn_state(record.key, state)
                step = steps[places[number]]
                request = step.request
                if record is step.record:
                    request.answer = step.answer
                    if finders and (finder := finders.pop(record.key, request)) is not request:
                        # What found out that the key had expired may be answered later than this.
                        request.events, finder.events = finder.events, ()
                    request.events = (*request.events, record) if request.events else (record,)
                    if record.patch is not None:
                        _put_value(request, state)
                else:
                    request.events = (record,)
                    finders[record.key] = request
        if landed == len(outcomes):
            return len(steps), appended.fence
        # Whatever was decided behind the failure rests on it: look at all of it again.
        self._forget(batch.pending)
        batch.uncertain = True
        outcome = outcomes[landed]
        if outcome is Outcome.UNKNOWN:
            raise StoreUnavailable("the outcome of an append is not known yet")
        if outcome is Outcome.BLOCKED:
            plan.blocked = steps[places[landed]].request.command.key
        if isinstance(outcome, AlreadyApplied) and plan.records[landed] is steps[places[landed]].record:
            failed = steps[places[landed]].request
            await self._answer_again(batch, [failed], {failed.command.id: outcome.original}, None)
        return places[landed], None

    async def _settle(self, batch: Batch, plan: Plan, settled: int, after: Fence | None, now: int) -> None:
        """Give the steps that have none their answers, by one look behind a fence.

        :param now: the time at which all of them were decided: what had not expired then is there.
        """
        final: list[Final] = []
        reads: list[tuple[int, Step]] = []
        rejections: list[tuple[int, Step]] = []
        for number, step in enumerate(plan.steps[:settled]):
            if step.answer is None:
                reads.append((number, step))
            elif step.about_key:
                rejections.append((number, step))
            elif step.request.answer is None:
                final.append(final_of(step.request, step.answer))
        if reads or rejections:
            found, after = await self._look_behind_fence(batch, plan, settled, reads, rejections, after)
            final += found
        await self._give(batch, final, after, now)
        batch.settle()

    async def _look_behind_fence(
        self,
        batch: Batch,
        plan: Plan,
        settled: int,
        reads: list[tuple[int, Step]],
        rejections: list[tuple[int, Step]],
        after: Fence | None,
    ) -> tuple[list[Final], Fence | None]:
        """What the reads and rejections are answered with, as far as it is final, and the fence."""
        strong: set[str] = set()
        eventual: set[str] = set()
        at: dict[int, int] = {}
        for number, step in reads:
            command = step.request.command
            if plan.proved(command.key, settled):
                at[number] = version_of(step.head)
            elif type(command) is ReadCommand and command.consistency == "eventual":
                head = step.head or self.knowledge.head(command.key)
                if head is None:
                    eventual.add(command.key)
                else:
                    at[number] = head.version
            else:
                strong.add(command.key)
        keys = {step.request.command.key for _, step in rejections}
        doubtful = {key for key in keys if not plan.proved(key, settled)}
        ids = [step.request.command.id for _, step in rejections]
        looked = strong | doubtful
        if (looked or ids) and after is None:
            after = await self.store.fence()
        versions = await self.store.versions(looked, after=after) if looked else {}
        if eventual - looked:
            versions = {**await self.store.versions(eventual - looked), **versions}
        found = await self.store.find(ids, after=after, with_values=self._tells_values) if ids else {}
        await self._answer_again(batch, [step.request for _, step in rejections], found, after)
        final: list[Final] = []
        moved: dict[str, int] = {}
        for number, step in rejections:
            request, key = step.request, step.request.command.key
            if request.answer is not None or step.answer is None:
                continue
            if key in doubtful and versions.get(key, 0) != version_of(step.head):
                moved.setdefault(key, number)
            else:
                final.append(final_of(request, step.answer))
        if moved:
            # They rested on knowledge that was behind. Without an answer they are decided again, and before the
            # reads of their keys that came after them.
            self.knowledge.forget(moved)
            batch.uncertain = True
        final += [
            Final(step.request, None, at.get(number, versions.get(step.request.command.key, 0)))
            for number, step in reads
            if number < moved.get(step.request.command.key, settled)
        ]
        return final, after

    async def _answer_again(
        self, batch: Batch, requests: Sequence[Request], found: Mapping[str, Record], after: Fence | None
    ) -> None:
        """Answer those writes whose ids stand in the log from what stands there."""
        if not found:
            return
        final: list[Final] = []
        before: dict[tuple[str, int], Request] = {}
        refused: list[Request] = []
        for request in requests:
            command = request.command
            record = None if type(command) is ReadCommand else found.get(command.id)
            if record is None or type(command) is ReadCommand:
                continue
            answer = answer_again(record, command, author=request.author, digest=request.digest)
            if isinstance(record, Event) and answer["status"] == "ok" and not record.stripped:
                # Who put it there may have died before it was told to others. Once more does no harm.
                request.events = (record,)
                self.purges.note(request.events)
                if self._tells_values and (place := place_before(record)) is not None:
                    before[place] = request
            elif self._tells_values and isinstance(record, Refusal):
                refused.append(request)
            final.append(final_of(request, answer))
        for place, event in (await find_lapses(self.store, before, after=after)).items():
            before[place].events = (event, *before[place].events)
        if refused:
            heads = await self.store.heads({request.command.key for request in refused}, after=after)
            await self._tell_lapses_again(refused, heads, after)
        await self._give(batch, final, after)

    async def _give(self, batch: Batch, answers: Sequence[Final], after: Fence | None, now: int = 0) -> None:
        """Hand out answers that are final, with the values that belong into them.

        An answer is given whole or not at all, so that a request which has one is done. Values are fetched by one
        query, unless they are more than the database puts into one reply. Answers leave as their values come.

        :param now: what had expired by then is not read but left for the next round, which puts that into the log.
        """
        waiting: dict[tuple[str, int], list[Final]] = {}
        for final in answers:
            if final.version:
                waiting.setdefault((final.request.command.key, final.version), []).append(final)
            else:
                final.request.answer = final.answer or read_answer(None, 0)
        if not waiting:
            return
        if after is None and any(final.answer is not None for final in answers):
            after = await self.store.fence()
        size = 0
        for place in list(waiting):
            state = self.knowledge.state(*place)
            if state is not None:
                size = await self._fill(batch, waiting.pop(place), state, size, now)
        while waiting:
            events = await self.store.events(waiting.keys(), after=after)
            # What was the newest one when it was looked for is stripped a minute after it is not any more: a long wait.
            events = {place: event for place, event in events.items() if not event.stripped}
            if not events:
                break
            for place in list(events):
                state = state_of(events.pop(place))
                self.knowledge.learn_state(place[0], state)
                size = await self._fill(batch, waiting.pop(place), state, size, now)
        for finals in waiting.values():
            for final in finals:
                if final.answer is None:
                    # The newest event is always there: whoever says that it is not is behind.
                    raise StoreUnavailable("an event was not found where its version was seen")
                final.request.answer = final.answer

    async def _fill(self, batch: Batch, finals: list[Final], state: State, size: int, now: int) -> int:
        """Put one state into the answers that it belongs into. Gives back the bytes of values given so far."""
        lapsed = state.expires is not None and state.exists and state.expires <= now
        for final in finals:
            if final.answer is None:
                command = final.request.command
                if lapsed and type(command) is ReadCommand:
                    if command.consistency == "strong":
                        batch.lapsed.add(command.key)
                    else:
                        final.request.answer = read_answer(None, final.version)
                    continue
                final.request.answer = read_answer(state, final.version)
            elif final.answer["status"] == "ok":
                final.request.answer = final.answer
                _put_value(final.request, state)
            elif state.exists:
                error = {**final.answer["error"], "current": orjson.Fragment(state.value)}
                final.request.answer = {**final.answer, "error": error}
            else:
                final.request.answer = final.answer
            final.request.answer_size = len(state.value)
            size += len(state.value)
            if size >= SLICE_BYTES:
                await batch.let_go()
                size = 0
        return size

    def _forget(self, requests: Sequence[Request]) -> None:
        self.knowledge.forget(key for request in requests for key in request.keys or (request.command.key,))

    def now(self) -> int:
        """Service time in milliseconds."""
        return self._service_time()

    async def history(self, key: str, **page: Any) -> tuple[list[HistoryEntry], int | None]:
        """A page of a key's events, and where the next one begins: see :class:`Page`, whose fields these are.

        :raises StoreUnavailable: if the store cannot be reached.
        """
        return await read_page(self.store, Page(key, **page), self.purges)


def version_of(head: Head | None) -> int:
    """The version of a key's newest event, 0 if it has none: then its head tells where it would begin."""
    return head.version if head is not None and head.id else 0


def _put_value(request: Request, state: State) -> None:
    """Add the value that came of a patch to its answer, if it was asked for."""
    if request.answer is not None and wants_value(request.command):
        request.answer = {**request.answer, "value": orjson.Fragment(state.value)}
        request.answer_size = len(state.value)


def final_of(request: Request, answer: Answer) -> Final:
    """The answer to a write: a conflict brings the value that it met, and a patch the one that came of it, to those
    who asked for it.
    """
    command = request.command
    if type(command) is ReadCommand:
        return Final(request, answer, 0)
    curious = command.return_current if answer["status"] == "conflict" else wants_value(command)
    return Final(request, answer, answer["version"] if curious and answer.get("exists") else 0)
