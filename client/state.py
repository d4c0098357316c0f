"""PersistentState: a typed handle on one key, after Orleans' IPersistentState, without its sharp edges."""

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import orjson
import uuid_utils
from pydantic import TypeAdapter, ValidationError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from ..events import AbsentError, ConflictError, ExpiredError, NotReadError, OutcomeUnknown
from .entry import Entry

if TYPE_CHECKING:
    from .client import Client

T = TypeVar("T")

#: Attempts of ``update`` at most.
MAX_ATTEMPTS = 32

Change = Callable[[T], T | Awaitable[T | None] | None]


@dataclass(slots=True, eq=False)
class _Operation(Generic[T]):
    kind: Literal["read", "write", "clear", "update"]
    done: asyncio.Future[None]
    #: Of a write: the value as JSON data, as it was when ``write`` was called.
    snapshot: Any = None
    change: Change[T] | None = None
    attempts: int = MAX_ATTEMPTS
    #: Another operation stood before it when it was queued.
    behind: bool = False


@dataclass(slots=True)
class _Pending:
    """A write whose outcome is unknown. It is sent again under its id before anything else happens."""

    id: str
    kind: Literal["save", "delete"]
    etag: str | None
    snapshot: Any = None
    #: The snapshot is not the handle's value yet: it becomes that when it is known to be stored.
    adopt: bool = False


