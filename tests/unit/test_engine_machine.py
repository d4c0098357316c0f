"""Any number of workers on one log, with everything going wrong that can, against a model that is a few rules."""

from collections import defaultdict
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from support.commands import (
    NOW,
    Answer,
    Operation,
    delete,
    first,
    increment,
    patch,
    purge,
    read,
    request,
    restore,
    save,
    wire,
)
from support.turns import Fault, Turn, TurnStore, at_once

from holdfast.events import (
    Event,
    Mutation,
    PatchCommand,
    PurgeCommand,
    ReadCommand,
    Refusal,
    RestoreCommand,
    SaveCommand,
    StoreUnavailable,
    TransactCommand,
    make_etag,
)
from holdfast.worker import Batch, Engine, Request

KEYS = ["a", "b"]
WORKERS = 3


@dataclass(frozen=True)
class Wish:
    """A command to be, before it is known which etags there are."""

    op: str
    key: str
    pick: int
    in_time: bool
    reuse: bool


wishes = st.builds(
    Wish,
    op=st.sampled_from(
        [
            *("save", "save ttl", "first", "save etag", "delete", "delete etag", "increment", "test"),
            *("restore", "restore etag", "purge", "read", "eventual"),
        ]
    ),
    key=st.sampled_from(KEYS),
    pick=st.integers(0, 6),
    in_time=st.sampled_from([True] * 5 + [False]),
    reuse=st.sampled_from([False] * 15 + [True]),
)
faults = st.sampled_from([Fault.NONE] * 6 + [fault for fault in Fault if fault is not Fault.NONE])


@dataclass(eq=False)
class Told:
    """One delivery of one command, and what its sender was told."""

    request: Request
    #: When the command was first sent, and when this delivery of it came to a worker.
    sent: int
    taken: int
    #: Service time at that moment.
    millis: int = 0
    answer: Answer = field(default_factory=dict)
    answered: int = 0


@dataclass(eq=False)
class Work:
    """A batch at a worker: it waits for its turn at the store."""

    worker: int
    batch: Batch
    told: list[Told]
    running: Coroutine[Turn, Fault, None] | None = None
    waiting: Turn | None = None


