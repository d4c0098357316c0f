"""A session: what it does with what comes while it drains, and with messages that may be what kills workers."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from support.commands import NOW
from support.deliveries import RememberingBroker, delivery
from support.loops import leaping, settle

from holdfast.events import StoreUnavailable, Topology, partition_of
from holdfast.stores import MemoryStore
from holdfast.worker import Engine, WorkerOptions, session
from holdfast.worker.beside import READ_BESIDE_BYTES, beside
from holdfast.worker.broker import BrokerLostError
from holdfast.worker.budget import Budget
from holdfast.worker.delivery import Delivery
from holdfast.worker.intake import decode
from holdfast.worker.outbox import MAX_PARSED_BYTES
from holdfast.worker.session import Session


class ScriptedBroker(RememberingBroker):
    """Hands out what a test delivers."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.deliver: Callable[[Delivery, int], None]
        self.deliver_to_ingress: Callable[[Delivery], None]
        self.forwarded: list[int] = []
        #: Nothing leaves while it is closed.
        self.gate = asyncio.Event()
        self.gate.set()
        self.refusal: Exception | None = None
        self.valve: Budget | None = None
        self.takes_messages = True
        self.checks = 0
        self._checked = asyncio.Event()

    async def reply(self, body: bytes, *, to: str, correlation_id: str | None) -> None:
        """Publish a reply, when the gate is open."""
        await self.gate.wait()
        await super().reply(body, to=to, correlation_id=correlation_id)

    async def bury(self, delivery: Delivery, body: bytes, *, reason: str, detail: str, again: bool = False) -> None:
        """Publish a dead letter, when the gate is open."""
        await self.gate.wait()
        await super().bury(delivery, body, reason=reason, detail=detail, again=again)

    async def consume(self, partitions: Callable[[Delivery, int], None], ingress: Callable[[Delivery], None]) -> None:
        """Begin."""
        self.deliver, self.deliver_to_ingress = partitions, ingress
        if self.refusal is not None:
            raise self.refusal

    async def forward(self, delivery: Delivery, partition: int, body: bytes) -> None:  # noqa: ARG002
        """Take a message that goes on."""
        self.forwarded.append(partition)

    async def check(self) -> None:
        """Say whether messages are taken."""
        if not self.takes_messages:
            raise BrokerLostError("scripted: nothing is taken")
        self.checks += 1
        self._checked.set()

    async def until_checked(self, times: int) -> None:
        """Wait until it was asked so often."""
        async with asyncio.timeout(10):
            while self.checks < times:
                self._checked.clear()
                await self._checked.wait()


class SlowStore(MemoryStore):
    """One whose fences, and so whose reads, can be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.open_gate = asyncio.Event()
        self.open_gate.set()

    async def fence(self) -> Any:
        """As soon as it may."""
        await self.open_gate.wait()
        return await super().fence()


class Desk:
    """A session at work."""

    def __init__(
        self,
        *,
        wary: bool,
        drain_timeout: float,
        partitions: int,
        check_interval: float | None = None,
        store: SlowStore | None = None,
    ) -> None:
        self.broker = ScriptedBroker()
        self.store = store or SlowStore()
        self.stopping = asyncio.Event()
        self.ready = asyncio.Event()
        self.session = Session(
            self.broker,  # type: ignore[arg-type]
            engines={"default": Engine(self.store, service_time=lambda: NOW)},
            topology=Topology(partitions=partitions),
            options=WorkerOptions(amqp_url="amqp://nowhere/", partitions=partitions, drain_timeout=drain_timeout),
            service_time=lambda: NOW,
            suspects=self.store if wary else None,
            check_interval=check_interval,
        )
        self.running = asyncio.ensure_future(self.session.run(self.stopping, on_ready=self.ready.set))


@asynccontextmanager
async def bare_desk(
    *,
    wary: bool = False,
    drain_timeout: float = 25,
    partitions: int = 1,
    check_interval: float | None = None,
    store: SlowStore | None = None,
) -> AsyncIterator[Desk]:
    """A session that is about to begin."""
    made = Desk(
        wary=wary, drain_timeout=drain_timeout, partitions=partitions, check_interval=check_interval, store=store
    )
    await made.store.open()
    yield made
    made.running.cancel()
    await asyncio.gather(made.running, return_exceptions=True)


@asynccontextmanager
async def desk(**options: Any) -> AsyncIterator[Desk]:
    """A session that has begun."""
    async with bare_desk(**options) as made:
        await made.ready.wait()
        yield made


def save(number: int, **fields: Any) -> Delivery:
    command = {"op": "save", "id": f"id-{number}", "key": "k", "value": number}
    return delivery(command, tag=number, **fields)


def read(number: int) -> Delivery:
    return delivery({"op": "read", "id": f"id-{number}", "key": "k"}, tag=number)


async def test_a_drain_finishes_what_is_in_hand_and_takes_no_more() -> None:
    """Given a command in hand, when the session drains, then that one is answered and what comes later is left."""
    async with desk() as it:
        it.store.open_gate.clear()
        it.broker.deliver(read(1), 0)
        it.stopping.set()
        await settle()
        assert it.session._draining
        it.broker.deliver(save(2), 0)
        it.broker.deliver_to_ingress(save(3))
        assert not it.running.done()

        it.store.open_gate.set()
        await asyncio.wait_for(it.running, 10)

    assert it.broker.acknowledged == [1]
    assert [reply["id"] for _, _, reply in it.broker.replies] == ["id-1"]
    assert it.broker.forwarded == []


async def test_a_drain_that_takes_too_long_is_given_up() -> None:
    """Given a store that hangs, when the drain's time is over, then the session ends and leaves the rest to others."""
    async with desk(drain_timeout=0.05) as it:
        it.store.open_gate.clear()
        it.broker.deliver(read(1), 0)
        it.stopping.set()

        await asyncio.wait_for(it.running, 10)

    assert it.broker.acknowledged == []


