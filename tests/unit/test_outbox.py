"""What leaves a worker: replies first, then dead letters, then acknowledgements."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.deliveries import RememberingBroker, delivery
from support.loops import leaping, settle

from holdfast.events.limits import REPLY_MESSAGE_BYTES
from holdfast.worker.delivery import Delivery
from holdfast.worker.outbox import (
    BURIALS,
    MAX_IN_HAND_BYTES,
    MAX_LATE_BYTES,
    MAX_UNSENT_BYTES,
    REPLY_PATIENCE,
    Outbox,
    pack,
)

STAMP = {"epoch": 7, "time": 123}


def ok(command_id: str, **more: object) -> dict[str, object]:
    return {"id": command_id, "status": "ok", **more}


@asynccontextmanager
async def sending(broker: RememberingBroker) -> AsyncIterator[Outbox]:
    """An outbox at work."""
    outbox = Outbox(broker, stamp=lambda: dict(STAMP))
    task = asyncio.create_task(outbox.run())
    try:
        yield outbox
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def idle(outbox: Outbox) -> None:
    async with asyncio.timeout(10):
        await outbox.idle()


async def test_a_reply_goes_out_before_its_acknowledgement() -> None:
    """Given an answered delivery, when it is sent, then the reply first: a crash in between only repeats it."""
    broker = RememberingBroker()
    async with sending(broker) as outbox:
        taken = delivery(tag=1, correlation_id="c")
        outbox.expect(taken, 1)
        outbox.answer(taken, ok("x"))
        await idle(outbox)
    assert broker.said == [("reply", "amq.gen-1"), ("acknowledge", 1)]
    assert broker.replies == [("amq.gen-1", "c", {"id": "x", "status": "ok", **STAMP})]


async def test_dead_letters_are_confirmed_before_the_acknowledgement() -> None:
    """Given a delivery that is buried, when it is sent, then it is acknowledged last, so that it cannot get lost."""
    broker = RememberingBroker()
    async with sending(broker) as outbox:
        outbox.bury_whole(delivery(b"bad", tag=1), reason="malformed", detail="no JSON")
        await idle(outbox)
    assert broker.said == [("bury", "malformed"), ("acknowledge", 1)]
    assert broker.buried == [(b"bad", "malformed", "no JSON")]


@pytest.mark.parametrize("broken", ["reply", "bury"])
async def test_nothing_is_acknowledged_if_something_before_it_fails(broken: str) -> None:
    """Given a connection that breaks at a reply or a dead letter, when it does, then all of it is delivered again."""
    broker = RememberingBroker()
    broker.fails_at = broken
    outbox = Outbox(broker, stamp=lambda: dict(STAMP))
    taken, dead = delivery(tag=1), delivery(b"bad", tag=2)
    outbox.expect(taken, 1)
    outbox.answer(taken, ok("x"))
    outbox.bury_whole(dead, reason="malformed", detail="no JSON")
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(10):
            await outbox.run()
    assert broker.acknowledged == []


async def test_a_delivery_is_acknowledged_when_its_last_command_is_answered() -> None:
    """Given a delivery of three commands, when two are answered, then it stays in hand; with the third it goes."""
    broker = RememberingBroker()
    async with sending(broker) as outbox:
        taken, other = delivery(tag=1, is_array=True), delivery(tag=2)
        outbox.expect(taken, 3)
        outbox.expect(other, 1)
        outbox.answer(taken, ok("a"))
        outbox.answer(taken, ok("b"))
        outbox.answer(other, ok("z"))
        await broker.until_acknowledged(2)
        outbox.answer(taken, ok("c"))
        await idle(outbox)
    assert broker.acknowledged == [2, 1]
    assert sorted(
        reply["id"] for to, _, replies in broker.replies if isinstance(replies, list) for reply in replies
    ) == [
        "a",
        "b",
        "c",
    ]


async def test_an_empty_array_is_acknowledged() -> None:
    """Given a message with no commands, when it is taken, then there is nothing to do but to acknowledge it."""
    broker = RememberingBroker()
    async with sending(broker) as outbox:
        outbox.expect(delivery(b"[]", tag=1), 0)
        await idle(outbox)
    assert broker.said == [("acknowledge", 1)]


async def test_no_reply_address_no_reply() -> None:
    """Given a delivery without reply_to, when it is answered, then it is only acknowledged."""
    broker = RememberingBroker()
    async with sending(broker) as outbox:
        taken = delivery(tag=1, reply_to=None)
        outbox.expect(taken, 1)
        outbox.answer(taken, ok("x"))
        await idle(outbox)
    assert broker.said == [("acknowledge", 1)]


async def test_an_object_is_answered_with_an_object_and_an_array_with_an_array() -> None:
    """Given both kinds of messages, when they are answered, then each in its own kind, with its correlation id."""
    broker = RememberingBroker()
    async with sending(broker) as outbox:
        single, many = delivery(tag=1, correlation_id="one"), delivery(tag=2, correlation_id="many", is_array=True)
        outbox.expect(single, 1)
        outbox.expect(many, 1)
        outbox.answer(single, ok("x"))
        outbox.answer(many, ok("y"))
        await idle(outbox)
    kinds = {correlation: type(body).__name__ for _, correlation, body in broker.replies}
    assert kinds == {"one": "dict", "many": "list"}


async def test_arrays_share_a_message_only_if_their_sender_cannot_tell() -> None:
    """Given arrays of several senders and correlation ids, when answered together, then only equals are merged."""
    broker = RememberingBroker()
    async with sending(broker) as outbox:
        addresses = [("q1", None), ("q1", None), ("q1", "a"), ("q1", "b"), ("q2", None)]
        taken = [
            delivery(tag=tag, reply_to=to, correlation_id=correlation, is_array=True)
            for tag, (to, correlation) in enumerate(addresses, start=1)
        ]
        for each in taken:
            outbox.expect(each, 1)
        for each in taken:
            outbox.answer(each, ok(f"c{each.tag}"))
        await idle(outbox)
    merged = {(to, correlation): [reply["id"] for reply in replies] for to, correlation, replies in broker.replies}
    assert len(broker.replies) == len(merged)
    assert merged == {
        ("q1", None): ["c1", "c2"],
        ("q1", "a"): ["c3"],
        ("q1", "b"): ["c4"],
        ("q2", None): ["c5"],
    }
    assert broker.acknowledged == [1, 2, 3, 4, 5]


async def test_large_answers_are_sent_in_parts() -> None:
    """Given 64 answers of 256 KiB to one array, when they are sent, then in messages of a MiB at most, none lost."""
    broker = RememberingBroker()
    async with sending(broker) as outbox:
        taken = delivery(tag=1, is_array=True)
        outbox.expect(taken, 64)
        for number in range(64):
            outbox.answer(taken, ok(f"c{number}", value=orjson.Fragment(b'"' + b"x" * 256 * 1024 + b'"')))
        await idle(outbox)
    assert max(broker.sizes) <= REPLY_MESSAGE_BYTES
    assert [reply["id"] for _, _, replies in broker.replies for reply in replies] == [
        f"c{number}" for number in range(64)
    ]
    assert broker.said[-1] == ("acknowledge", 1)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=40), st.integers(60, 400))
def test_parts_are_whole_in_order_and_within_the_limit(sizes: list[int], limit: int) -> None:
    """Given answers of any sizes, when they are packed, then in order, and within the limit unless one is larger."""
    replies: list[dict[str, object]] = [ok(str(number), value="x" * size) for number, size in enumerate(sizes)]
    parts = [orjson.loads(part) for part in pack(replies, limit)]
    assert [reply for part in parts for reply in part] == replies
    assert all(len(orjson.dumps(part)) <= limit or len(part) == 1 for part in parts)


async def test_known_sizes_split_answers_before_they_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given large answers of known sizes, when they are sent, then none is encoded more than once on the way."""
    encoded: list[int] = []

    def remember(replies: list[dict[str, object]]) -> list[bytes]:
        encoded.append(len(replies))
        return pack(replies)

    monkeypatch.setattr("holdfast.worker.outbox.pack", remember)
    broker = RememberingBroker()
    value = orjson.Fragment(b'"' + b"x" * 200 * 1024 + b'"')
    async with sending(broker) as outbox:
        taken = delivery(tag=1, is_array=True)
        outbox.expect(taken, 50)
        for number in range(50):
            outbox.answer(taken, ok(f"c{number}", value=value), size=200 * 1024)
        await idle(outbox)
    assert encoded == [5] * 10
    assert len(broker.replies) == 10


