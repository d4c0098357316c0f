"""Workers that break a promise on purpose: the checks of a run have to find each of them."""

from collections.abc import Callable, Collection, Sequence
from itertools import count
from typing import Any

from holdfast.events import Event, Record
from holdfast.stores import Appended, Fence, MongoStore, Outcome, Transacted
from holdfast.worker import Batch, Request, decide, engine

#: Names the promise that a worker is to break; empty or missing: none.
SABOTAGE_VARIABLE = "CHAOS_SABOTAGE"

#: Each promise is broken at every so manieth occasion.
_EVERY = 7


def lose() -> None:
    """Acknowledge a write that is not in the log."""
    append, number = MongoStore.append, count(1)

    async def losing(self: MongoStore, records: Sequence[Record]) -> Appended:
        if next(number) % _EVERY:
            return await append(self, records)
        appended = await append(self, records[:-1])
        if appended.fence is None:
            return Appended([*appended.outcomes, Outcome.NOT_TRIED], None)
        return Appended([*appended.outcomes, Outcome.APPENDED], appended.fence)

    MongoStore.append = losing  # type: ignore[method-assign]


def repeat() -> None:
    """Apply a write twice."""
    append, number = MongoStore.append, count(1)

    async def repeating(self: MongoStore, records: Sequence[Record]) -> Appended:
        appended = await append(self, records)
        last = records[-1] if records else None
        if next(number) % _EVERY == 0 and appended.fence is not None and isinstance(last, Event):
            again = last.model_copy(update={"id": f"{last.id}-again", "version": last.version + 1})
            await append(self, [again])
        return appended

    MongoStore.append = repeating  # type: ignore[method-assign]


def be_stale() -> None:
    """Answer a strong read with a state that was overwritten before."""
    versions, number = MongoStore.versions, count(1)

    async def stale(self: MongoStore, keys: Collection[str], *, after: Fence | None = None) -> dict[str, int]:
        found = await versions(self, keys, after=after)
        if next(number) % _EVERY == 0:
            # So far back that no load makes it a matter of overlapping calls.
            return {key: max(1, version // 2) for key, version in found.items()}
        return found

    MongoStore.versions = stale  # type: ignore[method-assign]


def forget() -> None:
    """Answer a repeat of a command with a refusal, although the command was applied.

    Repeats that meet in one batch are not folded either: under much load they all do.
    """
    answer_again = decide.answer_again

    def forgetful(record: Record, *arguments: Any, **options: Any) -> dict[str, Any]:
        answer = answer_again(record, *arguments, **options)
        if answer["status"] != "ok":
            return answer
        return {"status": "conflict", "error": {"code": "exists", "message": "", "expected": None, "actual": None}}

    def unfolded(_: type[Batch], requests: list[Request]) -> Batch:
        return Batch(list(requests))

    Batch.of = classmethod(unfolded)  # type: ignore[method-assign, assignment]
    setattr(engine, "answer_again", forgetful)  # noqa: B010 - it was imported there, and is not theirs to export


def halve() -> None:
    """Commit a transaction without the last of what it makes, and acknowledge it."""
    transact, number = MongoStore.transact, count(1)

    async def halving(
        self: MongoStore, records: Sequence[Record], guards: Collection[tuple[str, int]], **options: Any
    ) -> Transacted:
        if next(number) % _EVERY == 0 and isinstance(records[-1], Event):
            return await transact(self, records[:-1], guards, **options)
        return await transact(self, records, guards, **options)

    MongoStore.transact = halving  # type: ignore[method-assign]


def unguard() -> None:
    """Commit transactions without a look at whether what they only checked is still so."""
    transact = MongoStore.transact

    async def unguarded(
        self: MongoStore, records: Sequence[Record], guards: Collection[tuple[str, int]], **_: Any
    ) -> Transacted:
        # As if nothing had been checked.
        guards = ()
        return await transact(self, records, guards)

    MongoStore.transact = unguarded  # type: ignore[method-assign]


PROMISES: dict[str, Callable[[], None]] = {
    "lose": lose,
    "repeat": repeat,
    "stale": be_stale,
    "forget": forget,
    "halve": halve,
    "unguard": unguard,
}


def sabotage(promise: str | None) -> None:
    """Make this process break a promise, or none."""
    if promise:
        PROMISES[promise]()
