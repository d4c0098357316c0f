"""Joint writes: the values of several handles in one store, stored at one moment or not at all."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import uuid_utils

from ..events import Unavailable
from .entry import Save
from .transactions import StepResult

if TYPE_CHECKING:
    from .client import Client
    from .state import PersistentState


class Joint:
    """One transaction of several handles.

    Each takes part by an operation of its own, so that it comes in its turn there. When all are here, it is sent.
    """

    def __init__(
        self, client: "Client", states: Sequence["PersistentState[Any]"], *, store: str, timeout: float | None
    ) -> None:
        """Make one that nobody has come to yet."""
        self._client = client
        self._states = list(states)
        self._store = store
        self._timeout = timeout
        self._id = str(uuid_utils.uuid7())
        self._saves: dict[int, Save] = {}
        #: Why it failed for all of them, if it did.
        self.cause: BaseException | None = None
        self._done: asyncio.Future[list[StepResult]] = asyncio.get_running_loop().create_future()

    async def write(self, state: "PersistentState[Any]", save: Save) -> StepResult:
        """Take part, and wait for the others. Gives back what came of this handle's step.

        :raises HoldfastError: as :meth:`Client.transact`, to each of them.
        """
        self._saves[id(state)] = save
        if len(self._saves) == len(self._states) and not self._done.done():
            try:
                self._done.set_result(await self._send())
            except Exception as fault:  # noqa: BLE001 - it belongs to each of them
                self._fail(fault, fault)
        return (await asyncio.shield(self._done))[self._states.index(state)]

    async def write_again(self, state: "PersistentState[Any]") -> StepResult:
        """Send the same again, to find out what became of it."""
        return (await self._send())[self._states.index(state)]

    def abort(self, cause: BaseException) -> None:
        """Let it be: one of them cannot come. Once it is sent, that plays no part."""
        if not self._done.done():
            told = Unavailable(f"not sent, because another state cannot be written now: {cause}")
            told.__cause__ = cause
            self._fail(cause, told)

    def _fail(self, cause: BaseException, told: BaseException) -> None:
        self.cause = cause
        self._done.set_exception(told)
        self._done.exception()  # there may be nobody yet who waits

    async def _send(self) -> list[StepResult]:
        steps = [self._saves[id(state)] for state in self._states]
        return await self._client.transact(steps, store=self._store, timeout=self._timeout, id=self._id)
