"""The detour: how commands go on while a queue of others holds up the change feed.

The broker confirms an event when all queues that are bound have it, and one of them may neither take nor refuse it: a
quorum queue without its majority. Nor can it be passed by: a message that is routed to it holds up its channel in the
broker, and so all that comes behind it. So while it says nothing, events with the same routing key go into the stream
alone, with a confirm, and commands wait for that. All others are told when the queue is back; until then notices have
watches look into the log.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final, Protocol

from .publication import Publication, RefusedError, SilentError

log = logging.getLogger(__name__)

#: Bytes that are kept until a queue is back. Those beyond are in the stream and in the log alone, and a notice says so.
MAX_MISSED_BYTES: Final = 32 * 1024 * 1024
#: Seconds for which a queue is asked at a time whether it is back.
ASKING: Final = 5.0
#: How often it is asked between two notices at most.
SELDOM: Final = 12
#: Routing keys that can be held up by themselves. If there are more, it is a queue that gets them all.
PLACES: Final = 8


class DetourBroker(Protocol):
    """What the detour needs of the broker."""

    async def keep(self, publications: Sequence[Publication]) -> None:
        """Put messages of the change feed into their streams, in order, each with a confirm."""

    async def tell(self, publication: Publication, patience: float) -> None:
        """Publish with a confirm.

        :raises RefusedError: if the broker does not take it.
        :raises SilentError: if it neither takes nor refuses it for so many seconds.
        """

    async def ask(self, publication: Publication, patience: float) -> None:
        """As ``tell``, but hold up nothing else with it."""


class Detour:
    """What of the feed is held up, and what was not told because of that. It outlives sessions."""

    def __init__(self, on_news: Callable[[], None]) -> None:
        """Make one, for a feed that goes its usual way.

        :param on_news: called when there is something to be told.
        """
        self._on_news = on_news
        #: By routing key: a message without events, by which it is asked whether anybody is silent still.
        self._questions: dict[str, Publication] = {}
        self._held = asyncio.Event()
        #: By routing key, in order.
        self._missed: dict[str, deque[Publication]] = {}
        self._size = 0
        #: By routing key: notices that are to be told.
        self.notices: dict[str, Publication] = {}

    @property
    def held_at(self) -> list[str]:
        """The routing keys that are held up, or some of them."""
        return list(self._questions)

    def holds(self, publication: Publication) -> bool:
        """Whether it has to go the other way."""
        return publication.routing_key in self._questions or len(self._questions) >= PLACES

    def begin(self, silent: Publication, silence: SilentError) -> None:
        """A message got no answer."""
        if not self.holds(silent):
            log.warning(
                "the change feed is held up: a queue bound to %r that gets %r has neither taken nor refused a message: "
                "%s. Commands and streams go on; all queues that get the same are told it when this one is back, up to "
                "%d MiB. Repair it, unbind it or delete it: `rabbitmqctl list_queues name type state leader online` "
                "may show which it is",
                silent.exchange,
                silent.routing_key,
                silence,
                MAX_MISSED_BYTES // 2**20,
            )
            self._questions[silent.routing_key] = replace(silent, body=b"[]")
            self._held.set()

    async def keep(self, broker: DetourBroker, publications: Sequence[Publication]) -> None:
        """Put into the streams what cannot be told, and tell it later if there is room for it."""
        await broker.keep(publications)
        for publication in publications:
            size = len(publication.body)
            # Notices are made again.
            if publication.instead is not None and self._size + size <= MAX_MISSED_BYTES:
                self._missed.setdefault(publication.routing_key, deque()).append(publication)
                self._size += size

    def missed(self, count: int) -> list[Publication]:
        """So many messages, at most, that can be told now, in order; they stay until they are ``told``."""
        for waiting in self._missed.values():
            if not self.holds(waiting[0]):
                return list(islice(waiting, count))
        return []

    def told(self, publication: Publication) -> None:
        """The first that was missed with this routing key is told."""
        waiting = self._missed[publication.routing_key]
        self._size -= len(waiting.popleft().body)
        if not waiting:
            del self._missed[publication.routing_key]

    async def run(self, broker: DetourBroker) -> None:
        """Ask for ever, while something is held up, whether it is still. An error of the broker ends it."""
        asked = 0
        while True:
            if not self._questions:
                self._held.clear()
                asked = 0
                await self._held.wait()
            asked += 1
            await asyncio.gather(*(self._ask(broker, question) for question in self._questions.values()))
            # Ever less often: where there are many keys a look into the log takes its time.
            if asked & (asked - 1) == 0 or asked % SELDOM == 0:
                self._notify(self._questions.values())

    async def _ask(self, broker: DetourBroker, question: Publication) -> None:
        place = question.routing_key
        try:
            await broker.ask(question, ASKING)
        except SilentError:
            return
        except RefusedError as refusal:
            log.warning("the change feed is not held up any more: %r is refused, %s", place, refusal)
        else:
            log.warning("the change feed is not held up any more: %r is confirmed", place)
        del self._questions[place]
        # There may have been no room for something.
        self._notify([question])

    def _notify(self, questions: Iterable[Publication]) -> None:
        for question in questions:
            notice = question.instead or question
            self.notices[notice.routing_key] = notice
        self._on_news()
