"""The caller: what a client's calls go through, from a command to its reply, over one connection."""

import asyncio
import logging
from types import TracebackType
from typing import Self

import uuid_utils

from ..events import ClosedError, HistoryEntry, HoldfastError, Reply, TooLargeError, Unavailable, check_id, encode
from ..events.feed import FeedMode
from ..events.limits import MAX_MESSAGE_BYTES
from ..events.topology import DEFAULT_STORE
from ..events.urls import user_of
from .calls import Call, Wire, to_error
from .clock import Countdown, ServiceClock
from .dispatcher import Dispatcher
from .encryption import Encryption
from .entry import Service, to_service
from .keyspace import KeySpace, Strategy
from .link import CONNECT_TIMEOUT, Link, LinkMaker
from .options import CommandOptions, write_out
from .places import Places
from .turns import Turns
from .watch import Watch

log = logging.getLogger(__name__)

#: Seconds that a call waits for its answer, unless it says otherwise.
DEFAULT_TIMEOUT = 15.0
#: Calls without an answer at one time; more of them wait for a place.
DEFAULT_MAX_IN_FLIGHT = 8192
#: Bytes of their commands, about; more of them wait likewise.
MAX_IN_FLIGHT_BYTES = 64 * 1024 * 1024
#: Seconds between two questions for the topology: while it is being changed, workers may not agree on it.
DESCRIBE_PAUSE = 1.0