@leaping
async def test_who_gives_answers_waits_while_many_of_them_are_unsent() -> None:
    """Given a broker that is slow, when more answers wait than may, then there is room when they have been written."""
    broker = BlockedBroker()
    async with sending(broker) as outbox:
        for tag in (1, 2):
            taken = delivery(tag=tag)
            outbox.expect(taken, 1)
            outbox.answer(taken, ok(str(tag), value="x"), size=MAX_UNSENT_BYTES // 2)
        waiting = asyncio.create_task(outbox.unsent.room())
        await settle()
        assert not waiting.done()

        broker.end_alarm()
        await waiting
        assert [reply["id"] for _, _, reply in broker.replies] == ["1", "2"]
        assert outbox.unsent.used == 0


async def test_a_message_is_in_hand_until_it_is_acknowledged() -> None:
    """Given messages of some bytes, when they are held, expected and done, then each is counted once until then."""
    broker = RememberingBroker()
    async with sending(broker) as outbox:
        held, taken = delivery(b"x" * (MAX_IN_HAND_BYTES - 10), tag=1), delivery(b"y" * 10, tag=2)
        outbox.hold(held)
        outbox.expect(held, 1)
        await outbox.in_hand.room()
        outbox.expect(taken, 1)
        assert outbox.in_hand.used == MAX_IN_HAND_BYTES
        waiting = asyncio.create_task(outbox.in_hand.room())
        await asyncio.sleep(0)
        assert not waiting.done()

        outbox.answer(taken, ok("x"))
        async with asyncio.timeout(10):
            await waiting
        assert broker.acknowledged == [2]
        outbox.answer(held, ok("y"))
        await idle(outbox)
    assert outbox.in_hand.used == 0


@leaping
async def test_dead_letters_wait_for_their_confirms_some_at_a_time() -> None:
    """Given a message of many commands for nobody, when they are buried, then some at a time, and all."""
    broker = SlowGrave()
    async with sending(broker) as outbox:
        taken = delivery(tag=1, is_array=True, reply_to=None)
        outbox.expect(taken, 3 * BURIALS + 1)
        for number in range(3 * BURIALS + 1):
            outbox.bury(taken, str(number).encode(), reason="bad_op", detail="no such op")
            outbox.answer(taken, None)
        await idle(outbox)
    assert broker.most == BURIALS
    assert sorted(int(body) for body, _, _ in broker.buried) == list(range(3 * BURIALS + 1))
    assert broker.acknowledged == [1]


class SlowGrave(RememberingBroker):
    """One that takes its time to confirm dead letters."""

    def __init__(self) -> None:
        super().__init__()
        self.open_graves = self.most = 0

    async def bury(self, delivery: Delivery, body: bytes, *, reason: str, detail: str, again: bool = False) -> None:
        """Publish a dead letter, some time."""
        self.open_graves += 1
        self.most = max(self.most, self.open_graves)
        await asyncio.sleep(1)
        self.open_graves -= 1
        await super().bury(delivery, body, reason=reason, detail=detail, again=again)


async def test_idle_means_that_all_is_acknowledged() -> None:
    """Given deliveries in hand, when all of them are done, then the outbox is idle, and not before."""
    broker = RememberingBroker()
    async with sending(broker) as outbox:
        await idle(outbox)
        for tag in (1, 2):
            taken = delivery(tag=tag)
            outbox.expect(taken, 1)
            waiting = asyncio.create_task(outbox.idle())
            await asyncio.sleep(0)
            assert not waiting.done()
            outbox.answer(taken, ok("x"))
            async with asyncio.timeout(10):
                await waiting
            assert broker.acknowledged[-1] == tag


class BlockedBroker(RememberingBroker):
    """One with an alarm: it takes replies only when that is over."""

    def __init__(self) -> None:
        super().__init__()
        self.has_alarm = True
        self.alarm_over = asyncio.Event()

    def end_alarm(self) -> None:
        """From now on it takes them."""
        self.has_alarm = False
        self.alarm_over.set()

    async def reply(self, body: bytes, *, to: str, correlation_id: str | None) -> None:
        """Publish a reply, some time."""
        await self.alarm_over.wait()
        await super().reply(body, to=to, correlation_id=correlation_id)


@leaping
async def test_acknowledgements_do_not_wait_for_the_end_of_an_alarm() -> None:
    """Given a broker that takes no replies, when patience is over, then acknowledgements go on and replies follow."""
    broker = BlockedBroker()
    loop = asyncio.get_running_loop()
    async with sending(broker) as outbox:
        for tag in (1, 2, 3):
            taken = delivery(tag=tag)
            outbox.expect(taken, 1)
            outbox.answer(taken, ok(str(tag)))
            await idle(outbox)
            assert loop.time() == pytest.approx(REPLY_PATIENCE)
        assert broker.said == [("acknowledge", 1), ("acknowledge", 2), ("acknowledge", 3)]

        broker.end_alarm()
        await asyncio.sleep(1)
        assert [reply["id"] for _, _, reply in broker.replies] == ["1", "2", "3"]

        taken = delivery(tag=4)
        outbox.expect(taken, 1)
        outbox.answer(taken, ok("4"))
        await idle(outbox)
        assert broker.said[-2:] == [("reply", "amq.gen-1"), ("acknowledge", 4)]


@leaping
async def test_replies_that_wait_for_the_end_of_an_alarm_are_bounded() -> None:
    """Given more replies than may wait, when the alarm goes on, then those beyond are dropped and the rest arrives."""
    broker = BlockedBroker()
    large = "x" * (MAX_LATE_BYTES // 3)
    async with sending(broker) as outbox:
        for tag in range(1, 6):
            taken = delivery(tag=tag)
            outbox.expect(taken, 1)
            outbox.answer(taken, ok(str(tag), value=large), size=len(large))
            await idle(outbox)
            # What is late is bounded by itself, and keeps nobody else waiting.
            await outbox.unsent.room()

        broker.end_alarm()
        await asyncio.sleep(1)

    assert [reply["id"] for _, _, reply in broker.replies] == ["1", "2"]
    assert broker.acknowledged == [1, 2, 3, 4, 5]


class SlowBroker(RememberingBroker):
    """One without an alarm that takes its time."""

    async def reply(self, body: bytes, *, to: str, correlation_id: str | None) -> None:
        """Publish a reply, later."""
        await asyncio.sleep(1.5 * REPLY_PATIENCE)
        await super().reply(body, to=to, correlation_id=correlation_id)


@leaping
async def test_a_slow_broker_gets_every_reply() -> None:
    """Given a broker that takes long for each reply but has no alarm, then none is dropped, nor acknowledged before."""
    broker = SlowBroker()
    large = "x" * (MAX_LATE_BYTES // 3)
    async with sending(broker) as outbox:
        for tag in range(1, 6):
            taken = delivery(tag=tag)
            outbox.expect(taken, 1)
            outbox.answer(taken, ok(str(tag), value=large), size=len(large))
            await asyncio.sleep(REPLY_PATIENCE)
        await idle(outbox)

    assert [reply["id"] for _, _, reply in broker.replies] == ["1", "2", "3", "4", "5"]
    assert [what for what, _ in broker.said[:2]] == ["reply", "acknowledge"]
    assert broker.acknowledged == [1, 2, 3, 4, 5]


@leaping
async def test_a_connection_lost_in_an_alarm_leaves_nothing_behind() -> None:
    """Given replies that wait, when the outbox ends or the connection breaks, then so do they, and nobody complains."""
    broker = BlockedBroker()
    async with sending(broker) as outbox:
        for tag in (1, 2):
            taken = delivery(tag=tag)
            outbox.expect(taken, 1)
            outbox.answer(taken, ok(str(tag)))
            await idle(outbox)
        broker.fails_at = "reply"
        broker.end_alarm()
        await asyncio.sleep(1)
        broker.alarm_over.clear()
        broker.has_alarm = True
        taken = delivery(tag=3)
        outbox.expect(taken, 1)
        outbox.answer(taken, ok("3"))
        await idle(outbox)
    await asyncio.sleep(0)

    assert broker.replies == []
