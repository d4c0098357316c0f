"""What leaves a worker between replies and acknowledgements: events for the feed, and messages that writes carried."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.deliveries import RememberingBroker, delivery
from support.loops import leaping, settle

from holdfast.worker import outbox as outbox_module
from holdfast.worker.feed import notice
from holdfast.worker.outbox import Outbox
from holdfast.worker.publication import Letter, Publication
from holdfast.worker.publisher import Publisher


class Exchange(RememberingBroker):
    """Confirms what is published when its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def tell(self, publication: Publication, patience: float) -> None:
        """Take a message."""
        await self.gate.wait()
        self.said.append(("publish", publication.body))
        await super().tell(publication, patience)


@asynccontextmanager
async def at_work(broker: Exchange, publisher: Publisher | None = None) -> AsyncIterator[Outbox]:
    publisher = publisher or Publisher()
    outbox = Outbox(broker, stamp=dict, publisher=publisher)
    tasks = [asyncio.ensure_future(work) for work in (outbox.run(), outbox.run_published(), publisher.run(broker))]
    try:
        yield outbox
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        outbox.leave()


def event(body: bytes, *, size: int = 0) -> Publication:
    return Publication("holdfast.events", "default.k", body + b"x" * size, "", {}, instead=notice("default"))


def carried(body: bytes) -> Publication:
    return Publication("orders", "placed", body, "", {}, letter=Letter(delivery(), b"write"))


def answer(outbox: Outbox, tag: int, *publications: Publication) -> None:
    taken = delivery(tag=tag)
    outbox.expect(taken, 1)
    if publications:
        outbox.publish(publications)
    outbox.answer(taken, {"id": str(tag), "status": "ok"})


@leaping
async def test_replies_then_events_then_acknowledgements() -> None:
    """Given a write, when it is done, then its sender hears of it first, and it is acknowledged when all have."""
    broker = Exchange()
    async with at_work(broker) as outbox:
        answer(outbox, 1, event(b"e"), carried(b"m"))
        await outbox.idle()
    assert broker.said == [("reply", "amq.gen-1"), ("publish", b"e"), ("publish", b"m"), ("acknowledge", 1)]


@leaping
async def test_no_acknowledgement_before_the_confirm() -> None:
    """Given no confirm, when time passes, then nothing is acknowledged, also not what comes behind; replies go on."""
    broker = Exchange()
    broker.gate.clear()
    async with at_work(broker) as outbox:
        answer(outbox, 1, event(b"1"))
        await settle()
        answer(outbox, 2)
        answer(outbox, 3, event(b"3"))
        await asyncio.sleep(600)
        assert broker.acknowledged == []
        assert [reply["id"] for _, _, reply in broker.replies] == ["1", "2", "3"]
        broker.gate.set()
        await outbox.idle()
    assert broker.acknowledged == [1, 2, 3]


@leaping
async def test_a_message_of_several_batches_waits_for_all_of_them() -> None:
    """Given an array that is done in two batches, when the first one's event has no confirm, then it is kept."""
    broker = Exchange()
    broker.gate.clear()
    async with at_work(broker) as outbox:
        taken = delivery(tag=1, is_array=True)
        outbox.expect(taken, 2)
        outbox.publish([event(b"1")])
        outbox.answer(taken, {"id": "a", "status": "ok"})
        await settle()
        # Of this one there is nothing to tell.
        outbox.answer(taken, {"id": "b", "status": "conflict"})
        await asyncio.sleep(60)
        assert broker.acknowledged == []
        broker.gate.set()
        await outbox.idle()
    assert broker.acknowledged == [1]


@leaping
async def test_an_alarm_holds_up_messages_but_not_the_feed() -> None:
    """Given an alarm, when writes are done, then only what is promised waits for its end."""
    broker, publisher = Exchange(), Publisher()
    broker.gate.clear()
    broker.has_alarm = True
    async with at_work(broker, publisher) as outbox:
        answer(outbox, 1, event(b"1"))
        await asyncio.sleep(2)
        assert broker.acknowledged == [1]
        answer(outbox, 2, event(b"2"))
        await settle()
        assert broker.acknowledged == [1, 2]
        answer(outbox, 3, carried(b"3"))
        answer(outbox, 4, event(b"4"))
        await asyncio.sleep(600)
        assert broker.acknowledged == [1, 2]
    # What was acknowledged is kept for the next session; what was not is delivered again.
    broker.gate.set()
    broker.has_alarm = False
    async with at_work(broker, publisher) as outbox:
        await outbox.idle()
    assert [each.body for each in broker.published] == [b"1", b"2"]


@leaping
async def test_an_alarm_that_lasts_too_long_leaves_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given more events than may wait, when the alarm is over, then one notice stands for those that were left out."""
    monkeypatch.setattr(outbox_module, "MAX_LATE_FEED_BYTES", 1000)
    broker = Exchange()
    broker.gate.clear()
    broker.has_alarm = True
    async with at_work(broker) as outbox:
        for number in range(1, 6):
            answer(outbox, number, event(b"%d" % number, size=600))
            await asyncio.sleep(2)
        assert broker.acknowledged == [1, 2, 3, 4, 5]
        broker.has_alarm = False
        broker.gate.set()
        await asyncio.sleep(1)
        answer(outbox, 6, event(b"6"))
        await outbox.idle()
    assert [each.body[:1] for each in broker.published] == [b"1", b"2", b"[", b"6"]
    assert broker.published[2].headers == {"x-holdfast-feed": "notice"}


@leaping
async def test_what_was_acknowledged_outlives_sessions_that_end_at_once() -> None:
    """Given events that were acknowledged in an alarm, when sessions break before they are out, then none is lost."""
    broker, publisher = Exchange(), Publisher()
    broker.gate.clear()
    broker.has_alarm = True
    async with at_work(broker, publisher) as outbox:
        answer(outbox, 1, event(b"1"))
        answer(outbox, 2, event(b"2"))
        await asyncio.sleep(2)
        assert broker.acknowledged == [1, 2]
    for tag in (3, 4):
        async with at_work(broker, publisher) as outbox:
            # Not acknowledged when it breaks: it is delivered again, and so this one goes.
            answer(outbox, tag, carried(b"again"))
            await settle()
    broker.gate.set()
    broker.has_alarm = False
    async with at_work(broker, publisher) as outbox:
        await outbox.idle()
    assert [each.body for each in broker.published] == [b"1", b"2"]


async def test_what_is_published_before_its_answer_is_known() -> None:
    """Given a message of several commands, when one has something to be told and no answer yet, then it is told."""
    broker = Exchange()
    async with at_work(broker) as outbox:
        taken = delivery(tag=1, reply_to=None)
        outbox.expect(taken, 2)
        outbox.publish([event(b"told")])
        outbox.answer(taken, {"id": "other", "status": "ok"})
        await settle()
        assert [publication.body for publication in broker.published] == [b"told"]
        outbox.answer(taken, {"id": "one", "status": "ok"})
        await settle()
        assert broker.acknowledged == [1]
