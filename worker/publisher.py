"""The publisher: what a worker tells others than those who asked, in order, each message with a confirm.

It lives as long as the process. What it was given stays with it until it is confirmed, whatever becomes of
connections; commands are acknowledged when that has happened, so that a crash has them delivered again.
"""

import asyncio
import logging
from collections import deque
from typing import Final, Protocol

from ..events.topology import EVENTS
from .delivery import Delivery
from .detour import Detour, DetourBroker
from .publication import Publication, RefusedError, SilentError

log = logging.getLogger(__name__)

#: Messages that wait for their confirms at one time.
ROUND: Final = 64
#: Seconds between attempts to publish what the broker refuses.
PAUSES: Final = (0.1, 0.5, 1.0)
#: Seconds for a confirm of the change feed, unless the operator says otherwise. Then it goes on without.
FEED_PATIENCE: Final = 5.0
#: Seconds for a confirm of a message that a write carried …
PATIENCE: Final = 10.0
#: … and of either while another one is not answered, or was not lately.
SHORT_PATIENCE: Final = 1.0
#: Seconds for which an exchange is not tried at all behind which a queue did not answer.
SILENCE: Final = 10.0
#: Seconds for which a place that has refused a message is not asked again and again.
DOUBT: Final = 60.0
#: Places of one exchange that are asked again in that time; more are taken at their word. A full queue, or an exchange
#: that is missing, refuses every routing key, and each would hold up all others for as long.
INSISTENCE: Final = 4
#: Why a message that a write carried is in the dead letter queue, and with it the write.
REFUSED_REASON: Final = "outbox_refused"


class PublishingBroker(DetourBroker, Protocol):
    """What the publisher needs of the broker."""

    async def bury(self, delivery: Delivery, body: bytes, *, reason: str, detail: str, again: bool = False) -> None:
        """Publish to the dead letter queue and wait for the confirm; with ``again`` also what was replayed from it."""


