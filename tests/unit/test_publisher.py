"""The publisher: order, confirms, and what becomes of messages that nobody takes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from support.deliveries import RememberingBroker, delivery
from support.loops import leaping

from holdfast.worker.publication import Letter, Publication, RefusedError
from holdfast.worker.publisher import DOUBT, INSISTENCE, PAUSES, ROUND, Publisher


class Exchange(RememberingBroker):
    """Confirms when it is told to, and refuses what it is told to refuse."""

    def __init__(self, refuses: Callable[[Publication], bool] = lambda _: False) -> None:
        super().__init__()
        self.attempts: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self._refuses = refuses

    async def tell(self, publication: Publication, patience: float) -> None:
        """Take a message."""
        self.attempts.append(publication.body.decode())
        await self.gate.wait()
        if self._refuses(publication):
            raise RefusedError("scripted: full")
        await super().tell(publication, patience)

    @property
    def bodies(self) -> list[str]:
        """What was taken, in order."""
        return [publication.body.decode() for publication in self.published]


def publication(body: str, *, place: str = "x", line: str | None = None, letter: bool = False) -> Publication:
    made = Letter(delivery(), body.encode()) if letter else None
    where = None if line is None else ("default", line)
    return Publication("orders", place, body.encode(), "application/json", {}, line=where, letter=made)


@asynccontextmanager
async def publishing(publisher: Publisher, broker: Exchange) -> AsyncIterator[None]:
    task = asyncio.create_task(publisher.run(broker))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_in_order_and_counted_when_confirmed() -> None:
    """Given messages, when they are published, then in order, and done is what is confirmed."""
    publisher, broker = Publisher(), Exchange()
    broker.gate.clear()
    for number in range(ROUND + 1):
        publisher.put(publication(str(number)))
    async with publishing(publisher, broker):
        assert not await publisher.wait(1, timeout=0)
        assert (publisher.done, publisher.given) == (0, ROUND + 1)
        broker.gate.set()
        assert await publisher.wait(publisher.given, timeout=5)
    assert broker.bodies == [str(number) for number in range(ROUND + 1)]
    assert publisher.size == 0


async def test_messages_of_one_line_wait_for_each_other() -> None:
    """Given messages of one key, when they are published, then each behind the one before; others go on."""
    publisher, broker = Publisher(), Exchange()
    broker.gate.clear()
    for body, line in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("c1", "c")):
        publisher.put(publication(body, line=line))
    async with publishing(publisher, broker):
        assert not await publisher.wait(1, timeout=0)
        assert broker.attempts == ["a1", "b1"]
        broker.gate.set()
        assert await publisher.wait(4, timeout=5)
    assert broker.bodies == ["a1", "b1", "a2", "c1"]


@leaping
async def test_what_is_refused_for_a_moment_is_published_in_order() -> None:
    """Given a queue that is full for a moment, when it has room again, then nothing is lost, and the order is kept."""
    refusals = iter([True, True])
    publisher, broker = Publisher(), Exchange(lambda each: each.body == b"a1" and next(refusals, False))
    for body in ("a1", "a2"):
        publisher.put(publication(body, line="a", letter=True))
    async with publishing(publisher, broker):
        assert await publisher.wait(2, timeout=60)
    assert broker.bodies == ["a1", "a2"]
    assert broker.buried == []


@leaping
async def test_what_is_refused_for_good_becomes_a_dead_letter() -> None:
    """Given a place that takes nothing, when a message is for it, then its write is buried, and others go on."""
    publisher, broker = Publisher(), Exchange(lambda each: each.routing_key == "full")
    for body, place in (("1", "full"), ("2", "x"), ("3", "full"), ("4", "x")):
        publisher.put(publication(body, place=place, letter=True))
    publisher.put(publication("feed", place="full"))
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with publishing(publisher, broker):
        assert await publisher.wait(5, timeout=60)
        assert loop.time() - began < sum(PAUSES) + 0.1, "each message waits anew for a place that takes nothing"
        assert broker.attempts.count("1") == 1 + len(PAUSES)
        await asyncio.sleep(DOUBT)
        publisher.put(publication("5", place="full", letter=True))
        assert await publisher.wait(6, timeout=60)
    assert broker.bodies == ["2", "4"]
    assert [(body, reason) for body, reason, _ in broker.buried] == [
        (b"1", "outbox_refused"),
        (b"3", "outbox_refused"),
        (b"5", "outbox_refused"),
    ]
    assert broker.attempts.count("5") == 1 + len(PAUSES), "it is asked again when the doubt is over"


async def test_what_a_session_leaves_the_next_one_publishes() -> None:
    """Given a connection that is lost, when there is another, then what was promised is published, and no more."""
    publisher, broker = Publisher(), Exchange()
    for number in range(4):
        publisher.put(publication(str(number)))
    broker.fails_at = "publish"
    failing = asyncio.create_task(publisher.run(broker))
    await asyncio.wait({failing})
    assert isinstance(failing.exception(), ConnectionError)
    assert publisher.done == 0
    publisher.keep(2)
    assert (publisher.given, publisher.size) == (2, 2)
    later = Exchange()
    async with publishing(publisher, later):
        assert await publisher.wait(2, timeout=5)
    assert later.bodies == ["0", "1"]


@leaping
async def test_one_exchange_is_asked_again_for_few_places() -> None:
    """Given a full queue that takes every routing key, when each is refused, then not each holds up all others."""
    publisher, broker = Publisher(), Exchange(lambda each: each.exchange == "orders" and each.routing_key != "x")
    for number in range(40):
        publisher.put(publication(f"{number}", place=f"key-{number}", letter=True))
    publisher.put(publication("last", place="x"))
    async with publishing(publisher, broker):
        assert await publisher.wait(41, timeout=600)
        retried = [number for number in range(40) if broker.attempts.count(f"{number}") > 1]
        assert retried == list(range(INSISTENCE))
        assert [body for body, _, _ in broker.buried] == [str(number).encode() for number in range(40)]
        await asyncio.sleep(DOUBT)
        publisher.put(publication("later", place="key-99", letter=True))
        assert await publisher.wait(42, timeout=60)
    assert broker.attempts.count("later") == 1 + len(PAUSES)


def owed(body: str = "notice") -> Publication:
    return publication(body, place="owed")


@leaping
async def test_what_is_owed_is_published_once_and_behind_what_waits() -> None:
    """Given messages that wait, when something is owed, again and again, then it is said once, and not in between."""
    publisher, broker = Publisher(), Exchange()
    for number in range(3):
        publisher.put(publication(str(number)))
        publisher.owe(owed())
    async with publishing(publisher, broker):
        await asyncio.sleep(1)
        assert broker.bodies == ["0", "1", "2", "notice"]
        publisher.owe(owed("alone"))
        await asyncio.sleep(1)
    assert broker.bodies[4:] == ["alone"]


@leaping
async def test_what_is_owed_does_not_wait_for_silence() -> None:
    """Given a stream of messages that never ends, when something is owed, then it comes all the same."""
    publisher, broker = Publisher(), Exchange()

    class Busy(Exchange):
        async def tell(self, told: Publication, patience: float) -> None:
            await super().tell(told, patience)
            if told.routing_key != "owed" and len(self.published) < 1000:
                publisher.put(publication("more"))

    broker = Busy()
    publisher.put(publication("first"))
    publisher.owe(owed())
    async with publishing(publisher, broker):
        await asyncio.sleep(1)
    assert broker.bodies.index("notice") == 1


@leaping
async def test_what_is_owed_outlives_a_session() -> None:
    """Given a connection that is lost with something owed, when the rest is dropped, then this is not."""
    publisher, broker = Publisher(), Exchange()
    publisher.owe(owed())
    broker.fails_at = "publish"
    failing = asyncio.create_task(publisher.run(broker))
    await asyncio.wait({failing})
    assert isinstance(failing.exception(), ConnectionError)
    publisher.put(publication("dropped"))
    publisher.keep(0)
    later = Exchange()
    async with publishing(publisher, later):
        publisher.put(publication("next"))
        await asyncio.sleep(1)
    assert sorted(later.bodies) == ["next", "notice"]