class Workers(RuleBasedStateMachine):
    """Deliver, let one call of one batch go on, with or without a fault, and again."""

    @initialize()
    def begin(self) -> None:
        self.time = 0
        self.millis = NOW
        self.store = TurnStore(self._tick)
        at_once(self.store.open())
        self.engines = [self._engine() for _ in range(WORKERS)]
        self.work: list[Work] = []
        self.told: list[Told] = []
        self.undisturbed: set[Work] = set()
        self.first_sent: dict[tuple[str, bytes], int] = {}

    def _tick(self) -> int:
        self.time += 1
        return self.time

    def _engine(self) -> Engine:
        # Little memory, so that keys are forgotten now and then.
        return Engine(
            self.store, service_time=lambda: self.millis, uptime=lambda: 0.0, head_bytes=1000, state_bytes=1500
        )

    def _command(self, wish: Wish) -> Operation:
        events = [record for record in self.store.log if isinstance(record, Event) and record.key == wish.key]
        etags = ["9-00000000", "", *[event.etag for event in events][-4:]]
        more: dict[str, Any] = {"deadline": None if wish.in_time else self.millis + 500}
        if wish.reuse and self.told:
            more["id"] = self.told[-1 - wish.pick % len(self.told)].request.command.id
        match wish.op:
            case "save":
                return save(wish.key, wish.pick, **more)
            case "save ttl":
                return save(wish.key, wish.pick, ttl_seconds=1, **more)
            case "increment":
                # What it asks for goes with what it is, since repeats are to be told the same.
                ttl = 2 if wish.pick == 6 else None
                return increment(wish.key, wish.pick, return_value=wish.pick > 3, ttl_seconds=ttl, **more)
            case "test":
                return patch(wish.key, "json-patch", TEST, return_current=True, **more)
            case "first":
                return first(wish.key, wish.pick, return_current=wish.pick > 3, **more)
            case "save etag":
                return save(wish.key, wish.pick, etag=etags[-1 - wish.pick % len(etags)], return_current=True, **more)
            case "delete":
                return delete(wish.key, **more)
            case "delete etag":
                return delete(wish.key, etag=etags[-1 - wish.pick % len(etags)], **more)
            case "restore":
                # One that is about to be, now and then.
                return restore(wish.key, 1 + wish.pick % (len(events) + 2), **more)
            case "restore etag":
                return restore(wish.key, 1 + wish.pick % 3, etag=etags[-1 - wish.pick % len(etags)], **more)
            case "purge":
                return purge(wish.key, **more)
            case "read":
                return read(wish.key)
            case _:
                return read(wish.key, consistency="eventual")

    # -- what happens

    @rule(worker=st.integers(0, WORKERS - 1), wanted=st.lists(wishes, min_size=1, max_size=5))
    def deliver(self, worker: int, wanted: list[Wish]) -> None:
        """New commands come to a worker as one batch."""
        self._take(worker, [request(self._command(wish)) for wish in wanted])

    @precondition(lambda self: self.told)
    @rule(
        worker=st.integers(0, WORKERS - 1),
        again=st.lists(st.integers(0, 5), min_size=1, max_size=3),
        also=st.lists(wishes, max_size=2),
        by_broker=st.booleans(),
    )
    def redeliver(self, worker: int, again: list[int], also: list[Wish], by_broker: bool) -> None:
        """Commands come again, to any worker, by the broker or by their senders, perhaps among new ones."""
        known = [self.told[-1 - pick % len(self.told)].request for pick in again]
        repeats = [request(old.command, redelivered=by_broker) for old in known]
        self._take(worker, repeats + [request(self._command(wish)) for wish in also])

    def _take(self, worker: int, requests: list[Request]) -> None:
        now = self._tick()
        told = [
            Told(each, self.first_sent.setdefault((each.command.id, each.digest), now), now, self.millis)
            for each in requests
        ]
        self.told += told
        self.work.append(Work(worker, Batch.of(requests), told))
        self.undisturbed.add(self.work[-1])

    @precondition(lambda self: self.work)
    @rule(turns=st.lists(st.tuples(st.integers(0, 7), faults, st.integers(1, 12)), min_size=1, max_size=12))
    def go_on(self, turns: list[tuple[int, Fault, int]]) -> None:
        """Batches go on by one call to the store at a time, in any order."""
        for pick, fault, lag in turns:
            if self.work:
                self.store.lag = lag
                self._go_on(self.work[pick % len(self.work)], fault)

    def _go_on(self, work: Work, fault: Fault) -> None:
        self._tick()
        try:
            if work.running is None:
                work.running = self.engines[work.worker].apply(work.batch)
                work.waiting = work.running.send(None)  # type: ignore[arg-type]  # the first one starts it
            else:
                work.waiting = work.running.send(fault)
        except StopIteration:
            self._answer(work)
        except StoreUnavailable:
            # The lane applies the same batch again. A write may have landed by now, and the read in front of it not
            # been answered: then the read shows what is there later.
            work.running = None
            self.undisturbed.discard(work)
        else:
            return
        assert all(each.answer is not None for each in self._done(work)), "done without an answer"

    def _done(self, work: Work) -> list[Request]:
        return [] if work in self.work else [told.request for told in work.told]

    def _answer(self, work: Work) -> None:
        self.work.remove(work)
        now = self._tick()
        for told in work.told:
            told.answer, told.answered = wire(told.request.answer), now

    @precondition(lambda self: self.work)
    @rule(pick=st.integers(0, 7), to=st.integers(0, WORKERS - 1), dies=st.booleans())
    def lose(self, pick: int, to: int, dies: bool) -> None:
        """A worker loses its connection, or dies, in the middle; its batch comes to another one."""
        work = self.work.pop(pick % len(self.work))
        if work.running is not None:
            work.running.close()
        if dies:
            self.engines[work.worker] = self._engine()
        else:
            self.engines[work.worker].knowledge.clear()
        self._take(to, [request(told.request.command, redelivered=True) for told in work.told])

    @precondition(lambda self: self.store.zombies)
    @rule(pick=st.integers(0, 3), count=st.integers(1, 5))
    def arrive(self, pick: int, count: int) -> None:
        """An append that was given up arrives, in part or as a whole."""
        self._arrive(pick, count)

    def _arrive(self, pick: int, count: int) -> None:
        zombies = self.store.zombies
        at_once(self.store.wake(zombies[pick % len(zombies)], count))

    @rule()
    def pass_time(self) -> None:
        """Deadlines pass."""
        self.millis += 400

    # -- what must hold

    def teardown(self) -> None:
        """All goes well from here on; then everything is delivered once more to a worker that knows nothing."""
        try:
            self._finish()
            self._check()
        finally:
            for work in self.work:
                if work.running is not None:
                    work.running.close()

    def _finish(self) -> None:
        for turn in range(5000):
            if not self.work:
                break
            if self.store.zombies and turn % 3 == 0:
                self._arrive(0, 2)
            self._go_on(self.work[turn % len(self.work)], Fault.NONE)
        assert not self.work, "no progress although nothing goes wrong"
        while self.store.zombies:
            self._arrive(0, 2)
        repeats = [request(told.request.command) for told in self.told if not is_read(told)]
        self.engines[0] = self._engine()
        for repeat in repeats:
            self._take(0, [repeat])
            while self.work:
                self._go_on(self.work[0], Fault.NONE)

    def _check(self) -> None:
        histories = self._check_log()
        by_command: defaultdict[tuple[str, bytes], list[Told]] = defaultdict(list)
        for told in self.told:
            if told.answered:
                by_command[told.request.command.id, told.request.digest].append(told)
                self._check_answer(told, histories[told.request.command.key])
        # Of a command that came once it can be told at which place of its batch it took effect.
        once = {key for key, deliveries in by_command.items() if len(deliveries) == 1 + bool(key[1])}
        for work in self.undisturbed:
            told_once = [told for told in work.told if (told.request.command.id, told.request.digest) in once]
            self._check_order([told for told in told_once if told.answered])
        reused = repeated(command_id for command_id, digest in by_command if digest)
        for (command_id, digest), deliveries in by_command.items():
            if digest:
                self._check_repeats(deliveries, reused=command_id in reused)

    def _check_log(self) -> defaultdict[str, list[Event]]:
        """Versions without gaps, an id once, and each event by the rules for the one before it."""
        assert not repeated(record.id for record in self.store.log)
        histories: defaultdict[str, list[Event]] = defaultdict(list)
        for record in self.store.log:
            if isinstance(record, Event):
                histories[record.key].append(record)
        for events in histories.values():
            assert [event.version for event in events] == list(range(1, len(events) + 1))
            for before, event in pairwise([None, *events]):
                assert event is not None
                check_expiry(before, event)
        return histories

    def _check_answer(self, told: Told, events: list[Event]) -> None:
        answer, command = told.answer, told.request.command
        status = answer["status"]
        in_log = [record for record in self.store.log if record.id == command.id]
        ours = [record for record in in_log if record.digest == told.request.digest]
        if isinstance(command, ReadCommand):
            self._check_read(told, command, events)
        elif status == "ok" and answer["changed"]:
            [event] = ours
            assert isinstance(event, Event)
            assert (event.version, event.exists, event.time) == (
                answer["version"],
                answer["exists"],
                answer["updated_at"],
            )
            assert answer["etag"] == (event.etag if event.exists else None)
            assert answer.get("expires") == event.expires
            assert told.sent < self.store.landed[event.id] < told.answered
            before = events[event.version - 2] if event.version > 1 else None
            assert not isinstance(command, TransactCommand)
            assert allows(command, before, events)
            if isinstance(command, RestoreCommand):
                assert event.value == events[command.at_version - 1].value
            if isinstance(command, PatchCommand):
                assert event.value == outcome_of(command, before)
                assert answer.get("value") == (event.value if command.return_value else None)
        elif status == "invalid":
            assert in_log
            assert not ours
        else:
            # Refused, or nothing to do: it never took effect, at no time.
            assert not any(isinstance(record, Event) for record in ours)
            if status == "expired":
                assert isinstance(ours[0], Refusal)
            else:
                assert not isinstance(command, TransactCommand)
                self._check_refusal(told, command, events)

    def _check_refusal(self, told: Told, command: Mutation, events: list[Event]) -> None:
        """There was a moment, between sending and answering, at which the answer was right."""
        version = told.answer["version"]
        assert self._was_newest(version, events, told.sent, told.answered)
        state = events[version - 1] if version else None
        # What came before a purge is gone for whoever has the purge in hand. That is not so for every worker here.
        assert not allows(command, state, events, erased=True)
        if told.answer["status"] == "conflict":
            error = told.answer["error"]
            there = state is not None and state.exists
            assert error["expected"] == command.etag
            assert error["actual"] == (state.etag if state is not None and there else None)
            assert error["winner"] == (state.id if state is not None else None)
            assert ("current" in error) == (there and command.return_current)
            assert state is None or not there or error.get("current", state.value) == state.value

    def _check_read(self, told: Told, command: ReadCommand, events: list[Event]) -> None:
        version = told.answer["version"]
        since = told.taken if command.consistency == "strong" else 0
        assert self._was_newest(version, events, since, told.answered)
        event = events[version - 1] if version else None
        there = event is not None and event.exists
        expires = None if event is None else event.expires
        if command.consistency == "eventual" and expires is not None and not told.answer["exists"]:
            # It tells of an expiry by the clock alone.
            there = there and expires > self.millis
        if there and expires is not None:
            assert expires > told.millis, "it came after that time"
        assert told.answer["exists"] == there
        assert told.answer.get("value") == (event.value if event is not None and there else None)
        assert told.answer["etag"] == (event.etag if event is not None and there else None)

    def _was_newest(self, version: int, events: list[Event], since: int, until: int) -> bool:
        """Whether this was the newest version at some moment of that time."""
        landed = [0] + [self.store.landed[event.id] for event in events]
        return landed[version] < until and (version == len(events) or landed[version + 1] > since)

    def _check_repeats(self, deliveries: list[Told], *, reused: bool) -> None:
        """Each delivery of a command was told the same.

        A mismatch is not recorded. So its details may move on with the key, and of two workers that have the command
        at one time, past its deadline, one may tell the mismatch while the other one records that it is late.
        """
        answers = [told.answer for told in deliveries]
        ours = deliveries[0].request
        records = [each for each in self.store.log if each.id == ours.command.id and each.digest == ours.digest]
        mismatches = [
            answer for answer in answers if answer["status"] == "conflict" and answer["error"]["expected"] is not None
        ]
        if not records:
            assert reused or mismatches == answers, answers
            return
        if isinstance(records[0], Refusal) and records[0].answer["status"] == "expired":
            answers = [answer for answer in answers if answer not in mismatches]
        assert all(answer == answers[0] for answer in answers), answers

    def _check_order(self, batch: list[Told]) -> None:
        """Commands on one key took effect in the order of their batch."""
        seen: defaultdict[str, int] = defaultdict(int)
        for told in batch:
            command, answer = told.request.command, told.answer
            if "version" not in answer or (isinstance(command, ReadCommand) and command.consistency == "eventual"):
                continue
            wrote = answer.get("changed") is True
            assert answer["version"] >= seen[command.key] + wrote, [each.answer for each in batch]
            seen[command.key] = answer["version"]


