"""A client for programs without an event loop: scripts, Django, notebooks. Thin over the async one.

Its calls are those of :class:`Client`, with the same names, parameters and errors, and block until they are answered.
The async client runs in a thread of its own. Any number of threads may call at once: what they call at the same time
goes in the same messages.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from ..events import ClosedError, Consistency
from .client import Client, connect
from .encryption import Encryption
from .keyspace import Strategy
from .operations import MAX_ATTEMPTS
from .options import CommandOptions, HandleOptions, spelled_out
from .revisions import Revision
from .state import PersistentState
from .transactions import Transaction

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

#: Seconds for the thread to end.
PATIENCE = 30.0


class _LoopThread:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="holdfast-client", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Do it in the loop, and wait for it. What interrupts the waiting, Ctrl-C say, cancels it."""
        if self._loop.is_closed() or threading.current_thread() is self._thread:
            work.close()
            if self._loop.is_closed():
                raise ClosedError("this client is closed")
            raise RuntimeError("this call would wait for its own end: in the client's own thread, nothing may block")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise ClosedError("this client was closed meanwhile") from None
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End it. Repeating it is harmless."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE)
            self._loop.close()


def _blocking(
    call: Callable[Concatenate[Client, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["SyncClient", P], R]:
    """The call of the same name, which blocks."""

    @wraps(call)
    def blocking(self: "SyncClient", /, *args: P.args, **options: P.kwargs) -> R:
        return self.loop_thread.run(call(self.client, *args, **options))

    return blocking


def _iterating(
    call: Callable[Concatenate[Client, P], AsyncGenerator[R, None]],
) -> Callable[Concatenate["SyncClient", P], Iterator[R]]:
    """The iteration of the same name, which blocks for each page."""

    @wraps(call)
    def iterating(self: "SyncClient", /, *args: P.args, **options: P.kwargs) -> Iterator[R]:
        return iterate(self.loop_thread, call(self.client, *args, **options))

    return iterating


def iterate(thread: _LoopThread, items: AsyncGenerator[R, None]) -> Iterator[R]:
    """The items, one by one."""

    async def following() -> tuple[R] | None:
        # A StopAsyncIteration cannot leave a coroutine.
        async for item in items:
            return (item,)
        return None

    try:
        while (item := thread.run(following())) is not None:
            yield item[0]
    finally:
        thread.run(items.aclose())


class SyncClient:
    """Saves, reads and deletes values by key, and blocks meanwhile. Safe to be used by many threads at once.

    Made by :func:`connect_sync`, and used in ``with``. Of a process that forks, each child makes its own.
    """

    def __init__(self, client: Client) -> None:
        """Make one over an async client that is not open. From now on that is its own."""
        self.client = client
        self._thread: _LoopThread | None = None

    @property
    def loop_thread(self) -> _LoopThread:
        """Where the async client runs.

        :raises ClosedError: if this client is not open.
        """
        if self._thread is None:
            raise ClosedError("this client is not open: use it in `with`")
        return self._thread

    def __enter__(self) -> Self:
        """Connect.

        :raises Unavailable: if the broker cannot be reached, or no worker answers within the timeout.
        """
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self.close()

    def open(self) -> None:
        """Connect; ``with`` does it for you.

        :raises Unavailable: if the broker cannot be reached, or no worker answers within the timeout.
        """
        if self._thread is not None:
            raise ClosedError("this client is open already")
        self._thread = _LoopThread()
        try:
            self._thread.run(self.client.open())
        except BaseException:
            self._thread.stop()
            self._thread = None
            raise

    def close(self) -> None:
        """Disconnect. Calls of other threads fail as those of :meth:`Client.close` do. Repeating it is harmless."""
        thread, self._thread = self._thread, None
        if thread is not None:
            try:
                thread.run(self.client.close())
            finally:
                thread.stop()

    def run(self, work: Callable[[Client], Awaitable[R]]) -> R:
        """What an async function gives back that is called with the async client, in its thread: for all that has no
        call here, such as entities.
        """

        async def call() -> R:
            return await work(self.client)

        return self.loop_thread.run(call())

    @spelled_out
    @contextmanager
    def transaction(
        self,
        *,
        return_current: bool = False,
        **options: Unpack[CommandOptions],
    ) -> Iterator[Transaction]:
        """A transaction to be put together step by step, as :meth:`Client.transaction`. It is sent at the end of the
        block, unless that is left by an exception.
        """
        steps = self.client.transaction(return_current=return_current, **options)
        yield steps
        self.loop_thread.run(steps.__aexit__(None, None, None))

    @spelled_out
    def state(
        self,
        key: str,
        type: type[T],  # noqa: A002 - what it is
        **options: Unpack[HandleOptions[T]],
    ) -> "SyncState[T]":
        """A handle on one key, typed, as :meth:`Client.state`. Makes no call by itself."""
        return SyncState(self, self.client.state(key, type, **options))

    save = _blocking(Client.save)
    read = _blocking(Client.read)
    delete = _blocking(Client.delete)
    read_many = _blocking(Client.read_many)
    save_many = _blocking(Client.save_many)
    transact = _blocking(Client.transact)
    delete_many = _blocking(Client.delete_many)
    merge_patch = _blocking(Client.merge_patch)
    json_patch = _blocking(Client.json_patch)
    increment = _blocking(Client.increment)
    history = _blocking(Client.history)
    iter_history = _iterating(Client.iter_history)
    restore = _blocking(Client.restore)
    purge = _blocking(Client.purge)
    keys = _blocking(Client.keys)
    iter_keys = _iterating(Client.iter_keys)
    count_keys = _blocking(Client.count_keys)
    query = _blocking(Client.query)
    iter_query = _iterating(Client.iter_query)
    describe = _blocking(Client.describe)


class SyncState(Generic[T]):
    """A :class:`PersistentState` whose operations block. It may be shared by threads, which the async one may not."""

    def __init__(self, client: SyncClient, handle: PersistentState[T]) -> None:
        """See :meth:`SyncClient.state`."""
        self._client = client
        self._handle = handle

    @property
    def key(self) -> str:
        """As of the async handle."""
        return self._handle.key

    @property
    def expires_at(self) -> datetime | None:
        """As of the async handle."""
        return self._handle.expires_at

    @property
    def value(self) -> T:
        """As of the async handle."""
        return self._handle.value

    @value.setter
    def value(self, value: T) -> None:
        self._handle.value = value

    @property
    def etag(self) -> str | None:
        """As of the async handle."""
        return self._handle.etag

    @property
    def version(self) -> int:
        """As of the async handle."""
        return self._handle.version

    @property
    def exists(self) -> bool:
        """As of the async handle."""
        return self._handle.exists

    def read(self, *, consistency: Consistency = "strong") -> None:
        """As of the async handle."""
        self._client.loop_thread.run(self._handle.read(consistency=consistency))

    def write(self) -> None:
        """As of the async handle."""
        self._client.loop_thread.run(self._handle.write())

    def clear(self) -> None:
        """As of the async handle."""
        self._client.loop_thread.run(self._handle.clear())

    def update(self, change: Callable[[T], T | None], *, attempts: int = MAX_ATTEMPTS) -> T:
        """As of the async handle. The function is called in the client's thread: it computes, and does not block."""
        return self._client.loop_thread.run(self._handle.update(change, attempts=attempts))

    def history(self, *, after_version: int = 0) -> Iterator[Revision[T]]:
        """As of the async handle."""
        return iterate(self._client.loop_thread, self._handle.history(after_version=after_version))


def connect_sync(
    url: str = "amqp://localhost/",
    *,
    timeout: float | None = None,
    store: str | None = None,
    max_in_flight: int | None = None,
    name: str | None = None,
    keys: Strategy | None = None,
    encryption: Encryption | None = None,
) -> SyncClient:
    """Make a client that blocks. Use it in ``with``, which connects and closes. Parameters as for :func:`connect`.

    :raises InvalidError: if the URL cannot be used.
    """
    options: dict[str, Any] = {"timeout": timeout, "store": store, "max_in_flight": max_in_flight}
    given = {option: value for option, value in options.items() if value is not None}
    return SyncClient(connect(url, name=name, keys=keys, encryption=encryption, **given))