@pytest.mark.parametrize("draining", [False, True])
async def test_a_loss_ends_the_session_at_once(draining: bool) -> None:
    """Given a session at work or in its drain, when the broker is lost, then it says so and leaves no task behind."""
    before = asyncio.all_tasks()
    async with desk() as it:
        it.store.open_gate.clear()
        it.broker.deliver(read(1), 0)
        if draining:
            it.stopping.set()
        await settle()
        assert it.session._draining is draining

        it.broker.lost.set_exception(BrokerLostError("scripted"))

        with pytest.raises(BrokerLostError):
            await asyncio.wait_for(it.running, 10)
    assert asyncio.all_tasks() == before


async def test_a_reply_that_cannot_be_published_ends_the_session() -> None:
    """Given a channel for replies that breaks, when a reply is due, then the session ends with what was raised."""
    async with desk() as it:
        it.broker.fails_at = "reply"
        it.broker.deliver(save(1), 0)

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(it.running, 10)

    assert it.broker.acknowledged == []


def often(number: int, **fields: Any) -> Delivery:
    """A message that has come back often enough to be suspected."""
    marks = {"suspect": True, "apart": True, "poison": True, "redelivered": True, "count": 5}
    return save(number, **marks, **fields)


async def test_what_ends_workers_is_found_in_whatever_order_messages_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given four messages that came back as often, of which one ends workers, then it is buried, the others are done.

    It takes three lives, in each of which they come in another order, as messages of several queues do.
    """
    store, buried, answered = SlowStore(), list[str](), list[str]()
    left = {1, 2, 3, 4}
    lives = 0
    orders = iter([(4, 3, 1, 2), (3, 1, 2, 4), (2, 1, 4, 3)])
    while 3 in left:
        lives += 1
        async with desk(wary=True, store=store) as it:
            take = it.session._intake.take
            deadly = asyncio.Event()

            def taken(
                one: Delivery, partition: int, *, it: Desk = it, take: Any = take, deadly: asyncio.Event = deadly
            ) -> None:
                if one.tag != 3:
                    take(one, partition)
                    return
                it.session._outbox.expect(one, 1)
                deadly.set()

            monkeypatch.setattr(it.session._intake, "take", taken)
            present = [number for number in next(orders) if number in left]
            for number in present:
                it.broker.deliver(often(number), 0)
            done = asyncio.create_task(it.broker.until_so_many_acknowledged(len(present)))
            died = asyncio.create_task(deadly.wait())
            await asyncio.wait({done, died}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
            assert done.done() or died.done()
            died.cancel()
            done.cancel()
            left -= set(it.broker.acknowledged)
            buried += [reason for _, reason, _ in it.broker.buried]
            answered += [reply["id"] for _, _, reply in it.broker.replies]

    assert (lives, left, buried, sorted(answered)) == (3, set(), ["poison"], ["id-1", "id-2", "id-4"])
    assert await store.strike(often(3).fingerprint) == 1


async def test_a_suspect_is_alone_in_hand() -> None:
    """Given messages in hand, when a suspect comes, then it is not noted before they are done; the next ones wait."""
    async with desk(wary=True) as it:
        it.store.open_gate.clear()
        it.broker.deliver(read(1), 0)
        it.broker.deliver(often(2), 0)
        it.broker.deliver(save(3), 0)
        await settle(100)
        assert it.session._outbox.parsed.used == len(read(1).body)
        assert await it.store.strike(often(2).fingerprint) == 1
        it.store.open_gate.set()
        await it.broker.until_so_many_acknowledged(3)

    assert it.broker.acknowledged == [1, 2, 3]
    assert it.broker.buried == []


async def test_a_suspect_is_served_while_nothing_can_be_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a store for notes that is away, when a suspect comes, then it is served like any other."""
    async with desk(wary=True) as it:

        async def away(_: str) -> int:
            raise StoreUnavailable("scripted")

        monkeypatch.setattr(it.store, "strike", away)
        monkeypatch.setattr(it.store, "clear", away)
        it.broker.deliver(often(1), 0)
        await it.broker.until_acknowledged(1)

    assert [reply["status"] for _, _, reply in it.broker.replies] == ["ok"]


