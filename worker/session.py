"""A session: one life of a worker's connections. It ends by a drain, or by the first thing that breaks.

Whatever was in hand when it breaks is delivered again and recognised, so there is nothing to save.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ..events import (
    Event,
    HistoryCommand,
    KeysCommand,
    PurgeCommand,
    QueryCommand,
    ReadCommand,
    Receipt,
    Status,
    StoreUnavailable,
    Topology,
)
from ..events.limits import MAX_MESSAGE_BYTES, MAX_MESSAGE_COMMANDS
from ..events.replies import error
from ..stores import CompactableStore, ExpiringStore, KeyScope, Suspects, lacking, offered
from .access import Access, conceal, conceal_results
from .away import AwayLane, turn_away
from .batch import Request, is_write
from .beside import READ_BESIDE_BYTES, beside
from .broker import BrokerLostError
from .delivery import Delivery
from .engine import Engine
from .erasure import Erasures
from .feed import feed_publications, notice, outbox_publications
from .histories import READERS, Histories, Question
from .ingress import Forwarder
from .intake import Elsewhere, Intake, Readable, decode
from .lane import Lane
from .options import WorkerOptions
from .outbox import Outbox, Wire
from .ports import SessionBroker
from .publication import Letter, Publication
from .publisher import Publisher
from .queries import SEARCHERS, Queries
from .sweep import Sweeper
from .watching import READERS as WATCH_READERS
from .watching import Watched, Watching

log = logging.getLogger(__name__)

#: Seconds of reading messages after which others get a turn of the event loop: heartbeats, and what leaves. One message
#: may take a tenth of a second, and hundreds of them may be there at once.
INTAKE_TURN = 0.02
#: How often a worker takes a message that may be what kills workers, with nothing else in hand, before it is buried.
STRIKES = 3
#: Delivery from which on a message that cannot be taken is buried.
GIVE_UP_FROM = 3
#: Seconds for tasks to end that are cancelled.
ENDING_TIMEOUT = 10.0


async def end(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait until they have ended, but not for ever for one that does not."""
    tasks = set(tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        _, left = await asyncio.wait(tasks, timeout=ENDING_TIMEOUT)
        if left:
            log.error("left behind, since they do not end when they are cancelled: %s", sorted(map(repr, left)))


class Session:
    """Wires intake, lanes and outbox to one broker, and runs them."""

    def __init__(
        self,
        broker: SessionBroker,
        *,
        engines: Mapping[str, Engine],
        topology: Topology,
        options: WorkerOptions,
        service_time: Callable[[], int],
        publisher: Publisher | None = None,
        suspects: Suspects | None = None,
        away: Collection[str] = (),
        check_interval: float | None = None,
    ) -> None:
        """Make a session.

        :param check_interval: seconds between two looks at whether the broker takes messages. A node that is cut off
            from the others keeps its connections, and delivers nothing.
        :param publisher: what the session before has left to it is published first.
        :param suspects: where it is noted which message is in hand, for the first session of a process: the one before
            may have been ended by a message.
        :param away: stores that cannot be reached, while others can: their commands are turned away.
        """
        self._broker = broker
        self._topology = topology
        self._options = options
        self._service_time = service_time
        self._publisher = publisher or Publisher()
        self._outbox = Outbox(broker, stamp=self._stamp, publisher=self._publisher)
        self._modes = {store: options.feed.of(store).mode for store in engines}
        self._lifetimes = {store: engine.lifetime for store, engine in engines.items() if engine.lifetime is not None}
        self._offered = {store: offered(engine.store) for store, engine in engines.items()}
        self._away = away
        self._lanes = {store: self._lane(store, engine) for store, engine in engines.items()}
        self._histories = {
            store: Histories(engine, outbox=self._outbox, service_time=service_time)
            for store, engine in engines.items()
        }
        self._queries = {
            store: Queries(
                store,
                engine.store,
                outbox=self._outbox,
                service_time=service_time,
                scans=store not in options.without_scans,
            )
            for store, engine in engines.items()
        }
        self._watching = {
            store: Watching(engine.store, outbox=self._outbox, service_time=service_time)
            for store, engine in engines.items()
        }
        self._erasures = {
            name: Erasures(
                engine.store,
                engine.purges,
                answered=self._answer,
                published=self._outbox.until_promised,
                patience=options.store_patience,
            )
            for name, engine in engines.items()
            if isinstance(engine.store, CompactableStore)
        }
        self._sweepers = [
            Sweeper(
                store,
                engine.store,
                partitions=topology.partitions,
                send=broker.sweep,
                service_time=service_time,
                interval=options.sweep_interval,
            )
            for store, engine in engines.items()
            if store not in away and isinstance(engine.store, ExpiringStore)
        ]
        self._forwarder = Forwarder(outbox=self._outbox, partitions=topology.partitions, publish=broker.forward)
        self._intake = Intake(
            lanes=self._lanes,
            outbox=self._outbox,
            partitions=topology.partitions,
            max_value_bytes=options.max_value_bytes,
            describe=self._describe,
            forward=lambda elsewhere: self._beside(self._pass_on(elsewhere)),
            history=self._ask_for_history,
            query=self._ask_query,
            keys=self._ask_for_keys,
            access=None if options.access.default == "open" else Access(options.access),
            lacking={name: missing for name, engine in engines.items() if (missing := lacking(engine.store))},
            watch=self._ask_to_watch,
            outbox_rules=options.outbox,
            account=broker.account,
        )
        self._suspects = suspects
        self._check_interval = check_interval
        self._draining = False
        self._arrived: asyncio.Queue[tuple[Delivery, int]] = asyncio.Queue()
        self._ingress: asyncio.Queue[Delivery] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        #: Set with the fault of the first task that fails.
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def _lane(self, store: str, engine: Engine) -> Lane | AwayLane:
        if store in self._away:
            return AwayLane(store, engine.store, turned_away=self._turned_away)
        return Lane(
            engine,
            answered=self._answered,
            failed=self._failed,
            room=self._outbox.unsent.room,
            patience=self._options.store_patience,
        )

    async def run(self, stopping: asyncio.Event, *, on_ready: Callable[[], None]) -> None:
        """Consume until ``stopping`` is set, then finish what is in hand.

        :raises BrokerLostError: when the connection, a channel or a consumer is lost.
        :raises StoreLostError: when a store stays away.
        :raises StoreBackError: when one that was away is there again.
        """
        broker = self._broker
        try:
            for lane in self._lanes.values():
                self._beside(lane.run())
            for histories in self._histories.values():
                for _ in range(READERS):
                    self._beside(histories.run())
            for queries in self._queries.values():
                for _ in range(SEARCHERS):
                    self._beside(queries.run())
            for watching in self._watching.values():
                for _ in range(WATCH_READERS):
                    self._beside(watching.run())
            for erasures in self._erasures.values():
                self._beside(erasures.run())
            for sweeper in self._sweepers:
                self._beside(sweeper.run())
            self._beside(self._outbox.run())
            self._beside(self._outbox.run_published())
            self._beside(self._publisher.run(broker))
            self._beside(self._publisher.detour.run(broker))
            if self._suspects is not None:
                # The process before may have been killed while it had an alarm, and acknowledged what it had not told.
                self._give_notice()
            self._beside(self._run_intake())
            self._beside(self._run_ingress())
            if self._check_interval is not None:
                self._beside(self._run_checks(self._check_interval))
            broker.valve = self._outbox.in_hand
            broker.reluctant = bool(self._away)
            await broker.consume(self._arrive, self._arrive_at_ingress)
            on_ready()
            await self._until(stopping.wait())
            log.info("draining: finishing what is in hand")
            await self._drain()
        finally:
            await end(self._tasks)
            self._outbox.leave()
            if self._broken.done():
                self._broken.exception()  # seen: it was raised above, or came of the cancelling

    async def _drain(self) -> None:
        # Consumers are not cancelled: the broker would at once hand what comes next to another worker, where it would
        # overtake what is in hand here. What is delivered from now on goes back when the channel is closed.
        self._draining = True
        limit = asyncio.timeout(self._options.drain_timeout)
        try:
            async with limit:
                await self._until(self._outbox.idle())
        except TimeoutError:
            if not limit.expired():
                raise
            log.warning("drain took over %g s: the rest is left to other workers", self._options.drain_timeout)

    async def _until(self, waiting: Coroutine[Any, Any, Any]) -> None:
        """Wait for something, unless the broker or a task of the session fails first."""
        waiter = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait({waiter, self._broker.lost, self._broken}, return_when=asyncio.FIRST_COMPLETED)
            for ended in (self._broker.lost, self._broken, waiter):
                if ended.done():
                    ended.result()
        finally:
            waiter.cancel()

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None and not self._broken.done():
            self._broken.set_exception(fault)

    def _arrive(self, delivery: Delivery, partition: int) -> None:
        if not self._draining:
            self._outbox.hold(delivery)
            self._arrived.put_nowait((delivery, partition))

    async def _run_intake(self) -> None:
        """One message after another, as they came, and none while too many commands or answers wait."""
        turn = time.monotonic()
        while True:
            if self._arrived.empty():
                delivery, partition = await self._arrived.get()
                turn = time.monotonic()
            else:
                delivery, partition = self._arrived.get_nowait()
            await self._outbox.unsent.room()
            await self._outbox.parsed.room()
            if not self._draining:
                with self._giving_up(delivery):
                    if self._suspects is not None and delivery.poison:
                        await self._take_alone(delivery, partition, self._suspects)
                    else:
                        await self._read_and_take(delivery, partition)
            if time.monotonic() - turn > INTAKE_TURN:
                await asyncio.sleep(0)
                turn = time.monotonic()

    async def _read_and_take(self, delivery: Delivery, partition: int) -> None:
        if len(delivery.body) >= READ_BESIDE_BYTES:
            # The next one waits meanwhile, so that none overtakes another.
            delivery.decoded = await beside(decode, delivery)
        if not self._draining:
            self._intake.take(delivery, partition)

    async def _take_alone(self, delivery: Delivery, partition: int, suspects: Suspects) -> None:
        """Find out whether it is this one that kills workers, as all that come back as often as it may be.

        Nothing else is in hand while it is, and that is noted before: so it alone has ended the lives that it is noted
        for. The order in which messages came would not tell, with several queues it is another one in every life.
        """
        await self._outbox.idle()
        mark = delivery.fingerprint
        try:
            strikes = await suspects.strike(mark)
        except StoreUnavailable as away:
            log.warning("a message that may be poison is taken without a note of that: %s", away)
            strikes = 0
        if strikes < STRIKES:
            await self._read_and_take(delivery, partition)
        else:
            log.error("a message of partition %d is poison: workers died with it, and it alone, in hand", partition)
            detail = f"workers died with it in hand; delivery {delivery.count}"
            self._outbox.bury_whole(delivery, reason="poison", detail=detail)
        await self._outbox.idle()
        with suppress(StoreUnavailable):
            await suspects.clear(mark)

    def _arrive_at_ingress(self, delivery: Delivery) -> None:
        if not self._draining:
            self._outbox.hold(delivery)
            self._ingress.put_nowait(delivery)

    async def _run_ingress(self) -> None:
        # One after another, so that two messages on one key keep their order.
        while True:
            delivery = await self._ingress.get()
            if not self._draining:
                with self._giving_up(delivery):
                    await self._forwarder.take(delivery)

    async def _run_checks(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            await self._broker.check()

    async def _pass_on(self, elsewhere: Elsewhere) -> None:
        with self._giving_up(elsewhere.delivery):
            await self._forwarder.pass_on(elsewhere)

    @contextmanager
    def _giving_up(self, delivery: Delivery) -> Iterator[None]:
        """Let a message that cannot be taken end the session, so that the next one takes it anew; but not for ever.

        All that is in hand is handed back with it, and counted as it is. So in the end it is buried by itself.
        """
        try:
            yield
        except BrokerLostError:
            raise
        except Exception as fault:
            if delivery.count < GIVE_UP_FROM:
                raise
            log.exception("a message cannot be taken, for the %d. time: it is buried", delivery.count)
            answer = error(Status.INTERNAL, "internal", "the worker could not process this message")
            self._outbox.abandon(delivery, {"id": None, **answer}, reason="internal", detail=type(fault).__name__)

    def _answered(self, requests: list[Request]) -> None:
        outbox = self._outbox
        # Taken here: they do not stay with the requests until the messages are made.
        told = [(each, each.events, each.receipt) for each in requests if each.events or each.receipt is not None]
        if told:
            outbox.publish(self._publications(told))
        for request in requests:
            answer = request.answer or {}
            if type(request.command) is PurgeCommand and answer.get("changed"):
                # It is in the log; the values are still to be erased.
                self._erasures[request.command.store].add(request, answer)
            else:
                self._answer(request, answer)

    def _answer(self, request: Request, answer: Wire) -> None:
        # Here, because an answer may come out of the log, where it stands as it was for whoever could read it.
        if request.blind:
            answer = conceal_results(answer, request.hidden) if request.keys else conceal(answer)
        self._outbox.answer(request.origin, {"id": request.command.id, **answer}, size=request.answer_size)

    def _publications(self, told: Sequence[tuple[Request, Sequence[Event], Receipt | None]]) -> Iterator[Publication]:
        yield from feed_publications(((request.command.store, events) for request, events, _ in told), self._modes)
        for request, events, receipt in told:
            for record in events if receipt is None else (receipt,):
                if record.messages:
                    # Sent again, the write finds itself in the log, and what it carries is published again.
                    body = request.command.model_dump_json(exclude_unset=True).encode()
                    yield from outbox_publications(request.command.store, record, Letter(request.origin, body))

    def _give_notice(self) -> None:
        for store, mode in self._modes.items():
            if mode != "off":
                self._publisher.owe(notice(store))

    def _failed(self, request: Request, fault: BaseException) -> None:
        body = request.command.model_dump_json(exclude_unset=True).encode()
        self._outbox.bury(request.origin, body, reason="internal", detail=type(fault).__name__)

    def _turned_away(self, requests: list[Request]) -> None:
        for request in requests:
            if is_write(request.command) and request.origin.reply_to is None:
                # There is nobody who could send it again, but for the operator.
                body = request.command.model_dump_json(exclude_unset=True).encode()
                self._outbox.bury(request.origin, body, reason="store_away", detail="the store could not be reached")
        self._answered(requests)

    def _ask_for_history(self, delivery: Delivery, command: HistoryCommand | ReadCommand) -> None:
        self._ask(Question(delivery, command))

    def _ask_for_keys(self, delivery: Delivery, command: KeysCommand, scope: KeyScope, readable: Readable) -> None:
        self._ask(Question(delivery, command, scope, readable))

    def _ask(self, question: Question) -> None:
        command = question.command
        if command.store in self._away:
            self._outbox.answer(question.delivery, {"id": command.id, **turn_away()})
        else:
            self._histories[command.store].ask(question)

    def _ask_query(self, delivery: Delivery, command: QueryCommand, scope: KeyScope) -> None:
        if command.store in self._away:
            self._outbox.answer(delivery, {"id": command.id, **turn_away()})
        else:
            self._queries[command.store].add(delivery, command, scope)

    def _ask_to_watch(self, delivery: Delivery, command: Watched) -> None:
        if command.store in self._away:
            self._outbox.answer(delivery, {"id": command.id, **turn_away()})
        elif self._modes[command.store] == "off":
            refusal = error(Status.INVALID, "feed_off", "this store has no change feed", field="store")
            self._outbox.answer(delivery, {"id": command.id, **refusal})
        else:
            self._watching[command.store].add(delivery, command)

    def _stamp(self) -> Wire:
        return {"epoch": self._topology.epoch, "time": self._service_time()}

    def _describe(self) -> Wire:
        topology = self._topology
        return {
            "status": "ok",
            "protocol": {"min": topology.min_protocol, "max": topology.max_protocol},
            "partitions": topology.partitions,
            "stores": list(topology.stores),
            "limits": {
                "value_bytes": self._options.max_value_bytes,
                "message_bytes": MAX_MESSAGE_BYTES,
                "message_commands": MAX_MESSAGE_COMMANDS,
            },
            "feed": self._modes,
            "capabilities": self._offered,
            "ttl_seconds": self._lifetimes,
        }
