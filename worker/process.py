"""A worker's life: open the stores, agree on the topology, then session after session until it is told to stop."""

import asyncio
import gc
import itertools
import json
import logging
import os
import random
import signal
import sys
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..events import HoldfastError, StoreConfigError, StoreUnavailable, Topology
from ..events.topology import DEFAULT_STORE
from ..events.urls import amqp_urls, mask_url
from ..stores import CompactableStore, EventStore, IndexedStore, RetentionConfig
from .access import warn_of
from .away import StoreBackError, find_away
from .broker import TIMEOUT, AmqpBroker, BrokerLostError
from .clock import ServiceClock
from .compaction import Compactor
from .engine import Engine
from .lane import StoreLostError
from .options import WorkerOptions
from .publisher import Publisher
from .session import Session
from .stacks import tell_stacks_on_request

log = logging.getLogger(__name__)

#: A session that held for this many seconds starts the delays from the beginning.
SETTLED = 30.0
#: Seconds between two sessions at most …
MAX_PAUSE = 15.0
#: … and between two attempts to begin one. They cost nothing but the attempt.
MAX_ATTEMPT_PAUSE = 2.0
#: Seconds between two looks at whether the node of a cluster takes messages.
CHECK_INTERVAL = 5.0
#: Seconds between two writes of the health file.
HEALTH_INTERVAL = 1.0


