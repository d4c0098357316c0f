"""Transactions: what a caller puts together, how it looks on the wire, and what comes back. ``transact`` and
``transaction`` are methods of :class:`Client`.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Self, Unpack

from ..events import ClosedError, InvalidError, OutboxMessage, Reply, SeveralStoresError, check_key, check_value
from ..events.outbox import check_messages
from .caller import Caller
from .calls import Wire
from .entry import Delete, Save, Step, to_datetime
from .lifetime import Ttl, to_seconds
from .options import CommandOptions, TransactOptions, spelled_out


@dataclass(frozen=True, slots=True)
class Check(Step):
    """Demand something of a key without writing it: that it has this etag, or that it is there, or that it is absent.

    Exactly one of ``etag`` and ``exists`` is given.
    """

    etag: str | None = field(default=None, kw_only=True)
    exists: bool | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of one step: its key's state at the moment of the commit, after this step and those before it.

    Of a key that this user may not read nothing but its name is told; everything else is None then.
    """

    key: str
    exists: bool | None = None
    #: None if the key is absent.
    etag: str | None = None
    version: int | None = None
    #: Whether the step made a version; None for a check.
    changed: bool | None = None
    #: Service time of the version that the step made, in milliseconds since 1970; None if it made none.
    updated_at_ms: int | None = None
    #: Of a save: service time from which on the key is absent, in milliseconds since 1970; None if it stays.
    expires_at_ms: int | None = None

    @property
    def updated_at(self) -> datetime | None:
        """When the version was made, in service time."""
        return None if self.updated_at_ms is None else to_datetime(self.updated_at_ms)

    @property
    def expires_at(self) -> datetime | None:
        """From when on the key is absent, in service time; None if it stays."""
        return None if self.expires_at_ms is None else to_datetime(self.expires_at_ms)


def to_operations(steps: Iterable[Step]) -> list[Wire]:
    """Steps as operations of the wire.

    :raises InvalidError: if there are none, or one of them cannot be meant.
    """
    operations = [_to_operation(number, step) for number, step in enumerate(steps)]
    if not operations:
        raise InvalidError("has no operations", code="bad_operations", field="operations")
    return operations


def _to_operation(number: int, step: Step) -> Wire:
    check_key(step.key)
    operation: Wire
    match step:
        case Save():
            operation = {"op": "save", "key": step.key, "value": check_value(step.value)}
            if step.first_write:
                operation["concurrency"] = "first-write"
            if step.ttl is not None:
                operation["ttl_seconds"] = to_seconds(step.ttl)
        case Delete():
            operation = {"op": "delete", "key": step.key}
        case Check():
            if (step.etag is None) == (step.exists is None):
                message = "demands either an etag or, by exists, presence or absence"
                raise InvalidError(message, code="bad_check", field=f"operations[{number}]")
            operation = {"op": "check", "key": step.key}
            if step.exists is not None:
                operation["exists"] = step.exists
        case _:
            raise InvalidError("is no Save, Delete or Check", code="bad_operations", field=f"operations[{number}]")
    if step.etag is not None:
        operation["etag"] = step.etag
    return operation


def to_results(reply: Reply) -> list[StepResult]:
    """What a reply tells of each step."""
    return [
        StepResult(one.key, one.exists, one.etag, one.version, one.changed, one.updated_at, one.expires)
        for one in reply.results or ()
    ]


#: Sends steps, and the messages that they carry.
Commit = Callable[[Sequence[Step], Sequence[OutboxMessage]], Awaitable[list[StepResult]]]


