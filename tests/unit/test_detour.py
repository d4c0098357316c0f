"""The detour: queues of others that neither take nor refuse hold up nobody for long, and miss nothing for a while."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from support.deliveries import RememberingBroker, delivery
from support.loops import leaping

from holdfast.worker import detour
from holdfast.worker.detour import ASKING, PLACES
from holdfast.worker.feed import notice
from holdfast.worker.publication import Letter, Publication, RefusedError, SilentError
from holdfast.worker.publisher import DOUBT, FEED_PATIENCE, PATIENCE, ROUND, SHORT_PATIENCE, SILENCE, Publisher


class Silent(RememberingBroker):
    """Says nothing to messages for some routing keys."""

    def __init__(self, *places: str) -> None:
        super().__init__()
        self.silent = set(places)
        self.refuses = False
        #: Bodies of messages by which was asked whether there is an answer.
        self.asked: list[bytes] = []
        self.patience: list[float] = []

    async def tell(self, publication: Publication, patience: float) -> None:
        """Take a message, or say nothing."""
        if publication.routing_key in self.silent:
            self.patience.append(patience)
            await asyncio.sleep(patience)
            raise SilentError("scripted: silent")
        if self.refuses:
            raise RefusedError("scripted: full")
        await super().tell(publication, patience)

    async def ask(self, publication: Publication, patience: float) -> None:
        """Likewise."""
        self.asked.append(publication.body)
        await super().ask(publication, patience)


def event(body: bytes, place: str = "default.user", size: int = 0) -> Publication:
    return Publication("holdfast.events", place, body + b"x" * size, "", {}, instead=notice("default"))


def carried(body: bytes, place: str = "placed", line: str | None = None, exchange: str = "orders") -> Publication:
    where = None if line is None else ("default", line)
    return Publication(exchange, place, body, "", {}, letter=Letter(delivery(), body), line=where)


def bodies(publications: Sequence[Publication]) -> list[bytes]:
    return [publication.body for publication in publications]


@asynccontextmanager
async def publishing(publisher: Publisher, broker: Silent) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(work) for work in (publisher.run(broker), publisher.detour.run(broker))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def done(publisher: Publisher, *publications: Publication) -> float:
    """Seconds until these are done."""
    clock = asyncio.get_running_loop().time
    began = clock()
    for publication in publications:
        publisher.put(publication)
    assert await publisher.wait(publisher.given, timeout=600)
    return clock() - began


@leaping
async def test_a_silent_queue_holds_up_the_feed_once() -> None:
    """Given a queue that says nothing, when its patience is over, then its events are in the stream, and go there at
    once from then on; others go their way.
    """
    publisher, broker = Publisher(), Silent("default.user")
    async with publishing(publisher, broker):
        assert await done(publisher, event(b"1"), event(b"2", "default.other"), event(b"3")) == FEED_PATIENCE
        assert bodies(broker.published) == [b"2"]
        assert bodies(broker.kept) == [b"1", b"3"], "what was confirmed is in the stream already"
        assert publisher.detour.held_at == ["default.user"]
        for number in range(3):
            assert await done(publisher, event(b"4%d" % number), event(b"5%d" % number, "default.other")) == 0
        assert bodies(broker.kept)[2:] == [b"40", b"41", b"42"]
        assert bodies(broker.published)[1:] == [b"50", b"51", b"52"]
    assert broker.patience[0] == FEED_PATIENCE


@leaping
async def test_when_it_is_back_all_are_told_what_was_missed() -> None:
    """Given a queue that said nothing, when it answers, then all of it is told in order, before what is new."""

    class Busy(Silent):
        async def tell(self, publication: Publication, patience: float) -> None:
            await super().tell(publication, patience)
            if publication.body == b"000":
                publisher.put(event(b"meanwhile"))

    publisher, broker = Publisher(), Busy("default.user")
    async with publishing(publisher, broker):
        await done(publisher, *(event(b"%03d" % number) for number in range(2 * ROUND)))
        await done(publisher, event(b"128"), event(b"aside", "default.other"), event(b"129"))
        await asyncio.sleep(8.5 * ASKING)
        assert set(broker.asked) == {b"[]"}, "it is asked by messages without events"
        notices = [publication for publication in broker.published if publication.routing_key == "default"]
        assert len(notices) == 4, "watches are told to look after 1, 2, 4 and 8 questions"
        broker.silent.clear()
        await asyncio.sleep(2 * ASKING)
        await done(publisher, event(b"new"))
        assert publisher.detour.held_at == []
        told = [publication.body for publication in broker.published if publication.body != b"[]"]
        assert told == [b"aside", *(b"%03d" % number for number in range(130)), b"meanwhile", b"new"]
        # And in the end, for what there was perhaps no room for.
        assert [publication.routing_key for publication in broker.published[-2:]] == ["default", "default.user"]
        before = len(broker.kept)
        await done(publisher, event(b"newer"))
        assert len(broker.kept) == before


@leaping
async def test_a_queue_that_is_back_and_full_is_over_too() -> None:
    """Given a queue that said nothing, when it refuses, then that is an answer: the feed goes its usual way."""
    publisher, broker = Publisher(), Silent("default.user")
    async with publishing(publisher, broker):
        await done(publisher, event(b"1"))
        broker.silent.clear()
        broker.refuses = True
        await asyncio.sleep(2 * ASKING)
        assert publisher.detour.held_at == []
        broker.refuses = False
        await done(publisher, event(b"2"))
    assert bodies(broker.published)[-1:] == [b"2"]
    assert b"1" not in bodies(broker.published)


@leaping
async def test_silent_again_while_it_is_told() -> None:
    """Given a queue that is away again while it is told, when it is back, then it has all of it, in order."""

    class Relapsing(Silent):
        async def tell(self, publication: Publication, patience: float) -> None:
            if publication.body == b"070" and not self.relapsed:
                self.relapsed = True
                self.silent.add("default.user")
            await super().tell(publication, patience)

        relapsed = False

    publisher, broker = Publisher(), Relapsing("default.user")
    async with publishing(publisher, broker):
        await done(publisher, *(event(b"%03d" % number) for number in range(100)))
        broker.silent.clear()
        await asyncio.sleep(2.5 * ASKING)
        assert broker.relapsed
        assert publisher.detour.held_at == ["default.user"]
        await done(publisher, event(b"100"))
        broker.silent.clear()
        await asyncio.sleep(2 * ASKING)
        await done(publisher, event(b"101"))
    told = [body for body in bodies(broker.published) if body != b"[]"]
    assert told == [b"%03d" % number for number in range(102)]


@leaping
async def test_a_queue_that_gets_everything() -> None:
    """Given a silent queue behind every routing key, when there are many of these, then not each holds up all others;
    and all are told when it is back.
    """
    places = [f"default.{number}" for number in range(40)]
    publisher, broker = Publisher(), Silent(*places)
    async with publishing(publisher, broker):
        clock = asyncio.get_running_loop().time
        began = clock()
        for place in places:
            await done(publisher, event(place.encode(), place))
        assert clock() - began == FEED_PATIENCE + (PLACES - 1) * SHORT_PATIENCE
        assert publisher.detour.held_at == places[:PLACES]
        assert len(broker.kept) == 40
        broker.silent.clear()
        await asyncio.sleep(2 * ASKING)
    assert sorted(body for body in bodies(broker.published) if body != b"[]") == sorted(map(str.encode, places))


@leaping
async def test_what_there_is_no_room_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given more than is kept for a queue, when it is back, then the rest is left to the notice."""
    monkeypatch.setattr(detour, "MAX_MISSED_BYTES", 1000)
    publisher, broker = Publisher(), Silent("default.user")
    async with publishing(publisher, broker):
        await done(publisher, event(b"1", size=400), event(b"2", size=400), event(b"3", size=400))
        assert [body[:1] for body in bodies(broker.kept)] == [b"1", b"2", b"3"]
        broker.silent.clear()
        await asyncio.sleep(2 * ASKING)
        told = [(publication.routing_key, publication.body[:1]) for publication in broker.published]
        assert told[-3:] == [("default.user", b"1"), ("default.user", b"2"), ("default", b"[")]
        broker.silent.add("default.user")
        await done(publisher, event(b"6", size=900))
        broker.silent.clear()
        await asyncio.sleep(2 * ASKING)
        assert any(body.startswith(b"6") for body in bodies(broker.published)), "there is no room again"


