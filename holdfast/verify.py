"""Checking a log: is every rule kept on which Holdfast's promises rest?

Nothing is written, and nothing is kept in memory but a page of records at a time. Workers may go on writing meanwhile:
what is in the log never changes, so that only what is looked at matters, and not when.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_random_exponential

from .events import Event, Receipt, Record, Refusal, StoreError, StoreUnavailable
from .rules import (
    Fault,
    Identity,
    Rule,
    Succession,
    answer_fault,
    answer_places,
    current_fault,
    malformed_fault,
    place_of,
    winner_of,
)
from .stores import EventPage, Fence, Head, InspectableStore, Malformed, RecordPage
from .wholeness import Wholeness, orphan_fault, receipt_faults, receipt_places

#: Faults that are kept; all are counted.
DEFAULT_MAX_FAULTS: Final = 100

#: A change of primaries takes some seconds, and is nothing to give up for.
_patiently = retry(
    retry=retry_if_exception_type(StoreUnavailable),
    wait=wait_random_exponential(multiplier=0.2, max=2),
    stop=stop_after_delay(20),
    reraise=True,
)

#: Told of the records that were looked at so far, and about how many there are; each counts twice.
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Report:
    """What was looked at and what was found."""

    store: str
    max_faults: int = DEFAULT_MAX_FAULTS
    events: int = 0
    refusals: int = 0
    transactions: int = 0
    #: Keys that have an event, and those of them that are there.
    keys: int = 0
    present: int = 0
    #: How often each rule is broken.
    broken: Counter[Rule] = field(default_factory=Counter)
    #: The first of the faults.
    faults: list[Fault] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.broken

    def add(self, faults: Iterable[Fault]) -> None:
        """Take faults in."""
        for fault in faults:
            self.broken[fault.rule] += 1
            if len(self.faults) < self.max_faults:
                self.faults.append(fault)

    def to_json(self) -> dict[str, Any]:
        """All of it as plain data."""
        data = asdict(self)
        del data["max_faults"]
        return {**data, "sound": self.sound, "broken": {rule.value: count for rule, count in self.broken.items()}}


async def verify(
    store: InspectableStore,
    name: str,
    *,
    max_faults: int = DEFAULT_MAX_FAULTS,
    progress: Progress | None = None,
) -> Report:
    """Check the log of a store that is open.

    :param name: the store's name, as commands give it.
    :raises StoreUnavailable: if the database cannot be reached; then nothing is known.
    """
    return await _Verification(store, Report(name, max_faults), progress).run()


class _Verification:
    """One look at one log."""

    def __init__(self, store: InspectableStore, report: Report, progress: Progress | None) -> None:
        self._store = store
        self._inspection = store.inspection()
        self._report = report
        self._progress = progress
        self._succession = Succession(report.store)
        self._identity = Identity()
        self._wholeness = Wholeness()
        #: Whether the store answers what workers ask.
        self._answers = True
        #: A key of which a newer event is malformed: no lookup is right for it.
        self._spoilt: str | None = None
        self._done = 0
        self._total = 0

    async def run(self) -> Report:
        report = self._report
        self._total = 2 * await self._inspection.count()
        definition = await self._inspection.definition_faults()
        report.add(Fault(Rule.DEFINITION, message) for message in definition)
        try:
            async for events in self._inspection.events():
                await self._look_at_events(events)
        except StoreUnavailable as error:
            # Without its index a large log cannot be read in order in the time that one command has.
            if definition:
                raise StoreUnavailable(f"{'; '.join(definition)}; {error}") from error
            raise
        await self._look_at_mark()
        report.add(self._succession.finish())
        report.keys = self._succession.keys
        async for records in self._inspection.records():
            await self._look_at_records(records)
        report.add(self._wholeness.finish())
        return report

    async def _look_at_mark(self) -> None:
        """After events were read: what is missing among them was noted before it was dropped."""
        self._succession.mark = await self._inspection.mark()

    async def _look_at_events(self, page: EventPage) -> None:
        report = self._report
        newest: dict[str, Event] = {}
        await self._look_at_mark()
        for event in page.events:
            if isinstance(event, Malformed):
                report.add([malformed_fault(event)])
                self._spoilt = event.key
            else:
                report.events += 1
                if self._succession.begins(event):
                    report.present += event.exists
                    if event.key != self._spoilt:
                        newest[event.key] = event
            report.add(self._succession.step(event))
        report.add(await self._current_faults(newest, page.after))
        self._advance(len(page.events))

    async def _look_at_records(self, page: RecordPage) -> None:
        report = self._report
        report.add(self._identity.step(page.ids))
        report.add(malformed_fault(record) for record in page.others if isinstance(record, Malformed))
        refusals = [record for record in page.others if isinstance(record, Refusal)]
        report.refusals += len(refusals)
        ids, places = answer_places(refusals)
        found = await self._inspection.find(ids, page.after)
        by_transactions = [one for one in refusals if isinstance(found.get(winner_of(one)), Receipt)]
        places |= {place for one in by_transactions if (place := place_of(one)) is not None}
        receipts = {record.id: record for record in page.others if isinstance(record, Receipt)}
        report.transactions += len(receipts)
        mark = await self._inspection.mark() if refusals or receipts else self._succession.mark
        # Of older ones events may have been dropped, one key's before another's.
        whole = {id_: receipt for id_, receipt in receipts.items() if receipt.time >= mark.horizon}
        places |= receipt_places(whole.values())
        events = await self._inspection.at(places, page.after)
        faults = (answer_fault(refusal, found, events, mark) for refusal in refusals)
        report.add(fault for fault in faults if fault is not None)
        for receipt in whole.values():
            report.add(receipt_faults(receipt, events, floor=mark.floor))
        report.add(self._wholeness.step(page.ids, whole))
        report.add(await self._orphan_faults(page.after))
        # An event was looked at before; what is none is done with at once.
        self._advance(len(page.ids) + len(page.others))

    async def _orphan_faults(self, after: Fence) -> list[Fault]:
        """Events of transactions whose receipts were not seen before them: they may have come meanwhile, together."""
        orphans = self._wholeness.take_orphans()
        found = await self._inspection.find({orphan.id for orphan in orphans}, after) if orphans else {}
        faults = (orphan_fault(orphan, found.get(orphan.id)) for orphan in orphans)
        return [fault for fault in faults if fault is not None]

    async def _current_faults(self, newest: Mapping[str, Event], after: Fence) -> list[Fault]:
        """Where lookups say another thing than the log. They may be ahead of what was looked at, never behind."""
        if not newest or not self._answers:
            return []
        try:
            heads, versions = await self._look_up(newest.keys(), after)
        except StoreUnavailable:
            raise
        except StoreError as error:
            # Without its index, for instance. Once is enough.
            self._answers = False
            return [Fault(Rule.CURRENT, f"lookups are not answered: {error}")]
        moved = {head.id for key, head in heads.items() if head.version > newest[key].version}
        found = await self._inspection.find(moved, after)
        faults: list[Fault] = []
        for key, event in newest.items():
            head = heads.get(key)
            if head is None and not event.exists and event.version <= self._succession.mark.floor:
                # Compaction has dropped the key in the meantime.
                continue
            holds: Record | Malformed | None = event
            if head is not None and head.version > event.version:
                holds = found.get(head.id)
                if isinstance(holds, Receipt):
                    place = key, head.version
                    holds = (await self._inspection.at([place], after)).get(place)
            message = current_fault(event, holds, head, versions.get(key, 0))
            if message is not None:
                faults.append(Fault(Rule.CURRENT, message, key, event.version, event.id))
        return faults

    @_patiently
    async def _look_up(self, keys: Collection[str], after: Fence) -> tuple[dict[str, Head], dict[str, int]]:
        return await self._store.heads(keys, after=after), await self._store.versions(keys, after=after)

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            # Records that were written meanwhile have not been counted.
            self._progress(self._done, max(self._done, self._total))
