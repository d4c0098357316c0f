"""The rule of transactions in a log: each is there as a whole, or not at all. Plain functions of its records."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from .events import Event, Receipt, Record
from .rules import Fault, Rule
from .stores import Malformed, Place


class Wholeness:
    """Follows ids and positions in order. A receipt comes before its events, which were written in one step with it."""

    def __init__(self) -> None:
        self._id: str | None = None
        #: The receipt that was seen under this id, if one was.
        self._receipt: Receipt | None = None
        self._position = 0
        self._orphans: list[Place] = []

    def step(self, places: Sequence[Place], receipts: Mapping[str, Receipt]) -> Iterator[Fault]:
        """Take the next ids in, and say which transactions lack events.

        :param receipts: those among them, by id.
        """
        for place in places:
            if place.id != self._id or (place.position == 0 and self._position > 0):
                yield from self.finish()
                self._id, self._position = place.id, 0
                self._receipt = receipts.get(place.id) if place.position == 0 else None
            if place.position == 0:
                continue
            if self._receipt is None:
                self._orphans.append(place)
            elif place.position > self._receipt.events:
                yield _fault(self._receipt, f"tells of {self._receipt.events} events, and there is one more")
            elif place.position > self._position + 1:
                yield self._missing(self._receipt, place.position - 1)
            self._position = place.position

    def finish(self) -> Iterator[Fault]:
        """There are no more of this id: say what is missing."""
        if self._receipt is not None and self._position < self._receipt.events:
            yield self._missing(self._receipt, self._receipt.events)
        self._receipt = None

    def take_orphans(self) -> list[Place]:
        """Events of transactions whose receipts were not seen before them."""
        orphans, self._orphans = self._orphans, []
        return orphans

    def _missing(self, receipt: Receipt, last: int) -> Fault:
        return _fault(receipt, f"its events {self._position + 1} to {last} of {receipt.events} are missing")


def orphan_fault(orphan: Place, holds: Record | Malformed | None) -> Fault | None:
    """What is wrong with an event of a transaction, given what stands in the place of its receipt."""
    if isinstance(holds, Malformed):
        # That is told already.
        return None
    if isinstance(holds, Receipt) and orphan.position <= holds.events:
        return None
    return Fault(Rule.TRANSACTION, f"has an event at position {orphan.position}, and no receipt for it", id=orphan.id)


def receipt_places(receipts: Iterable[Receipt]) -> set[tuple[str, int]]:
    """The (key, version) of all states that receipts tell of, as far as there was an event."""
    return {
        (result["key"], result["version"])
        for receipt in receipts
        for result in _results(receipt)
        if _is_result(result) and result["version"] > 0
    }


def receipt_faults(
    receipt: Receipt, events: Mapping[tuple[str, int], Record | Malformed], *, floor: int = 0
) -> Iterator[Fault]:
    """What is wrong with a receipt, given what is in the log at its places.

    :param floor: no key begins above it, and no key that was dropped had a version above it.
    """
    if receipt.answer.get("status") != "ok":
        yield _fault(receipt, f"is the receipt of an answer {receipt.answer.get('status')!r}")
    for number, result in enumerate(_results(receipt)):
        message = _result_fault(receipt, result, events, floor) if _is_result(result) else "is none"
        if message is not None:
            yield _fault(receipt, f"its result {number} {message}")


def _result_fault(
    receipt: Receipt, result: dict[str, Any], events: Mapping[tuple[str, int], Record | Malformed], floor: int
) -> str | None:
    place = result["key"], result["version"]
    if place[1] == 0:
        return "tells of a key that was there, and never was" if result["exists"] else None
    event = events.get(place)
    if event is None and place[1] <= floor and not result["exists"] and not result.get("changed"):
        # It was absent, without an event or with one that was dropped since.
        return None
    if isinstance(event, Malformed):
        return None
    if not isinstance(event, Event):
        return f"tells of version {place[1]} of {place[0]!r}, which is not in the log"
    if event.exists != result["exists"] or (event.etag if event.exists else None) != result.get("etag"):
        return f"tells of another state than version {place[1]} of {place[0]!r} is"
    if result.get("changed") and event.id != receipt.id:
        return f"tells that it made version {place[1]} of {place[0]!r}, which {event.id!r} made"
    return None


def _results(receipt: Receipt) -> list[Any]:
    results = receipt.answer.get("results")
    return results if isinstance(results, list) else []


def _is_result(result: Any) -> bool:
    return (
        isinstance(result, dict)
        and isinstance(result.get("key"), str)
        and type(result.get("version")) is int
        and type(result.get("exists")) is bool
    )


def _fault(receipt: Receipt, message: str) -> Fault:
    return Fault(Rule.TRANSACTION, message, receipt.key, None, receipt.id)