async def test_a_worker_that_has_lived_buries_nothing_for_its_age() -> None:
    """Given a session that is not the first of its process, when messages come back often, then they are handled."""
    async with desk() as it:
        it.broker.deliver(save(1, suspect=True, apart=True, poison=True, redelivered=True), 0)
        await it.broker.until_acknowledged(1)

    assert it.broker.buried == []
    assert [reply["status"] for _, _, reply in it.broker.replies] == ["ok"]


# Many messages at once.


@pytest.mark.parametrize("turn", [-1.0, 1e9], ids=["long", "short"])
async def test_messages_that_take_long_leave_turns_to_others(turn: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given many messages at once, when each takes long to read, then the event loop goes on between them.

    A message of 140 KB may take a tenth of a second, and hundreds of them would hold up heartbeats until the broker
    gave the worker up. Those that are read quickly are read in one turn.
    """
    monkeypatch.setattr(session, "INTAKE_TURN", turn)
    turns = 0
    taken_in: list[int] = []

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with desk() as it:
        monkeypatch.setattr(it.session._intake, "take", lambda *_: taken_in.append(turns))
        counting = asyncio.create_task(count())
        for number in range(50):
            it.broker.deliver(read(number), 0)
        await settle(100)
        counting.cancel()

    assert len(taken_in) == 50
    assert len(set(taken_in)) == (50 if turn < 0 else 1)


@pytest.mark.parametrize("reply_to", ["somebody", None])
async def test_nothing_is_read_while_too_much_waits_to_be_sent(reply_to: str | None) -> None:
    """Given answers or dead letters that cannot leave yet, when there are enough of them, then no more are made.

    A message of 20 KB may ask for ten thousand answers: they were made faster than they could be sent, until those of
    innocent senders were dropped with them.
    """
    async with desk() as it:
        it.broker.gate.clear()
        it.session._outbox.unsent.limit = 1
        for number in (1, 2, 3):
            it.broker.deliver(delivery({"op": "fly"}, tag=number, reply_to=reply_to), 0)
        await settle()
        assert it.session._arrived.qsize() == 1
        assert it.session._outbox._open == 1

        it.broker.gate.set()
        await it.broker.until_acknowledged(1, 2, 3)


async def test_consumers_that_cannot_be_made_end_the_session() -> None:
    """Given a broker that refuses a consumer, when the session begins, then it ends with that, and is never ready."""
    async with bare_desk() as it:
        it.broker.refusal = BrokerLostError("scripted: no such queue")
        with pytest.raises(BrokerLostError, match="no such queue"):
            await asyncio.wait_for(it.running, 10)
        assert not it.ready.is_set()


async def test_what_arrives_counts_as_in_hand_until_it_is_done() -> None:
    """Given messages that wait for their turn, when they arrive, then the valve of the broker knows of their bytes."""
    async with desk() as it:
        assert it.broker.valve is it.session._outbox.in_hand
        it.store.open_gate.clear()
        first, second = read(1), delivery(b"x" * 1000, tag=2, reply_to=None)
        it.broker.deliver(first, 0)
        it.broker.deliver_to_ingress(second)
        assert it.session._outbox.in_hand.used == len(first.body) + 1000

        it.store.open_gate.set()
        await it.broker.until_acknowledged(2, 1)
        await asyncio.sleep(0)
        assert it.session._outbox.in_hand.used == 0


async def test_no_more_is_parsed_than_what_is_worked_on_next() -> None:
    """Given many large messages that arrive at once, when one takes long, then the others wait as they came."""
    async with desk() as it:
        it.store.open_gate.clear()
        body = orjson.dumps({"op": "read", "id": "x", "key": "k"}) + b" " * (MAX_PARSED_BYTES // 4)
        for tag in range(1, 11):
            it.broker.deliver(delivery(body, tag=tag), 0)
        # More turns, and turns of the reader, than it takes to parse all of them.
        for _ in range(50):
            await beside(int)
            await settle(20)
        assert it.session._outbox.in_hand.used == 10 * len(body)
        assert it.session._outbox.parsed.used == 4 * len(body)

        it.store.open_gate.set()
        await it.broker.until_acknowledged(*range(1, 11))
        await asyncio.sleep(0)
        assert it.session._outbox.parsed.used == 0


@pytest.mark.parametrize("large", [True, False])
async def test_large_messages_are_read_beside_the_event_loop(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given large and small messages on one key, then the large ones are read in a thread, and none overtakes another.

    One message of 4 MiB held up heartbeats on a busy machine until the broker gave the worker up.
    """
    readers: list[bool] = []

    def watched(taken: Delivery) -> Any:
        readers.append(threading.current_thread() is threading.main_thread())
        return decode(taken)

    monkeypatch.setattr(session, "decode", watched)
    async with desk() as it:
        blanks = b" " * (READ_BESIDE_BYTES if large else 0)
        for number in range(1, 7):
            taken = save(number)
            if number % 2:
                taken.body += blanks
            it.broker.deliver(taken, 0)
        await it.broker.until_so_many_acknowledged(6)

    assert readers == ([False] * 3 if large else [])
    versions = [(reply["id"], reply["version"]) for _, _, reply in it.broker.replies]
    assert sorted(versions) == [(f"id-{number}", number) for number in range(1, 7)]


# -- messages that cannot be taken


class BrokenIntake:
    """Cannot take the messages of one key; of a list it has answered something by then."""

    def __init__(self, desk: Desk) -> None:
        self._intake = desk.session._intake
        self._outbox = desk.session._outbox

    def take(self, taken: Delivery, partition: int) -> None:
        """Take, or fail half-way."""
        if b"odd" in taken.body:
            if taken.body.startswith(b"["):
                self._outbox.expect(taken, 2)
                self._outbox.answer(taken, {"id": "half", "status": "ok"})
            raise ZeroDivisionError("scripted")
        self._intake.take(taken, partition)


def odd(number: int, **fields: Any) -> Delivery:
    return delivery([{"op": "save", "id": f"id-{number}", "key": "odd", "value": 1}], tag=number, **fields)


@pytest.mark.parametrize("count", [1, 2])
async def test_a_message_that_cannot_be_taken_ends_the_session(count: int) -> None:
    """Given a message on which the intake fails, when it comes, then the session ends, and it is not acknowledged."""
    async with desk() as it:
        it.session._intake = BrokenIntake(it)  # type: ignore[assignment]
        it.broker.deliver(odd(1, count=count), 0)

        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(it.running, 10)

    assert it.broker.acknowledged == []
    assert it.broker.buried == []


async def test_a_message_that_could_never_be_taken_is_buried() -> None:
    """Given a message on which the intake fails again and again, when it comes, then it is buried, and others go on."""
    async with desk() as it:
        it.session._intake = BrokenIntake(it)  # type: ignore[assignment]
        it.broker.deliver(odd(1, count=3), 0)
        it.broker.deliver(save(2), 0)
        await it.broker.until_acknowledged(1, 2)

    assert [(reason, detail) for _, reason, detail in it.broker.buried] == [("internal", "ZeroDivisionError")]
    replies = [(reply["id"], reply["status"]) for _, _, reply in it.broker.replies]
    assert replies == [("half", "ok"), (None, "internal"), ("id-2", "ok")]


async def test_a_message_of_which_nothing_was_taken_is_buried() -> None:
    """Given a message on which the intake fails at once, when it is buried, then nothing of it is in hand any more."""
    async with desk() as it:
        it.session._intake = BrokenIntake(it)  # type: ignore[assignment]
        it.broker.deliver(delivery({"key": "odd"}, tag=1, count=3), 0)
        await it.broker.until_acknowledged(1)
        it.stopping.set()
        await asyncio.wait_for(it.running, 10)

    assert it.session._outbox._open == 0
    assert [body for body, _, _ in it.broker.buried] == [b'{"key":"odd"}']


async def test_what_is_answered_late_for_a_buried_message_is_not_acknowledged_twice() -> None:
    """Given a message that was buried, when commands of it get their answers yet, then they count for nothing."""
    async with desk() as it:
        it.session._intake = BrokenIntake(it)  # type: ignore[assignment]
        buried = odd(1, count=3)
        it.broker.deliver(buried, 0)
        await it.broker.until_acknowledged(1)
        it.session._outbox.answer(buried, {"id": "late", "status": "ok"})
        it.session._outbox.answer(buried, {"id": "later", "status": "ok"})
        it.broker.deliver(save(2), 0)
        await it.broker.until_acknowledged(1, 2)
        await it.session._outbox.idle()

    assert {reply["id"] for _, _, reply in it.broker.replies} == {"half", None, "late", "later", "id-2"}


@pytest.mark.parametrize("way", ["ingress", "wrong partition"])
async def test_a_message_that_can_never_be_forwarded_is_buried(way: str) -> None:
    """Given a message on which forwarding fails for a reason of its own, when it came often, then it is buried."""
    async with desk(partitions=2) as it:
        failing = it.broker

        async def forward(taken: Delivery, partition: int, body: bytes) -> None:
            raise ZeroDivisionError("scripted")

        it.session._forwarder._publish = forward
        failed = save(1, count=3)
        if way == "ingress":
            failing.deliver_to_ingress(failed)
        else:
            failing.deliver(failed, 1 - partition_of("default", "k", 2))
        await it.broker.until_acknowledged(1)

    assert [(reason, detail) for _, reason, detail in it.broker.buried] == [("internal", "ZeroDivisionError")]


async def test_a_lost_broker_buries_nothing() -> None:
    """Given a message that came often, when the connection goes while it is forwarded, then it is kept for later."""
    async with desk() as it:

        async def forward(taken: Delivery, partition: int, body: bytes) -> None:
            raise BrokerLostError("scripted")

        it.session._forwarder._publish = forward
        it.broker.deliver_to_ingress(save(1, count=50))

        with pytest.raises(BrokerLostError):
            await asyncio.wait_for(it.running, 10)

    assert it.broker.buried == []
    assert it.broker.acknowledged == []


# -- a node of a cluster that is cut off


async def test_a_broker_that_takes_nothing_ends_the_session() -> None:
    """Given a session that looks after its broker, when that takes no messages any more, then the session ends."""
    async with desk(check_interval=0.01) as it:
        await it.broker.until_checked(3)
        assert not it.running.done()
        it.broker.takes_messages = False

        with pytest.raises(BrokerLostError):
            await asyncio.wait_for(it.running, 10)


@leaping
async def test_a_broker_without_another_node_is_not_looked_after() -> None:
    """Given a session without an interval for it, when time goes by, then the broker is asked nothing."""
    async with desk() as it:
        await asyncio.sleep(3600)
        assert it.broker.checks == 0


# -- the end


async def test_a_task_that_does_not_end_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Given a task that passes over its cancellation, when the session ends, then it does not wait for it for ever."""
    monkeypatch.setattr(session, "ENDING_TIMEOUT", 0.05)
    enough = asyncio.Event()

    async def stubborn() -> None:
        while not enough.is_set():
            try:
                await enough.wait()
            except asyncio.CancelledError:
                continue

    async with desk() as it:
        it.session._beside(stubborn())
        await settle()
        it.stopping.set()
        await asyncio.wait_for(it.running, 10)

    assert "stubborn" in caplog.text
    enough.set()
    await settle()
