"""PersistentState: a typed handle on one key, after Orleans' IPersistentState, without its sharp edges."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import orjson
import uuid_utils
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from ..events import (
    AbsentError,
    ClosedError,
    ConflictError,
    Consistency,
    ExpiredError,
    NotReadError,
    OutcomeUnknown,
    RemoteError,
    Unavailable,
)
from .calls import UnansweredError
from .entry import Entry, Save
from .joint import Joint
from .lifetime import Ttl, to_seconds
from .operations import MAX_ATTEMPTS, Change, Kind, Operation, Operations
from .revisions import Revision
from .schema import schema_of
from .serializers import Serializer, serializer_for
from .transactions import StepResult
from .turns import Known, Turn

if TYPE_CHECKING:
    from .client import Client

T = TypeVar("T")


@dataclass(slots=True)
class _Pending(Generic[T]):
    """A write whose outcome is unknown. It is sent again under its id before anything else happens."""

    id: str
    kind: Literal["save", "delete"]
    etag: str | None
    snapshot: Any = None
    #: Of a joint write, which has an id of its own.
    joint: Joint | None = None
    #: Of an update: the snapshot is not the handle's value yet; it becomes that when it is known to be stored.
    adopt: bool = False
    #: Of a delete: the value that goes away with it. One that was set later stays.
    seen: T | None = None


class PersistentState(Generic[T]):
    """The state of one key as a value of type ``T``, and what is known of its stored version.

    Operations on one handle run one at a time, in the order in which they were called:

    * ``write`` stores the value as it is at the call. Writes that have not started yet become one, of the latest
      value; so do clears.
    * a ``read`` that waits behind an operation which had not started either is answered by it, if that succeeds; but a
      strong one by no eventual one.
    * a failed operation fails nobody else, and leaves ``value`` and ``etag`` as they were.
    * cancelling a caller does not cancel the operation: it would leave the handle not knowing.

    If an operation raises :class:`OutcomeUnknown`, the next one begins by sending the same command again under its
    id, and so finds out.
    """

    def __init__(
        self,
        client: "Client",
        key: str,
        type_: type[T],
        *,
        store: str | None = None,
        default: Callable[[], T] | None = None,
        ttl: Ttl | None = None,
        timeout: float | None = None,
        serializer: Serializer[T] | None = None,
    ) -> None:
        """See :meth:`Client.state`."""
        self._client = client
        self._key = key
        self._store = store
        self._timeout = timeout
        self._serializer: Serializer[T] = serializer or schema_of(type_) or serializer_for(type_)
        self._default = default
        if ttl is not None:
            to_seconds(ttl)
        self._ttl = ttl
        self._expires_at: datetime | None = None
        self._has_value = False
        self._value: T | None = None
        self._loaded = False
        self._etag: str | None = None
        self._version = 0
        #: The value of that version, as JSON data.
        self._stored: Any = None
        self._pending: _Pending[T] | None = None
        self._operations: Operations[T] = Operations()

    @property
    def key(self) -> str:
        """The key in the store."""
        return self._key

    @property
    def store(self) -> str:
        """The name of the store."""
        return self._store or self._client.default_store

    @property
    def changed(self) -> bool:
        """Whether the value in memory is another one than the one last read or written. A default that nobody has
        changed is none.
        """
        if not self._has_value:
            return False
        if self._etag is not None:
            before = self._serializer.load(self._stored)
        elif self._loaded and self._default is not None:
            before = self._default()
        else:
            return True
        # As text: 1, 1.0 and True are equal, and not the same.
        mine, other = (orjson.dumps(self._dump(value), option=orjson.OPT_SORT_KEYS) for value in (self.value, before))
        return mine != other

    @property
    def value(self) -> T:
        """The value in memory. Change it, or set it, then ``write``.

        :raises NotReadError: before the first ``read``, if it was not set and there is no default.
        :raises AbsentError: if the key is absent, it was not set, and there is no default.
        """
        if not self._has_value:
            if self._default is None and not self._loaded:
                raise NotReadError(f"{self._key!r} has not been read: call `await state.read()` first, or set a value")
            self._set(self._fresh())
        return self._value  # type: ignore[return-value]  # it is one since _has_value is set

    @value.setter
    def value(self, value: T) -> None:
        self._set(value)

    @property
    def etag(self) -> str | None:
        """Of the version last read or written; None if the key was absent then, or nothing is known."""
        return self._etag

    @property
    def version(self) -> int:
        """The version last read or written; 0 if nothing is known."""
        return self._version

    @property
    def expires_at(self) -> datetime | None:
        """From when on the version last read or written is absent, in service time; None if it stays."""
        return self._expires_at

    @property
    def exists(self) -> bool:
        """Whether the key was there when it was last read or written.

        :raises NotReadError: before that.
        """
        if not self._loaded:
            raise NotReadError(f"{self._key!r} has not been read: call `await state.read()` first")
        return self._etag is not None

    async def read(self, *, consistency: Consistency = "strong") -> None:
        """Replace the value by the stored one, or, if the key is absent, by the default.

        :param consistency: ``strong`` sees every write that was acknowledged before the call, by whomever; ``eventual``
            may be behind. It brings no earlier version than the handle knows already, but may find nothing where
            something is, and the other way round. A write of what is behind is a conflict.
        """
        await self._end_of(self._enqueue("read", consistency=consistency))

    async def write(self) -> None:
        """Store the value, on condition that the key is as this handle last knew it.

        A handle that has not read, or found nothing, demands that the key is absent.

        :raises ConflictError: if it is not; ``read`` brings the handle up to date.
        :raises TypeError: if the value does not fit the handle's type.
        """
        await self.start_writing()

    def start_writing(self, joint: Joint | None = None) -> asyncio.Future[None]:
        """Begin to write, alone or jointly with other handles; what comes back is done when that is.

        :raises TypeError: if the value does not fit the handle's type.
        """
        operation = self._enqueue("write" if joint is None else "join", snapshot=self._dump(self.value), joint=joint)
        return asyncio.shield(operation.done)

    async def clear(self) -> None:
        """Delete the key, on condition that it is as this handle last knew it.

        A handle that has not read deletes whatever is there.

        :raises ConflictError: if it moved on.
        """
        await self._end_of(self._enqueue("clear"))

    async def update(self, change: Change[T], *, attempts: int = MAX_ATTEMPTS) -> T:
        """Read, change and write, again on conflict with the state that won, until it holds or attempts run out.

        It begins with the version last read or written, or a newer one that another handle's update has stored
        through the same client; what was done to ``value`` since plays no part. Updates of one key through one
        client take turns, so that they do not meet in conflicts.

        :param change: given a copy of the current value (the default's if the key is absent), changes it in place
            and returns None, or returns a new value. A plain or an async function; it may run several times.
        :param attempts: at most so many, with growing, jittered pauses.
        :returns: the value that was stored.
        :raises ConflictError: when attempts have run out.
        :raises OutcomeUnknown: if one attempt's outcome is unknown; it is never repeated under another id.
        :raises TypeError: if ``change`` returns something that is no ``T``.
        """
        operation = self._enqueue("update", change=change, attempts=attempts)
        await self._end_of(operation)
        return operation.result  # type: ignore[return-value]  # it is one since the operation succeeded

    async def history(self, *, after_version: int = 0) -> AsyncGenerator[Revision[T], None]:
        """What happened to the key, oldest first, with each value as one of this handle's type, upcast if need be.

        It is read beside the operations of the handle, and changes nothing of it.

        :param after_version: only events of later versions.
        """
        events = self._client.iter_history(
            self._key, after_version=after_version, store=self._store, timeout=self._timeout
        )
        async with aclosing(events):
            async for event in events:
                yield Revision(event, self._serializer.load(event.value) if "value" in event.model_fields_set else None)

    def _enqueue(
        self,
        kind: Kind,
        *,
        snapshot: Any = None,
        change: Change[T] | None = None,
        attempts: int = MAX_ATTEMPTS,
        joint: Joint | None = None,
        consistency: Consistency = "strong",
    ) -> Operation[T]:
        return self._operations.add(
            self._perform,
            kind,
            seen=self._value,
            snapshot=snapshot,
            change=change,
            attempts=attempts,
            joint=joint,
            consistency=consistency,
        )

    async def _end_of(self, operation: Operation[T]) -> None:
        # Cancelling a caller does not cancel the operation.
        await asyncio.shield(operation.done)

    # -- what they do

    async def _perform(self, operation: Operation[T]) -> bool:
        """Do it. Says whether the stored state was looked at on the way."""
        looked = await self._do(operation)
        operation.result = self._value
        return looked

    async def _do(self, operation: Operation[T]) -> bool:
        if self._pending is not None:
            await self._find_out(self._pending, operation)
        match operation.kind:
            case "read" if self._operations.is_answered(operation):
                self._restore()
                return False
            case "read":
                await self._read(operation.consistency)
            case "write":
                await self._send(_Pending(_new_id(), "save", self._etag, operation.snapshot))
            case "join" if operation.joint is not None:
                await self._send(_Pending(_new_id(), "save", self._etag, operation.snapshot, operation.joint))
            case "clear":
                if self._loaded and self._etag is None:
                    # Nothing is there as far as this handle knows, and what it does not know it must not delete.
                    self._drop(operation.seen)
                    return False
                await self._send(_Pending(_new_id(), "delete", self._etag, seen=operation.seen))
            case "update" if operation.change is not None:
                turn = self._client.turns.of(self._store, self._key)
                async with turn.take():
                    await self._update(operation.change, operation.attempts, turn)
        return True

    async def _read(self, consistency: Consistency) -> None:
        entry = await self._client.read(self._key, store=self._store, consistency=consistency, timeout=self._timeout)
        if entry is not None and consistency == "eventual" and entry.version < self._version:
            self._restore()
        elif entry is None:
            self._know(None, 0, None)
            self._has_value, self._value = False, None
        else:
            value = self._serializer.load(entry.value)
            self._know(entry.etag, entry.version, entry.value, entry.expires_at)
            self._set(value)

    def _restore(self) -> None:
        """As a read that finds what the handle knows."""
        if self._etag is None:
            self._has_value, self._value = False, None
        else:
            self._set(self._serializer.load(self._stored))

    async def _update(self, change: Change[T], attempts: int, turn: Turn) -> None:
        etag, stored, known = self._etag, self._stored, self._loaded
        newest = turn.newest
        if newest is not None and newest.version > self._version:
            etag, stored, known = newest.etag, newest.value, True
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(ConflictError),
            stop=stop_after_attempt(attempts),
            wait=wait_random_exponential(multiplier=0.002, max=0.25),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                if not known:
                    etag, stored = await self._look()
                # What a change works on is a copy, which becomes the handle's value when it is stored and not before.
                current = stored if etag is not None else self._dump(self._fresh())
                snapshot = self._dump(await self._changed(change, current))
                try:
                    await self._send(_Pending(_new_id(), "save", etag, snapshot, adopt=True), return_current=True)
                except ConflictError as conflict:
                    # It brought the state that won, so that the next attempt needs no read; unless that was kept
                    # from us, which is another thing than a value of null.
                    etag, stored, known = conflict.actual, conflict.current, conflict.current_known
                    raise
        turn.newest = Known(self._version, self._etag, self._stored)

    async def _look(self) -> tuple[str | None, Any]:
        """Etag and value as they are stored now; None for both if the key is absent."""
        entry = await self._client.read(self._key, store=self._store, timeout=self._timeout)
        return (None, None) if entry is None else (entry.etag, entry.value)

    async def _changed(self, change: Change[T], current: Any) -> T:
        value = self._serializer.load(current)
        result = change(value)
        if inspect.isawaitable(result):
            result = await result
        if result is None:
            return value
        try:
            return self._serializer.check(result)
        except TypeError:
            raise TypeError(
                f"the function given to update returned {type(result).__name__}: it changes the value in place and "
                "returns None, or returns the new value"
            ) from None

    async def _find_out(self, pending: _Pending[T], operation: Operation[T]) -> None:
        """Send the command whose outcome is unknown again, and take its answer for what it is."""
        # What an update has stored is not in the value that a write has taken its snapshot of: if the update took
        # effect, the write has to meet a conflict, and not to wipe it out.
        learn = not (pending.adopt and operation.kind == "write")
        try:
            await self._send(pending, again=True, learn=learn)
        except (ConflictError, RemoteError):
            pass  # the operation at hand sees the present state for itself
        except ExpiredError:
            if self._pending is not None:
                raise

    async def _send(
        self, pending: _Pending[T], *, return_current: bool = False, again: bool = False, learn: bool = True
    ) -> None:
        """Send a write, and learn from its success. It stays pending if its outcome is not known then.

        :param again: it was sent before, so that an attempt which came to nothing says nothing of the one before.
        """
        client, key = self._client, self._key
        self._pending = pending
        entry: Entry | StepResult | None
        try:
            if pending.joint is not None and again:
                entry = await pending.joint.write_again(self)
            elif pending.joint is not None:
                save = Save(key, pending.snapshot, pending.etag, first_write=pending.etag is None, ttl=self._ttl)
                entry = await pending.joint.write(self, save)
            elif pending.kind == "save":
                entry = await client.save(
                    key,
                    pending.snapshot,
                    etag=pending.etag,
                    first_write=pending.etag is None,
                    ttl=self._ttl,
                    store=self._store,
                    return_current=return_current,
                    timeout=self._timeout,
                    id=pending.id,
                )
            else:
                entry = None
                await client.delete(key, etag=pending.etag, store=self._store, timeout=self._timeout, id=pending.id)
        except OutcomeUnknown:
            raise
        except RemoteError:
            # A worker failed at it, or answered what this client does not know. That may be so for ever.
            if again:
                self._pending = None
            raise
        except (Unavailable, ClosedError) as fault:
            told = isinstance(fault, ExpiredError) and not isinstance(fault, UnansweredError)
            if told or not again:
                self._pending = None
            raise
        except Exception:
            self._pending = None
            raise
        self._pending = None
        if not learn:
            return
        if entry is None:
            self._know(None, 0, None)
            self._drop(pending.seen)
        else:
            self._know(entry.etag or "", entry.version or 0, pending.snapshot, entry.expires_at)
            if pending.adopt:
                self._set(self._serializer.load(pending.snapshot))

    def _know(self, etag: str | None, version: int, stored: Any, expires_at: datetime | None = None) -> None:
        self._loaded, self._etag, self._version, self._stored = True, etag, version, stored
        self._expires_at = expires_at

    def _set(self, value: T) -> None:
        self._has_value, self._value = True, value

    def _drop(self, value: T | None) -> None:
        """Have no value any more, unless it is another one by now."""
        if self._value is value:
            self._has_value, self._value = False, None

    def _fresh(self) -> T:
        if self._default is None:
            raise AbsentError(f"{self._key!r} is absent: set a value, or give the handle a default")
        return self._default()

    def _dump(self, value: T) -> Any:
        try:
            return self._serializer.dump(value)
        except TypeError as misfit:
            raise TypeError(f"the value of {self._key!r} does not fit its type: {misfit}") from None


def _new_id() -> str:
    return str(uuid_utils.uuid7())
