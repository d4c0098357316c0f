"""Operations on a handle: called at any time, done one at a time, in the order in which they were called."""

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from ..events import Consistency
from .joint import Joint

T = TypeVar("T")

#: Attempts of ``update`` at most.
MAX_ATTEMPTS = 32

Kind = Literal["read", "write", "clear", "update", "join"]
Change = Callable[[T], T | Awaitable[T | None] | None]


@dataclass(slots=True, eq=False)
class Operation(Generic[T]):
    """One call of a handle, until it is done."""

    kind: Kind
    done: asyncio.Future[None]
    #: When it was called, counted in calls and starts of operations.
    called: int
    #: Of a write, alone or jointly: the value as JSON data, as it was at the call.
    snapshot: Any = None
    change: Change[T] | None = None
    attempts: int = MAX_ATTEMPTS
    joint: Joint | None = None
    #: Of a read.
    consistency: Consistency = "strong"
    #: The handle's value when it was called, and when it had succeeded.
    seen: T | None = None
    result: T | None = None


#: Does an operation. Says whether the stored state was looked at on the way.
Perform = Callable[[Operation[T]], Awaitable[bool]]


class Operations(Generic[T]):
    """The operations of one handle. Writes that have not started yet become one, of the latest value; so do clears."""

    def __init__(self) -> None:
        """Make a queue that is empty."""
        self._waiting: deque[Operation[T]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._ticks = itertools.count()
        #: When the last operation started that looked at the stored state and succeeded; -1 after one that failed.
        self._looked = -1
        #: Whether it was more than an eventual read: what it saw may have been behind already.
        self._looked_strongly = False

    def add(
        self,
        perform: Perform[T],
        kind: Kind,
        *,
        seen: T | None,
        snapshot: Any = None,
        change: Change[T] | None = None,
        attempts: int = MAX_ATTEMPTS,
        joint: Joint | None = None,
        consistency: Consistency = "strong",
    ) -> Operation[T]:
        """Have one done when its turn comes. What comes back may be one that waits already.

        :param perform: does it, and all behind it. It is not kept longer, so that a handle is freed when nobody has it.
        :raises RuntimeError: within an operation of the same handle.
        """
        if self._runner is not None and asyncio.current_task() is self._runner:
            raise RuntimeError(
                "the function given to update cannot use the handle itself: it would wait for its own end"
            )
        called = next(self._ticks)
        last = self._waiting[-1] if self._waiting else None
        if last is not None and last.kind == kind and kind in ("write", "clear"):
            last.snapshot = snapshot
            last.seen = seen
            return last
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        operation = Operation(kind, done, called, snapshot, change, attempts, joint, consistency, seen)
        self._waiting.append(operation)
        if self._runner is None:
            self._runner = asyncio.create_task(self._run(perform))
        return operation

    def is_answered(self, operation: Operation[T]) -> bool:
        """Whether one that started after it was called has looked at the stored state, as strongly as this one wants
        to, and none has failed since.
        """
        return self._looked > operation.called and (self._looked_strongly or operation.consistency == "eventual")

    async def _run(self, perform: Perform[T]) -> None:
        while self._waiting:
            operation = self._waiting.popleft()
            started = next(self._ticks)
            try:
                if await perform(operation):
                    self._looked, self._looked_strongly = started, operation.consistency == "strong"
            except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the operation
                self._looked = -1
                if operation.joint is not None:
                    operation.joint.abort(error)
                operation.done.set_exception(error)
                operation.done.exception()  # the caller may have gone
            except BaseException:
                # The event loop is being closed.
                for waiting in (operation, *self._waiting):
                    waiting.done.cancel()
                self._waiting.clear()
                self._runner = None
                raise
            else:
                operation.done.set_result(None)
        self._runner = None
