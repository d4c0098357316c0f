"""Deliveries without a broker, and a broker that only remembers."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import orjson

from holdfast.worker.delivery import Delivery
from holdfast.worker.publication import Publication

_tags = itertools.count(1)


def delivery(body: object = b"{}", **fields: Any) -> Delivery:
    """A first delivery with somebody to answer, unless it says otherwise. What is not bytes is made JSON."""
    properties: dict[str, Any] = {
        "tag": next(_tags),
        "body": body if isinstance(body, bytes) else orjson.dumps(body),
        "reply_to": "amq.gen-1",
        "correlation_id": None,
        "message_id": None,
        "author": None,
        "redelivered": False,
        "suspect": False,
        "hopped": False,
        "headers": {},
    }
    return Delivery(**properties | fields)


class RememberingBroker:
    """Takes everything, in order, and can be made to fail.

    To acknowledge what is not open is an error, as it is for RabbitMQ.
    """

    def __init__(self, tags: int = 1000) -> None:
        self.said: list[tuple[str, Any]] = []
        self.replies: list[tuple[str, str | None, Any]] = []
        self.sizes: list[int] = []
        self.buried: list[tuple[bytes, str, str]] = []
        self.published: list[Publication] = []
        self.kept: list[Publication] = []
        self.open = set(range(1, tags + 1))
        self.acknowledged: list[int] = []
        #: Messages about what has expired: store, partition and body.
        self.swept: list[tuple[str, int, Any]] = []
        self.account = "worker"
        self.fails_at: str | None = None
        self.has_alarm = False
        self._news = asyncio.Event()

    def _say(self, what: str, about: Any) -> None:
        if what == self.fails_at:
            raise ConnectionError(f"scripted: the connection is gone at {what}")
        self.said.append((what, about))

    async def reply(self, body: bytes, *, to: str, correlation_id: str | None) -> None:
        """Publish a reply."""
        self._say("reply", to)
        self.sizes.append(len(body))
        self.replies.append((to, correlation_id, orjson.loads(body)))

    async def tell(self, publication: Publication, patience: float) -> None:  # noqa: ARG002
        """Publish to an exchange that others read."""
        if self.fails_at == "publish":
            raise ConnectionError("scripted: the connection is gone at publish")
        self.published.append(publication)

    async def ask(self, publication: Publication, patience: float) -> None:
        """As ``tell``."""
        await self.tell(publication, patience)

    async def keep(self, publications: Sequence[Publication]) -> None:
        """Put into streams."""
        self.kept += publications

    async def bury(
        self,
        delivery: Delivery,  # noqa: ARG002
        body: bytes,
        *,
        reason: str,
        detail: str,
        again: bool = False,  # noqa: ARG002
    ) -> None:
        """Publish a dead letter."""
        self._say("bury", reason)
        self.buried.append((body, reason, detail))

    async def sweep(self, store: str, partition: int, body: bytes) -> None:
        """Publish what has expired."""
        self._say("sweep", store)
        self.swept.append((store, partition, orjson.loads(body)))

    async def acknowledge(self, tag: int, *, multiple: bool) -> None:
        """Acknowledge."""
        assert tag in self.open, f"PRECONDITION_FAILED - unknown delivery tag {tag}"
        self._say("acknowledge", tag)
        gone = {other for other in self.open if other <= tag} if multiple else {tag}
        self.open -= gone
        self.acknowledged += sorted(gone)
        self._news.set()

    async def until_acknowledged(self, *tags: int) -> None:
        """Wait until exactly these were acknowledged, in this order."""
        async with asyncio.timeout(10):
            while self.acknowledged != list(tags):
                self._news.clear()
                await self._news.wait()

    async def until_so_many_acknowledged(self, count: int) -> None:
        """Wait until this many were acknowledged, in any order."""
        async with asyncio.timeout(10):
            while len(self.acknowledged) < count:
                self._news.clear()
                await self._news.wait()