class Transaction:
    """A transaction that is put together step by step, and committed at the end of its ``async with``.

    Nothing is sent before that, and nothing at all if the block is left by an exception. Steps are applied in the order
    in which they were added.
    """

    def __init__(self, commit: Commit, store: str) -> None:
        self._commit = commit
        self._store = store
        self._steps: list[Step] = []
        self._messages: list[OutboxMessage] = []
        self._results: list[StepResult] | None = None
        self._sent = False

    def save(
        self,
        key: str,
        value: Any,
        *,
        etag: str | None = None,
        first_write: bool = False,
        ttl: Ttl | None = None,
        store: str | None = None,
    ) -> int:
        """Make ``value`` the next version of the key. Gives back the number of the step.

        :param etag: demand that the key's state has this etag.
        :param first_write: demand that the key is absent.
        :param ttl: how long it lives from the commit on: seconds, a timedelta of whole ones, or "forever".
        :param store: may be said, and has to be that of the transaction.
        :raises InvalidError: if key or value cannot be kept; :class:`SeveralStoresError` if it is about another store.
        """
        return self._add(Save(key, value, etag, first_write, ttl), store)

    def delete(self, key: str, *, etag: str | None = None, store: str | None = None) -> int:
        """Make the key absent. Parameters and errors as for ``save``."""
        return self._add(Delete(key, etag), store)

    def check(self, key: str, *, etag: str | None = None, exists: bool | None = None, store: str | None = None) -> int:
        """Demand something of a key that this transaction does not write. Parameters and errors as for ``save``.

        :param exists: in place of an etag: demand that the key is there, or that it is absent.
        """
        return self._add(Check(key, etag=etag, exists=exists), store)

    def publish(self, *messages: OutboxMessage) -> None:
        """Have messages published if it is committed, and only then: see ``messages`` of :meth:`Client.transact`."""
        if self._sent:
            raise ClosedError("this transaction was sent already")
        self._messages += check_messages([*self._messages, *messages])[len(self._messages) :]

    def _add(self, step: Step, store: str | None) -> int:
        if self._sent:
            raise ClosedError("this transaction was sent already")
        if store is not None and store != self._store:
            raise SeveralStoresError(
                f"a transaction is about one store, this one about {self._store!r}, and not about {store!r}",
                field=f"operations[{len(self._steps)}].store",
            )
        _to_operation(len(self._steps), step)
        self._steps.append(step)
        return len(self._steps) - 1

    async def commit(self) -> list[StepResult]:
        """Send it. ``async with`` does it for you.

        :raises ClosedError: if it was sent already.
        :raises: what :meth:`Client.transact` raises.
        """
        if self._sent:
            raise ClosedError("this transaction was sent already")
        self._sent = True
        self._results = await self._commit(self._steps, self._messages)
        return self._results

    @property
    def results(self) -> list[StepResult]:
        """What came of each step.

        :raises ClosedError: before it is committed.
        """
        if self._results is None:
            raise ClosedError("this transaction is not committed")
        return self._results

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit what was put together. A transaction of nothing at all, or one that was committed, sends nothing."""
        if kind is None and (self._steps or self._messages) and not self._sent:
            await self.commit()


@spelled_out
async def transact(self: Caller, steps: Iterable[Step], **options: Unpack[TransactOptions]) -> list[StepResult]:
    """Apply all steps in their order, at one moment, or none of them. They are about keys of one store.

    :param steps: :class:`Save`, :class:`Delete` and :class:`Check`, at most 500. Each may have its condition; each
        sees what those before it have made of its key.
    :param metadata: kept with each event.
    :param messages: published if it is committed, and only then, also where it changes nothing: at least once, in
        order. They belong to the key of the first step, and are in one order with the messages of that key.
    :param return_current: a conflict brings the value that it met.
    :returns: one result for each step.
    :raises ConflictError: if a condition does not hold: ``operation`` and ``key`` say whose, the first in order.
    :raises Unavailable: also if others have changed its keys each time that it was tried.
    :raises InvalidError: if a step cannot be meant.
    """
    command: Wire = {"op": "transact", "operations": to_operations(steps)}
    # It goes where commands on the first key go.
    key = command["operations"][0]["key"]
    store = self._complete(command, options, TransactOptions)
    reply = await self._call(command, store, key, options.get("timeout"), options.get("id"), mutates=True)
    return to_results(reply)


@spelled_out
def transaction(self: Caller, *, return_current: bool = False, **options: Unpack[CommandOptions]) -> Transaction:
    """A transaction to be put together step by step; see :meth:`transact` for parameters and errors.

    ::

        async with client.transaction() as both:
            both.save("account/a", 90, etag=a.etag)
            both.save("account/b", 110, etag=b.etag)
    """

    async def commit(steps: Sequence[Step], messages: Sequence[OutboxMessage]) -> list[StepResult]:
        return await transact(self, steps, messages=messages, return_current=return_current, **options)

    return Transaction(commit, options.get("store") or self._store)
