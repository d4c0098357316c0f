"""A raw client that is there for as long as the run: it connects again when its connection breaks."""

import asyncio
import logging
from collections import deque
from typing import Any

from holdfast import HoldfastError, OutcomeUnknown
from holdfast.client.calls import Call, to_error
from holdfast.events import Reply

from .raw import RawClient, connected

log = logging.getLogger(__name__)

#: Seconds for one attempt to connect, and between two of them.
CONNECT_TIMEOUT = 10.0
CONNECT_PAUSE = 0.5

Waiting = dict[str, deque[asyncio.Future[dict[str, Any]]]]


class _Matching(RawClient):
    """Gives each reply to the one who has waited for it longest, and keeps none."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.waiting: Waiting = {}

    def take(self, reply: dict[str, Any]) -> None:
        queue = self.waiting.get(reply["id"])
        while queue:
            waiter = queue.popleft()
            if not waiter.done():
                waiter.set_result(reply)
                break


class RawLine:
    """Asks for one command at a time; of many callers, and also by two of them under the same id."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: _Matching | None = None
        self._up = asyncio.Event()

    async def run(self) -> None:
        """Stay connected, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT) as limit, connected(self._url, _Matching) as client:
                    limit.reschedule(None)
                    self._client = client
                    self._up.set()
                    await client.lost.wait()
            except (Exception, asyncio.CancelledError) as fault:
                if _cancelled(fault):
                    raise
                log.info("raw line: %r", fault)
            finally:
                self._up.clear()
                self._client = None
            await asyncio.sleep(CONNECT_PAUSE)

    async def ask(self, command: dict[str, Any], routing_key: str, *, timeout: float) -> Reply:
        """Publish a command and wait for its answer. Who asks twice under one id gets both answers, one each.

        :raises HoldfastError: as the client does for the same answer; OutcomeUnknown if there is none in time.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._up.wait()
                client = self._client
                assert client is not None  # noqa: S101 - it is set before the event is
                answer = await self._ask(client, command, routing_key)
        except (Exception, asyncio.CancelledError) as fault:
            if _cancelled(fault):
                raise
            raise OutcomeUnknown(f"no answer: {fault!r}", id=command["id"]) from None
        reply = Reply.model_validate(answer)
        if reply.status != "ok":
            raise _error(command, reply)
        return reply

    async def _ask(self, client: _Matching, command: dict[str, Any], routing_key: str) -> dict[str, Any]:
        waiter: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        client.waiting.setdefault(command["id"], deque()).append(waiter)
        lost = asyncio.ensure_future(client.lost.wait())
        try:
            await client.send(command, routing_key)
            both: set[asyncio.Future[Any]] = {waiter, lost}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not waiter.done():
                raise ConnectionError("the connection is gone, and the address for the answer with it")
            return waiter.result()
        finally:
            lost.cancel()
            waiter.cancel()
            if all(each.done() for each in client.waiting.get(command["id"], ())):
                client.waiting.pop(command["id"], None)


def _cancelled(fault: BaseException) -> bool:
    """Whether somebody wants this task to end. The driver raises CancelledError for reasons of its own too."""
    task = asyncio.current_task()
    return isinstance(fault, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _error(command: dict[str, Any], reply: Reply) -> HoldfastError:
    nobody: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    return to_error(reply, Call(command["id"], "default", command.get("key", ""), b"", command["op"] != "read", nobody))
