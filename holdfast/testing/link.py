"""A client's link to a service in memory."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Protocol

from ..client.subscription import Subscribing
from ..events import ClosedError, Reply, decode_replies
from .feed import MemoryFeed

_addresses = itertools.count(1)


class Exchange(Protocol):
    """Where links publish."""

    def join(self, link: "MemoryLink") -> None:
        """From now on replies to the link's address go to it."""

    def leave(self, link: "MemoryLink") -> None:
        """From now on they go nowhere."""

    def publish(self, partition: int, body: bytes, *, reply_to: str, author: str | None) -> None:
        """Take one message of commands."""

    def subscribe(self, bindings: Sequence[str]) -> MemoryFeed:
        """Follow the change feed, in the running event loop."""


class MemoryLink:
    """Carries messages between a client's event loop and a service's."""

    def __init__(
        self,
        exchange: Exchange,
        *,
        user: str | None,
        on_up: Callable[[], None],  # noqa: ARG002 - such a link never goes down
        on_replies: Callable[[list[Reply]], None],
    ) -> None:
        """Make a link.

        :param user: becomes the author of what it publishes.
        """
        self.up = False
        self.generation = 0
        self.address = f"memory-{next(_addresses)}"
        self._exchange = exchange
        self._user = user
        self._on_replies = on_replies
        self._loop: asyncio.AbstractEventLoop | None = None

    def subscriber(self) -> Subscribing:
        """Makes subscriptions to the service's change feed."""
        return self

    async def subscribe(self, bindings: Sequence[str]) -> MemoryFeed:
        """A subscription to what has these routing keys. From when it returns, nothing is missed."""
        return self._exchange.subscribe(bindings)

    async def open(self) -> None:
        """Join the service."""
        self._loop = asyncio.get_running_loop()
        self._exchange.join(self)
        self.up, self.generation = True, 1

    async def close(self) -> None:
        """Leave it."""
        self.up = False
        self._exchange.leave(self)

    async def publish(self, partition: int, body: bytes) -> None:
        """Hand a message over; that is as good as a confirm here.

        :raises ClosedError: if the service is not there any more.
        """
        if not self.up:
            raise ClosedError("this link is closed")
        self._exchange.publish(partition, body, reply_to=self.address, author=self._user)

    def deliver(self, body: bytes) -> None:
        """Take a message of replies, from any thread."""
        self._soon(lambda: self._take(decode_replies(body)))

    def tell_time(self, milliseconds: int) -> None:
        """Let the client know what service time it is, and return when it knows. From any thread."""
        told = [Reply(status="ok", id="", time=milliseconds)]
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            self._take(told)
            return

        async def take() -> None:
            self._take(told)

        asyncio.run_coroutine_threadsafe(take(), loop).result()

    def _soon(self, action: Callable[[], None]) -> None:
        # Who closed his event loop without closing his client does not read his replies.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(action)

    def _take(self, replies: list[Reply]) -> None:
        if self.up:
            self._on_replies(replies)
