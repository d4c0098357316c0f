"""The change feed of a service in memory: subscriptions by the same routing keys as a broker's."""

import asyncio
from collections.abc import Callable, Sequence

from ..client.subscription import FeedMessage, Inbox


class MemoryFeed(Inbox):
    """A subscription. Messages come from the service's thread, and are taken in the loop in which it was made."""

    def __init__(self, bindings: Sequence[str], *, on_close: Callable[["MemoryFeed"], None]) -> None:
        """Make one.

        :param bindings: routing keys of two words or one; ``*`` is for any word.
        """
        super().__init__()
        self._bindings = [binding.split(".") for binding in bindings]
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()

    def takes(self, routing_key: str) -> bool:
        """Whether a message with this routing key is for it, as a topic exchange says."""
        words = routing_key.split(".")
        return any(
            len(binding) == len(words) and all(one in ("*", word) for one, word in zip(binding, words, strict=True))
            for binding in self._bindings
        )

    def deliver(self, message: FeedMessage) -> None:
        """Take a message, from any thread."""
        self._soon(lambda: self.put(message))

    def end(self, reason: str) -> None:
        """There are no more. From any thread."""
        self._soon(lambda: self.lose(reason))

    def _soon(self, action: Callable[[], None]) -> None:
        # Who closed his event loop without closing his watch takes nothing any more.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(action)

    async def close(self) -> None:
        """Get nothing any more. Repeating it is harmless."""
        self._on_close(self)
        self.lose("closed")