def is_read(told: Told) -> bool:
    return isinstance(told.request.command, ReadCommand)


def repeated(ids: Iterable[str]) -> set[str]:
    """What is there more than once."""
    seen: set[str] = set()
    return {each for each in ids if each in seen or seen.add(each)}  # type: ignore[func-returns-value]


def check_expiry(before: Event | None, event: Event) -> None:
    """What expires does so once, at its time, and nothing is written on top of it without that."""
    expires = before.expires if before is not None and before.exists else None
    if event.type == "expired":
        assert event.time == expires
    else:
        assert expires is None or event.time < expires


#: Fits the value 3, and no other.
TEST: list[Any] = [{"op": "test", "path": "", "value": 3}, {"op": "replace", "path": "", "value": 4}]


def outcome_of(command: PatchCommand, state: Event | None) -> int:
    """What comes of a patch."""
    value: int = state.value if state is not None and state.exists else 0
    return 4 if command.kind == "json-patch" else value + int(command.patch[""])


def allows(command: Mutation, state: Event | None, events: list[Event], *, erased: bool = False) -> bool:
    """The table: whether a command changes a key in that state. The events are all that the key ever has.

    :param erased: what came before a purge has no value any more.
    """
    exists = state is not None and state.exists
    if command.etag is not None and not (
        state is not None and exists and command.etag == make_etag(state.version, state.id)
    ):
        return False
    if isinstance(command, RestoreCommand):
        past = events[: state.version] if state is not None else []
        purged = max((event.version for event in past if event.type == "purged"), default=0) if erased else 0
        return any(event.version == command.at_version > purged and event.exists for event in past)
    if command.etag is not None:
        return True
    if isinstance(command, PatchCommand):
        return command.kind == "increment" or (state is not None and exists and state.value == 3)
    if isinstance(command, SaveCommand):
        return not (exists and command.concurrency == "first-write")
    return exists or (isinstance(command, PurgeCommand) and state is not None)


Workers.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestWorkers = Workers.TestCase