class Publisher:
    """Publishes what it is given, in that order. One session after another runs it."""

    def __init__(self, *, feed_patience: float = FEED_PATIENCE) -> None:
        """Make one.

        :param feed_patience: seconds for a confirm of the change feed, until it goes on without.
        """
        self._feed_patience = feed_patience
        self._waiting: deque[Publication] = deque()
        #: How many were given, and how many of them are done, since the beginning.
        self.given = 0
        self.done = 0
        #: Bytes that wait.
        self.size = 0
        self._wake = asyncio.Event()
        self._progress = asyncio.Event()
        #: In the place of messages for which there was no room.
        self._owed: dict[str, Publication] = {}
        #: How many have to be done before these are published.
        self._owed_behind = 0
        #: Places that refused a message, and when.
        self._refused: dict[tuple[str, str], float] = {}
        #: Of each exchange: since when places of it are counted that are asked again, and how many were.
        self._insisted: dict[str, tuple[float, int]] = {}
        #: Exchanges by which a message got no answer, and when.
        self._silent: dict[str, float] = {}
        #: Has to be run, too.
        self.detour = Detour(on_news=self._wake.set)

    def put(self, publication: Publication) -> None:
        """Put a message behind those that wait."""
        self._waiting.append(publication)
        self.given += 1
        self.size += len(publication.body)
        self._wake.set()

    def owe(self, publication: Publication) -> None:
        """Publish this once, behind all that waits now, however often it is owed. It is never dropped."""
        self._owed[publication.routing_key] = publication
        self._owed_behind = self.given
        self._wake.set()

    def keep(self, until: int) -> None:
        """Drop what was given after the first ``until``: who gave it gives it again."""
        while self.given > max(until, self.done):
            self.given -= 1
            self.size -= len(self._waiting.pop().body)

    async def wait(self, until: int, timeout: float | None = None) -> bool:
        """Wait until the first ``until`` are done. Says whether they are, after so many seconds at most."""
        try:
            async with asyncio.timeout(timeout):
                while self.done < until:
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return False
        return True

    async def run(self, broker: PublishingBroker) -> None:
        """Publish for ever. An error of the broker ends it."""
        detour = self.detour
        while True:
            if missed := detour.missed(ROUND):
                await self._tell_missed(broker, missed)
            elif detour.notices:
                self.owe(detour.notices.popitem()[1])
            elif self._owed and (not self._waiting or self.done >= self._owed_behind):
                await self._publish_owed(broker)
            elif self._waiting:
                some = self._next()
                await self._publish(broker, some)
                for publication in some:
                    self._waiting.popleft()
                    self.size -= len(publication.body)
                self.done += len(some)
                self._progress.set()
            else:
                self._wake.clear()
                await self._wake.wait()

    async def _publish_owed(self, broker: PublishingBroker) -> None:
        owed = dict(self._owed)
        await self._publish(broker, list(owed.values()))
        for place, publication in owed.items():
            # What is owed anew since then is another one.
            if self._owed.get(place) is publication:
                del self._owed[place]

    def _next(self) -> list[Publication]:
        some: list[Publication] = []
        lines: set[tuple[str, str]] = set()
        for publication in self._waiting:
            if len(some) == ROUND or publication.line in lines:
                break
            if publication.line is not None:
                lines.add(publication.line)
            some.append(publication)
        return some

    async def _tell_missed(self, broker: PublishingBroker, missed: list[Publication]) -> None:
        for publication, result in zip(missed, await self._tell(broker, missed), strict=True):
            if isinstance(result, SilentError):
                # It stays, and so do those behind it.
                self.detour.begin(publication, result)
                return
            self.detour.told(publication)

    async def _publish(self, broker: PublishingBroker, some: list[Publication]) -> None:
        held = [publication for publication in some if self._is_held(publication)]
        if held:
            await self._pass_by(broker, held)
            some = [publication for publication in some if publication not in held]
        silent: list[Publication] = []
        for publication, result in zip(some, await self._tell(broker, some), strict=True):
            if isinstance(result, SilentError):
                silent.append(publication)
                self._note_silence(publication, result)
            elif result is not None:
                await self._insist(broker, publication, result)
        await self._pass_by(broker, silent)

    def _is_held(self, publication: Publication) -> bool:
        if publication.exchange == EVENTS:
            return self.detour.holds(publication)
        return self._since_silence(publication.exchange) < SILENCE

    def _since_silence(self, exchange: str) -> float:
        return asyncio.get_running_loop().time() - self._silent.get(exchange, -DOUBT)

    def _patience(self, publication: Publication) -> float:
        if publication.exchange == EVENTS:
            return SHORT_PATIENCE if self.detour.held_at else self._feed_patience
        return SHORT_PATIENCE if self._since_silence(publication.exchange) < DOUBT else PATIENCE

    def _note_silence(self, publication: Publication, silence: SilentError) -> None:
        exchange = publication.exchange
        if exchange == EVENTS:
            self.detour.begin(publication, silence)
            return
        if self._since_silence(exchange) >= DOUBT:
            log.warning(
                "a queue has neither taken nor refused a message to %r, routing key %r: %s. Writes that carry messages "
                "there go to the dead letters until it is back; all others go on",
                exchange,
                publication.routing_key,
                silence,
            )
        self._silent[exchange] = asyncio.get_running_loop().time()

    async def _pass_by(self, broker: PublishingBroker, silent: list[Publication]) -> None:
        """Go on without those who do not answer: neither commands nor others wait for them any longer."""
        events = [publication for publication in silent if publication.exchange == EVENTS]
        if events:
            await self.detour.keep(broker, events)
        await asyncio.gather(*(self._bury(broker, each, "neither taken nor refused in time") for each in silent))

    async def _tell(self, broker: PublishingBroker, some: list[Publication]) -> list[RefusedError | None]:
        """Publish side by side, and say what was not taken."""
        # One connection takes them in the order in which they begin.
        tasks = [asyncio.ensure_future(broker.tell(each, self._patience(each))) for each in some]
        try:
            results = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
        refusals: list[RefusedError | None] = []
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, RefusedError):
                raise result
            refusals.append(result)
        return refusals

    async def _bury(self, broker: PublishingBroker, publication: Publication, why: object) -> None:
        if publication.letter is not None:
            delivery, body = publication.letter
            place = publication.exchange, publication.routing_key
            await broker.bury(delivery, body, reason=REFUSED_REASON, detail=f"{place}: {why}", again=True)

    def _may_insist(self, exchange: str, now: float) -> bool:
        since, times = self._insisted.get(exchange, (now, 0))
        if now - since >= DOUBT:
            since, times = now, 0
        self._insisted[exchange] = since, times + 1
        return times < INSISTENCE

    async def _insist(self, broker: PublishingBroker, publication: Publication, refusal: RefusedError) -> None:
        """Try again for a moment, but not for ever: others wait, and acknowledgements with them."""
        clock = asyncio.get_running_loop().time
        place = publication.exchange, publication.routing_key
        if clock() - self._refused.get(place, -DOUBT) >= DOUBT and self._may_insist(publication.exchange, clock()):
            for pause in PAUSES:
                await asyncio.sleep(pause)
                try:
                    await broker.tell(publication, self._patience(publication))
                except RefusedError as again:
                    refusal = again
                else:
                    self._refused.pop(place, None)
                    return
            if len(self._refused) >= 1000:
                self._refused.clear()
            self._refused[place] = clock()
            log.warning("a message to %r, routing key %r, is given up: %s", *place, refusal)
        await self._bury(broker, publication, refusal)
