"""A plan: every command of a batch decided in order, against what is known and the batch's own earlier decisions.

Plain functions: no I/O. Whether a plan comes true is decided by the append alone.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import orjson

from ..events import Event, PatchCommand, ReadCommand, Record, RestoreCommand, TransactCommand
from ..events.limits import DEFAULT_MAX_VALUE_BYTES
from ..stores import Head
from .batch import Request
from .decide import NEVER, Answer, answer_to, decide, expiry, head_of, refusal
from .knowledge import State
from .lapse import LOOKED_AT, has_lapsed, lapse
from .patching import ABSENT, Effort
from .purges import Purges

NO_SOURCES: Final[Mapping[tuple[str, int], Event]] = MappingProxyType({})
NO_PURGES: Final = Purges()

#: A plan ends when its patches have read and made so many bytes of values, or touched so many members of arrays and
#: objects: the commands of a batch are no measure of what they do.
MAX_PATCH_EFFORT: Final = 4 * 1024 * 1024

#: Values by key and version.
Values = Mapping[tuple[str, int], State]


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

    #: Of the first requests; of the others too, unless their patches would be too much, or lack the values they change.
    steps: list[Step] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    #: For each record, the number of its step. A step may have one more in front of its own: that its key has expired.
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
    values: Values | None = None,
    max_value_bytes: int = DEFAULT_MAX_VALUE_BYTES,
    lifetime: int | None = None,
    carried: Container[str] = (),
) -> Plan:
    """Decide requests in order: all of them, but for patches that have to wait.

    A key whose time has come is made absent first, by an event of its own, whatever is asked of it; but for an
    eventual read, which leaves nothing behind.

    :param heads: the newest event of every key that is to be written, as far as it is known.
    :param exact: keys whose head is known from behind a fence, while these requests were waiting.
    :param now: service time in milliseconds.
    :param sources: events from before whose values are to be restored.
    :param purges: what is in the log of these, and not done yet.
    :param values: of the keys that are to be patched, as far as they are there.
    :param max_value_bytes: of what comes of a patch.
    :param lifetime: seconds that values live which are not told how long; None if they stay.
    :param carried: keys that are to be purged and have no event, but messages of transactions.
    """
    plan = Plan(exact=exact)
    own: dict[str, Event] = {}
    effort = Effort()
    steps, records, places = plan.steps, plan.records, plan.places
    for request in requests:
        command = request.command
        key = command.key
        event = own.get(key)
        head = heads.get(key) if event is None else head_of(event)
        if type(command) is ReadCommand and (late := expiry(command, now)):
            steps.append(Step(request, late))
            continue
        if head is not None and head.expires is not None and has_lapsed(head, now) and not _is_eventual(request):
            event = own[key] = lapse(key, head)
            head = head_of(event)
            plan.first_write.setdefault(key, len(steps))
            places.append(len(steps))
            records.append(event)
        if type(command) is ReadCommand:
            steps.append(Step(request, LOOKED_AT if request.sweep else None, head))
            continue
        if type(command) is TransactCommand:
            raise TypeError("a transaction is in no batch with others")
        if head is None:
            head = NEVER
        value = ABSENT
        if type(command) is PatchCommand and head.exists:
            if effort.spent >= MAX_PATCH_EFFORT:
                break
            if event is not None:
                value = event.value
            elif values is not None and (state := values.get((key, head.version))) is not None:
                value = orjson.loads(state.value)
                effort.spent += len(state.value)
            else:
                break
        author, digest = request.author, request.digest
        source = _source_of(command, head, sources, records, purges) if type(command) is RestoreCommand else None
        decision = decide(
            command,
            head,
            now=now,
            author=author,
            digest=digest,
            source=source,
            value=value,
            max_value_bytes=max_value_bytes,
            effort=effort,
            lifetime=lifetime,
            carried=carried,
        )
        if isinstance(decision, Event):
            own[key] = decision
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


def _is_eventual(request: Request) -> bool:
    command = request.command
    return type(command) is ReadCommand and command.consistency == "eventual"