@leaping
async def test_a_detour_outlives_a_session() -> None:
    """Given a connection that is lost meanwhile, when there is another one, then the feed goes on as it did."""
    publisher, broker = Publisher(), Silent("default.user")
    async with publishing(publisher, broker):
        await done(publisher, event(b"1"))
    later = Silent("default.user")
    async with publishing(publisher, later):
        assert await done(publisher, event(b"2")) == 0
        later.silent.clear()
        await asyncio.sleep(2 * ASKING)
    assert [body for body in bodies(later.published) if body != b"[]"] == [b"1", b"2"]


@leaping
async def test_messages_of_writes_do_not_wait_for_a_silent_queue_either() -> None:
    """Given a queue that says nothing to a write's message, when its patience is over, then the write is buried, and
    others at once; now and then it is tried. The feed and other exchanges go on.
    """
    publisher, broker = Publisher(), Silent("placed")
    async with publishing(publisher, broker):
        assert await done(publisher, carried(b"1"), event(b"e"), carried(b"2", "x", exchange="other")) == PATIENCE
        assert bodies(broker.published) == [b"e", b"2"]
        assert [(body, reason) for body, reason, _ in broker.buried] == [(b"1", "outbox_refused")]
        assert "neither taken nor refused" in broker.buried[0][2]
        assert await done(publisher, *(carried(b"%d" % number, line="k") for number in (3, 4))) == 0
        assert await done(publisher, carried(b"5", "x", exchange="other"), event(b"e")) == 0
        assert publisher.detour.held_at == []
        await asyncio.sleep(SILENCE)
        assert await done(publisher, carried(b"6")) == SHORT_PATIENCE
        await asyncio.sleep(SILENCE)
        broker.silent.clear()
        assert await done(publisher, carried(b"7")) == 0
        await asyncio.sleep(DOUBT)
        broker.silent.add("placed")
        assert await done(publisher, carried(b"8")) == PATIENCE
    assert [body for body, _, _ in broker.buried] == [b"1", b"3", b"4", b"6", b"8"]
    assert bodies(broker.published)[-1] == b"7"


@leaping
async def test_both_at_once() -> None:
    """Given silent queues behind the feed and behind an exchange, when writes go on, then neither waits for long."""
    publisher, broker = Publisher(), Silent("default.user", "placed")
    async with publishing(publisher, broker):
        assert await done(publisher, event(b"1"), carried(b"a")) == PATIENCE
        assert await done(publisher, event(b"2"), carried(b"b")) == 0
    assert bodies(broker.kept) == [b"1", b"2"]
    assert [body for body, _, _ in broker.buried] == [b"a", b"b"]