class Caller:
    """Connects, and gets every command its reply, or an honest error.

    It knows no call by its name: those of :class:`Client` are functions that take a caller, by families, in modules of
    their own.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        store: str = DEFAULT_STORE,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        name: str | None = None,
        keys: Strategy | None = None,
        encryption: Encryption | None = None,
        link: LinkMaker | None = None,
    ) -> None:
        """See :func:`connect`.

        :param link: makes what carries messages in the place of a connection to a broker.
        """
        if timeout <= 0:
            raise ValueError("timeout is a positive number of seconds")
        if max_in_flight < 1:
            raise ValueError("max_in_flight is at least 1")
        self._timeout = timeout
        self._store = store
        self._space = None if keys is None else KeySpace(keys(user_of(url)))
        self._encryption = encryption
        self._max_in_flight = max_in_flight
        self._places = Places(max_in_flight, MAX_IN_FLIGHT_BYTES)
        #: Of the handles' updates.
        self.turns = Turns()
        self._link = (link or Link)(
            url,
            name=name or f"client-{uuid_utils.uuid7()}",
            on_up=self._on_up,
            on_replies=self._on_replies,
            connect_timeout=min(timeout, CONNECT_TIMEOUT),
        )
        #: They end with it.
        self._watches: set[Watch] = set()
        self._dispatcher: Dispatcher | None = None
        self._service: Service | None = None
        self._clock = ServiceClock()
        self._describing: asyncio.Task[None] | None = None

    @property
    def default_store(self) -> str:
        """The store that calls use unless they say otherwise."""
        return self._store

    @property
    def is_encrypting(self) -> bool:
        """Whether it seals values and opens them."""
        return self._encryption is not None

    # -- the connection

    async def __aenter__(self) -> Self:
        """Connect and learn the service's partitions.

        :raises Unavailable: if the broker cannot be reached, or no worker answers within the timeout.
        """
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        await self.close()

    async def open(self) -> None:
        """Connect and learn the service's partitions; ``async with`` does it for you.

        :raises Unavailable: if the broker cannot be reached, or no worker answers within the timeout.
        :raises DeniedError: if the broker does not let this user send commands.
        """
        if self._dispatcher is not None:
            raise ClosedError("this client is open already")
        self._dispatcher = Dispatcher(self._link, on_epoch=self._on_epoch)
        try:
            await self._link.open()
        except BaseException:
            await self.close()
            raise
        try:
            await self.describe()
        except Unavailable as fault:
            await self.close()
            raise Unavailable(f"no Holdfast worker answered ({fault}). Start one with `holdfast worker`.") from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Disconnect. Repeating it is harmless.

        Calls without an answer fail: with :class:`OutcomeUnknown` if they may have been applied, else with
        :class:`ClosedError`.
        """
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is None:
            return
        for watch in list(self._watches):
            await watch.close()
        if self._describing is not None:
            self._describing.cancel()
            await asyncio.gather(self._describing, return_exceptions=True)
        await dispatcher.close()
        await self._link.close()

    # -- the service

    async def describe(self, *, timeout: float | None = None) -> Service:
        """What the service says of itself: partitions, stores and what each can do, limits, its time."""
        return await self._describe(timeout)

    async def _describe(self, timeout: float | None, *, waits: bool = True) -> Service:
        reply = await self._call({"op": "describe"}, "", "", timeout, None, mutates=False, waits=waits)
        self._service = service = to_service(reply)
        if self._dispatcher is not None:
            self._dispatcher.epoch = service.epoch
            self._dispatcher.repartition(service.partitions)
        return service

    def _on_up(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.on_up()

    def _on_replies(self, replies: list[Reply]) -> None:
        if replies and (service_time := replies[-1].time) is not None:
            self._clock.hear(service_time)
        if self._dispatcher is not None:
            self._dispatcher.on_replies(replies)

    def _on_epoch(self, _: int) -> None:
        if self._service is not None and self._describing is None:
            self._describing = asyncio.create_task(self._describe_again())

    async def _describe_again(self) -> None:
        try:
            await self.describe()
            await asyncio.sleep(DESCRIBE_PAUSE)
        except HoldfastError as fault:
            # The next reply shows the epoch again.
            log.info("the topology has changed, but no worker describes it: %s", fault)
        finally:
            self._describing = None

    # -- commands

    def _seconds(self, timeout: float | None) -> float:
        """How long a call waits for its answer."""
        return self._timeout if timeout is None else timeout

    def _name_store(self, command: Wire, store: str | None) -> str:
        """Put the store into a command, unless it is what is meant without one. Gives back its name."""
        name = store or self._store
        if name != DEFAULT_STORE:
            command["store"] = name
        return name

    def _complete(self, command: Wire, options: CommandOptions, kind: type[CommandOptions]) -> str:
        """Put options into a command, all but those that :meth:`_call` takes. Gives back the store's name.

        :param kind: which options the call takes.
        """
        if options:
            write_out(command, options, kind)
        return self._name_store(command, options.get("store"))

    async def _call(
        self,
        command: Wire,
        store: str,
        key: str,
        timeout: float | None,
        command_id: str | None,
        *,
        mutates: bool,
        waits: bool = True,
        opens: bool = True,
    ) -> Reply:
        """Send a command, and give back the reply that says ok.

        :param key: by which it finds its partition.
        :param waits: in line behind other calls, if there are too many.
        :param opens: sealed values in the reply.
        """
        dispatcher = self._dispatcher
        if dispatcher is None:
            raise ClosedError("this client is not open: use it in `async with`")
        seconds = self._timeout if timeout is None else timeout
        places = self._places
        if not waits:
            places.take_ahead()
        elif not places.take_at_once():
            seconds = await self._wait_for_place(seconds)
        size: int | None = None
        try:
            command["v"] = 1
            command["id"] = command_id = check_id(command_id) if command_id else str(uuid_utils.uuid7())
            place = key if self._space is None else self._space.enter(command, key)
            if self._encryption is not None:
                self._encryption.seal_command(command, store)
            if self._service is not None:
                now = self._clock.now()
                command["sent_at"] = int(now)
                command["deadline"] = int(now + seconds * 1000)
            body = encode(command)
            if len(body) > MAX_MESSAGE_BYTES - 2:
                raise TooLargeError(f"a command is limited to {MAX_MESSAGE_BYTES - 2} bytes, not {len(body)}")
            size = len(body)
            places.hold(size)
            reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
            call = Call(command_id, store, place, body, mutates, reply)
            dispatcher.submit(call, seconds)
            try:
                answer = await reply
            finally:
                if not reply.done() or reply.cancelled():
                    dispatcher.forget(call)
        finally:
            places.free(size)
        if self._encryption is not None and opens:
            answer = self._encryption.open_reply(answer, command, store)
        if self._space is not None:
            answer = self._space.leave(answer)
        if answer.status != "ok":
            call.key = key
            raise to_error(answer, call)
        return answer

    async def _wait_for_place(self, seconds: float) -> float:
        """Wait for a call to end. Give back how many of the seconds are left."""
        countdown = Countdown(seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._places.take()
        except TimeoutError:
            raise Unavailable(
                f"too many calls in flight for {seconds:g} s, this one was not sent: {self._max_in_flight} of them "
                f"(max_in_flight) or {MAX_IN_FLIGHT_BYTES >> 20} MiB had no answer. Make fewer at a time"
            ) from None
        return countdown.left()

    # -- what a watch needs

    async def ask(self, command: Wire, store: str, key: str) -> Reply:
        """Send a command that changes nothing. Of no use but to a watch.

        It does not wait in line behind the calls of this client: a watch asks little at a time, and when it was
        interrupted it would else tell nothing until all of them are done.
        """
        return await self._call(command, store, key, None, None, mutates=False, waits=False)

    @property
    def space(self) -> str:
        """What all its keys begin with in the store. Of no use but to a watch."""
        return "" if self._space is None else self._space.prefix

    def opened(self, entry: HistoryEntry, store: str) -> HistoryEntry:
        """An event with its value as it was before it was sealed. Of no use but to a watch."""
        return entry if self._encryption is None else self._encryption.open_event(store, entry.key or "", entry)

    async def feed_mode(self, store: str) -> FeedMode:
        """Which messages a store's events are in."""
        service = await self._describe(None, waits=False)
        match service.feed.get(store):
            case "levels" | "store" as mode:
                return mode
            case _:
                return "off"
