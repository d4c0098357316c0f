"""A plan: every command of a batch decided in order, against what is known and the batch's own earlier decisions.

Plain functions: no I/O. Whether a plan comes true is decided by the append alone.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from ..events import Event, ReadCommand, Record, RestoreCommand, TransactCommand
from ..stores import Head
from .batch import Request
from .decide import NEVER, Answer, answer_to, decide, expiry, head_of, refusal
from .purges import Purges

NO_SOURCES: Final[Mapping[tuple[str, int], Event]] = MappingProxyType({})
NO_PURGES: Final = Purges()


@dataclass(slots=True)
class Step:
    """One request of a plan."""

    request: Request
    #: Final if the step's record is appended, or, without one, if the head turns out to be exact.
    answer: Answer | None = None
    #: What it was decided against; None for a read of a key that nothing is known of.
    head: Head | None = None
    #: What it puts into the log.
    record: Record | None = None
    #: A rejection without record that rests on the state of the key.
    about_key: bool = False


@dataclass(slots=True)
class Plan:
    """Steps in order, and what they put into the log."""

    steps: list[Step] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    #: For each record, the number of its step.
    places: list[int] = field(default_factory=list)
    #: The first step that appends an event of the key.
    first_write: dict[str, int] = field(default_factory=dict)
    #: Keys whose head was known exactly before anything was decided.
    exact: Container[str] = ()
    #: Keys with a rejection to be recorded that nothing has proved yet: they need a fenced look first.
    unproven: set[str] = field(default_factory=set)
    #: The key whose record somebody's open transaction did not let in.
    blocked: str | None = None

    def proved(self, key: str, settled: int) -> bool:
        """Whether it is sure that the steps before ``settled``, which are done, saw the key as it was.

        It is if the key was known exactly from the start, or if its first own event landed: that proves what those
        in front of it saw, and what those behind it saw was true at that moment.
        """
        return key in self.exact or self.first_write.get(key, settled) < settled


def make_plan(
    requests: Sequence[Request],
    heads: Mapping[str, Head],
    *,
    exact: Container[str],
    now: int,
    sources: Mapping[tuple[str, int], Event] = NO_SOURCES,
    purges: Purges = NO_PURGES,
) -> Plan:
    """Decide all requests in order.

    :param heads: the newest event of every key that is to be written, as far as it is known.
    :param exact: keys whose head is known from behind a fence, while these requests were waiting.
    :param now: service time in milliseconds.
    :param sources: events from before whose values are to be restored.
    :param purges: what is in the log of these, and not done yet.
    """
    plan = Plan(exact=exact)
    own: dict[str, Head] = {}
    steps, records, places = plan.steps, plan.records, plan.places
    for request in requests:
        command = request.command
        key = command.key
        head = own.get(key)
        if isinstance(command, ReadCommand):
            late = expiry(command, now)
            steps.append(Step(request, late, None if late else head or heads.get(key)))
            continue
        if isinstance(command, TransactCommand):
            raise TypeError("a transaction is in no batch with others")
        if head is None:
            head = heads.get(key, NEVER)
        author, digest = request.author, request.digest
        source = _source_of(command, head, sources, records, purges) if isinstance(command, RestoreCommand) else None
        decision = decide(command, head, now=now, author=author, digest=digest, source=source)
        if isinstance(decision, Event):
            own[key] = head_of(decision)
            plan.first_write.setdefault(key, len(steps))
            places.append(len(steps))
            records.append(decision)
            steps.append(Step(request, answer_to(decision), head, decision))
        elif decision.recorded:
            if decision.about_key and key not in own and key not in exact:
                plan.unproven.add(key)
            record = refusal(command, decision, now=now, author=author, digest=digest)
            places.append(len(steps))
            records.append(record)
            steps.append(Step(request, decision.answer, head, record))
        else:
            steps.append(Step(request, decision.answer, head, about_key=decision.about_key))
    return plan


def _source_of(
    command: RestoreCommand,
    head: Head,
    sources: Mapping[tuple[str, int], Event],
    records: Sequence[Record],
    purges: Purges,
) -> Event | None:
    """The event that a restore takes its value from. It may be one that this very batch makes, or purges."""
    place = (command.key, command.at_version)
    own = [record for record in records if isinstance(record, Event) and record.key == command.key]
    source = sources.get(place) or next((event for event in own if event.version == command.at_version), None)
    if source is None:
        return None
    planned = Purges()
    planned.note(own)
    # Where a later purge is known of than the head, the head is behind: what is decided on it does not land.
    return planned.hide(purges.hide(source, head.version))