class Worker:
    """One worker process, for any number of stores."""

    def __init__(self, options: WorkerOptions, stores: Mapping[str, EventStore]) -> None:
        """Make a worker.

        :param stores: by name; the one named ``default`` keeps the topology document, or else the first.
        :raises ValueError: if the broker's addresses cannot be used.
        :raises StoreConfigError: if there is no store, or a retention for one that cannot have it.
        """
        if not stores:
            raise StoreConfigError("a worker needs at least one store")
        self._options = options = replace(options, stores=tuple(sorted(stores)))
        self._stores = stores
        self._publisher = Publisher(feed_patience=options.feed.patience)
        self._main = stores.get(DEFAULT_STORE) or next(iter(stores.values()))
        urls = amqp_urls(options.amqp_url)
        # In any order, so that not all workers go to the first node; after a loss to the next.
        self._addresses = itertools.cycle(random.sample(urls, len(urls)))
        self._connect_timeout = TIMEOUT / len(urls)
        # Where there is no other node to go to, there is nothing to be gained by it.
        self._check_interval = CHECK_INTERVAL if len(urls) > 1 else None
        self._clock = ServiceClock(self._main)
        self._stopping = asyncio.Event()
        #: Set while the worker consumes.
        self.ready = asyncio.Event()
        self._news = asyncio.Event()
        #: Whether the present session has come to the point of taking messages.
        self._consumed = False
        #: Whether any session has.
        self._lived = False
        #: Stores that cannot be reached, while others can.
        self._away: set[str] = set()
        self._engines = {
            name: Engine(
                store,
                service_time=self._clock.now,
                head_bytes=options.head_cache_bytes // len(stores),
                state_bytes=options.value_cache_bytes // len(stores),
                tells_values=options.feed.of(name).mode != "off",
                max_value_bytes=options.max_value_bytes,
                lifetime=options.lifetimes.get(name),
            )
            for name, store in stores.items()
        }
        self._compactors = [self._compactor(name, config) for name, config in options.retention.items()]

    def stop(self) -> None:
        """Ask the worker to finish what is in hand and leave."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until stopped. Survives the loss of broker and stores for as long as it takes.

        :raises StoreConfigError: if a store is unfit, or another topology is in force.
        :raises StoreUnavailable: if a store cannot be reached at the start.
        """
        warn_of(self._options.access)
        try:
            for name, store in self._stores.items():
                await _open(name, store)
            topology = await self._agree()
            await self._clock.measure()
            beside = [asyncio.ensure_future(self._clock.run()), asyncio.ensure_future(self._write_health())]
            beside += [asyncio.ensure_future(_maintain(name, store)) for name, store in self._stores.items()]
            beside += [asyncio.ensure_future(compactor.run()) for compactor in self._compactors]
            try:
                await self._run_sessions(topology)
            finally:
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)
        finally:
            for store in self._stores.values():
                await store.close()

    def _compactor(self, name: str, config: RetentionConfig) -> Compactor:
        store = self._stores.get(name)
        if not isinstance(store, CompactableStore):
            raise StoreConfigError(f"there is a retention for {name!r}, which is no store that can be compacted")
        return Compactor(name, store, config, service_time=self._clock.now)

    async def _agree(self) -> Topology:
        proposal = Topology(partitions=self._options.partitions, stores=tuple(sorted(self._stores)))
        agreed = await self._main.agree(proposal)
        for name, ours, theirs in (
            ("partitions", proposal.partitions, agreed.partitions),
            ("stores", proposal.stores, agreed.stores),
        ):
            if ours != theirs:
                raise StoreConfigError(
                    f"this worker is set to {name} {ours!r}, but the service runs with {theirs!r}. "
                    "Set it to the same; docs/deploy.md says how to change it for all."
                )
        if not agreed.min_protocol <= proposal.max_protocol:
            raise StoreConfigError(f"the service demands protocol {agreed.min_protocol}; this worker is too old")
        return agreed

    async def _run_sessions(self, topology: Topology) -> None:
        losses = attempts = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                await self._run_session(topology)
            except StoreBackError as back:
                log.info("%s: beginning anew", back)
            except Exception as loss:
                # Whatever it is: a worker that ended would leave its work to another one that meets the same.
                if not isinstance(loss, BrokerLostError | StoreLostError | StoreUnavailable):
                    log.exception("a session ended in a way that nobody foresaw")
                if self._consumed:
                    # Growing, so that a worker that cannot work does not wear out the messages' delivery limit.
                    losses = 1 if time.monotonic() - began > SETTLED else losses + 1
                    attempts = 0
                    pause = min(MAX_PAUSE, 0.1 * 2 ** min(losses, 10))
                else:
                    attempts += 1
                    pause = min(MAX_ATTEMPT_PAUSE, 0.1 * 2 ** min(attempts, 10))
                # Jittered, so that workers that lost one broker do not come back as one.
                pause *= random.uniform(0.5, 1.0)  # noqa: S311
                log.warning("session lost (%s: %s), again in %.1f s", type(loss).__name__, loss, pause)
                await self._pause(pause)

    async def _run_session(self, topology: Topology) -> None:
        self._consumed = False
        broker = AmqpBroker(self._options, next(self._addresses), connect_timeout=self._connect_timeout)
        try:
            if not await self._unless_stopped(self._prepare(broker)):
                return
            session = Session(
                broker,
                engines=self._engines,
                topology=topology,
                options=self._options,
                service_time=self._clock.now,
                publisher=self._publisher,
                suspects=None if self._lived else self._main,
                away=self._away,
                check_interval=self._check_interval,
            )
            self._consumed = self._lived = True
            await session.run(self._stopping, on_ready=self._announce)
        finally:
            self.ready.clear()
            self._news.set()
            await broker.close()

    async def _prepare(self, broker: AmqpBroker) -> None:
        self._away = await find_away(self._stores)
        for engine in self._engines.values():
            engine.knowledge.clear()
        await broker.open()

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do it, or leave it when the worker is asked to stop. Says whether it was done."""
        doing, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({doing, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                return False
            doing.result()
            return True
        finally:
            for task in (doing, stopped):
                task.cancel()
            await asyncio.gather(doing, stopped, return_exceptions=True)

    def _announce(self) -> None:
        log.info(
            "worker %s is ready: %s, %d partitions, stores %s",
            self._options.name,
            mask_url(self._options.amqp_url),
            self._options.partitions,
            ", ".join(sorted(self._stores)),
        )
        self.ready.set()
        self._news.set()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _write_health(self) -> None:
        path = self._options.health_file
        if path is None:
            return
        temporary = path.with_name(path.name + ".new")
        while True:
            ready = self.ready.is_set() and self._clock.silence < self._options.store_patience
            state = {
                "ready": ready,
                "pid": os.getpid(),
                "name": self._options.name,
                "time": time.time(),
                "feed_held_at": self._publisher.detour.held_at,
            }
            temporary.write_text(json.dumps(state))
            temporary.replace(path)
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_INTERVAL):
                    await self._news.wait()


async def _open(name: str, store: EventStore) -> None:
    """Open a store. Whatever keeps it from that is told with its name: there may be many."""
    try:
        await store.open()
    except StoreUnavailable as fault:
        raise StoreUnavailable(f"store {name!r}: {fault}") from fault
    except HoldfastError as fault:
        raise StoreConfigError(f"store {name!r}: {fault}") from fault
    except Exception as fault:
        # A package's store may let its database's errors out.
        log.debug("store %r cannot be opened", name, exc_info=fault)
        raise StoreConfigError(f"store {name!r} cannot be opened: {type(fault).__name__}: {fault}") from fault


async def _maintain(name: str, store: EventStore) -> None:
    if isinstance(store, IndexedStore):
        try:
            await store.maintain()
        except Exception:
            log.exception("the indexes of the store %s are not kept up to date any more", name)


async def run_worker(options: WorkerOptions, stores: Mapping[str, EventStore]) -> None:
    """Run a worker until SIGTERM or SIGINT; a second signal leaves at once. SIGUSR1 has it tell what it is doing.

    :raises StoreConfigError, StoreUnavailable: as :meth:`Worker.run`.
    """
    worker = Worker(options, stores)
    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        if signals > 1:
            log.warning("second signal: leaving at once; what is in hand comes to other workers")
            os._exit(1)
        log.info("asked to stop")
        worker.stop()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    tell_stacks_on_request()
    tune_interpreter()
    await worker.run()


def tune_interpreter() -> None:
    """Set what the defaults of Python do not fit: many objects but few cycles, and a thread that waits for replies.

    With the collector's default thresholds it walks the caches again and again, which takes a tenth of the worker's
    CPU. And a database thread that gets a reply has to wait for the interpreter: five milliseconds by default, as
    long as the whole append takes.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    sys.setswitchinterval(0.0005)