class PersistentState(Generic[T]):
    """The state of one key as a value of type ``T``, and what is known of its stored version.

    Operations on one handle run one at a time, in the order in which they were called:

    * ``write`` stores the value as it is at the call. Writes that have not started yet become one, of the latest
      value; so do clears.
    * a ``read`` that waits behind an operation which succeeds is answered by it.
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
        timeout: float | None = None,
    ) -> None:
        """See :meth:`Client.state`."""
        self._client = client
        self._key = key
        self._store = store
        self._timeout = timeout
        self._adapter: TypeAdapter[T] = TypeAdapter(type_)
        self._default = default
        self._has_value = False
        self._value: T | None = None
        self._loaded = False
        self._etag: str | None = None
        self._version = 0
        self._pending: _Pending | None = None
        self._queue: deque[_Operation[T]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._last_succeeded = False

    @property
    def key(self) -> str:
        """The key in the store."""
        return self._key

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
    def exists(self) -> bool:
        """Whether the key was there when it was last read or written.

        :raises NotReadError: before that.
        """
        if not self._loaded:
            raise NotReadError(f"{self._key!r} has not been read: call `await state.read()` first")
        return self._etag is not None

    async def read(self) -> None:
        """Replace the value by the stored one, or, if the key is absent, by the default."""
        await self._enqueue("read")

    async def write(self) -> None:
        """Store the value, on condition that the key is as this handle last knew it.

        A handle that has not read, or found nothing, demands that the key is absent.

        :raises ConflictError: if it is not; ``read`` brings the handle up to date.
        """
        snapshot = self._dump(self.value)
        last = self._queue[-1] if self._queue else None
        if last is not None and last.kind == "write":
            last.snapshot = snapshot
            await asyncio.shield(last.done)
            return
        await self._enqueue("write", snapshot=snapshot)

    async def clear(self) -> None:
        """Delete the key, on condition that it is as this handle last knew it.

        A handle that has not read deletes whatever is there.

        :raises ConflictError: if it moved on.
        """
        last = self._queue[-1] if self._queue else None
        if last is not None and last.kind == "clear":
            await asyncio.shield(last.done)
            return
        await self._enqueue("clear")

    async def update(self, change: Change[T], *, attempts: int = MAX_ATTEMPTS) -> T:
        """Read, change and write, again on conflict with the state that won, until it holds or attempts run out.

        :param change: given a copy of the current value (the default's if the key is absent), changes it in place
            and returns None, or returns a new value. A plain or an async function; it may run several times.
        :param attempts: at most so many, with growing, jittered pauses.
        :returns: the value that was stored.
        :raises ConflictError: when attempts have run out.
        :raises OutcomeUnknown: if one attempt's outcome is unknown; it is never repeated under another id.
        :raises TypeError: if ``change`` returns something that is no ``T``.
        """
        await self._enqueue("update", change=change, attempts=attempts)
        return self.value

    # -- the queue

    async def _enqueue(
        self,
        kind: Literal["read", "write", "clear", "update"],
        *,
        snapshot: Any = None,
        change: Change[T] | None = None,
        attempts: int = MAX_ATTEMPTS,
    ) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        behind = self._runner is not None
        self._queue.append(_Operation(kind, done, snapshot, change, attempts, behind))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        await asyncio.shield(done)

    async def _run(self) -> None:
        while self._queue:
            operation = self._queue.popleft()
            try:
                await self._perform(operation)
            except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the operation
                self._last_succeeded = False
                operation.done.set_exception(error)
                operation.done.exception()  # the caller may have gone
            except BaseException:
                operation.done.cancel()
                raise
            else:
                self._last_succeeded = True
                operation.done.set_result(None)
        self._runner = None

    async def _perform(self, operation: _Operation[T]) -> None:
        answered = operation.behind and self._last_succeeded
        if self._pending is not None:
            await self._find_out(self._pending)
        match operation.kind:
            case "read":
                if not answered:
                    await self._read()
            case "write":
                await self._save(operation.snapshot)
            case "clear":
                await self._delete()
            case "update" if operation.change is not None:
                await self._update(operation.change, operation.attempts)

    # -- what they do

    async def _read(self) -> None:
        entry = await self._client.read(self._key, store=self._store, timeout=self._timeout)
        self._adopt(entry)

    def _adopt(self, entry: Entry | None) -> None:
        if entry is None:
            self._know(None, 0)
            self._has_value, self._value = False, None
        else:
            value = self._load(entry.value)
            self._know(entry.etag, entry.version)
            self._set(value)

    async def _save(self, snapshot: Any) -> None:
        await self._send(_Pending(str(uuid_utils.uuid7()), "save", self._etag, snapshot))

    async def _delete(self) -> None:
        if self._loaded and self._etag is None:
            return  # nothing is there as far as this handle knows, and what it does not know it must not delete
        await self._send(_Pending(str(uuid_utils.uuid7()), "delete", self._etag))

    async def _update(self, change: Change[T], attempts: int) -> None:
        if not self._loaded:
            await self._read()
        etag = self._etag
        # What a change works on is a copy, which becomes the handle's value when it is stored and not before.
        current = self._dump(self.value)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(ConflictError),
            stop=stop_after_attempt(attempts),
            wait=wait_random_exponential(multiplier=0.002, max=0.25),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                snapshot = self._dump(await self._changed(change, current))
                pending = _Pending(str(uuid_utils.uuid7()), "save", etag, snapshot, adopt=True)
                try:
                    await self._send(pending, return_current=True)
                except ConflictError as conflict:
                    # The conflict brought the state that won, so that the next attempt needs no read.
                    etag = conflict.actual
                    current = conflict.current if etag is not None else self._dump(self._fresh())
                    raise

    async def _changed(self, change: Change[T], current: Any) -> T:
        value = self._load(current)
        result = change(value)
        if inspect.isawaitable(result):
            result = await result
        if result is None:
            return value
        try:
            return self._adapter.validate_python(result, strict=True)
        except ValidationError:
            raise TypeError(
                f"the function given to update returned {type(result).__name__}: it changes the value in place and "
                "returns None, or returns the new value"
            ) from None

    async def _find_out(self, pending: _Pending) -> None:
        """Send the command whose outcome is unknown again, and take its answer for what it is."""
        # If it was refused, nothing came of it, and the operation at hand sees the present state for itself.
        with suppress(ConflictError, ExpiredError):
            await self._send(pending)

    async def _send(self, pending: _Pending, *, return_current: bool = False) -> None:
        client, key = self._client, self._key
        self._pending = pending
        try:
            if pending.kind == "save":
                entry = await client.save(
                    key,
                    pending.snapshot,
                    etag=pending.etag,
                    first_write=pending.etag is None,
                    store=self._store,
                    return_current=return_current,
                    timeout=self._timeout,
                    id=pending.id,
                )
                self._know(entry.etag, entry.version)
                if pending.adopt:
                    self._set(self._load(pending.snapshot))
            else:
                await client.delete(key, etag=pending.etag, store=self._store, timeout=self._timeout, id=pending.id)
                self._know(None, 0)
                self._has_value, self._value = False, None
        except OutcomeUnknown:
            raise  # and it stays pending
        except Exception:
            self._pending = None
            raise
        self._pending = None

    def _know(self, etag: str | None, version: int) -> None:
        self._loaded, self._etag, self._version = True, etag, version

    def _set(self, value: T) -> None:
        self._has_value, self._value = True, value

    def _fresh(self) -> T:
        if self._default is None:
            raise AbsentError(f"{self._key!r} is absent: set a value, or give the handle a default")
        return self._default()

    def _dump(self, value: T) -> Any:
        return self._adapter.dump_python(value, mode="json")

    def _load(self, data: Any) -> T:
        return self._adapter.validate_json(orjson.dumps(data))
