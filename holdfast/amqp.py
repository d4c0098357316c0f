"""One connection to RabbitMQ, as workers and clients use it: it says when it is lost, and can always be ended."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import aio_pika
from aio_pika.abc import AbstractConnection
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory, parse_heartbeat
from yarl import URL

#: Seconds for saying goodbye to a connection that may be dead.
GOODBYE_TIMEOUT = 5.0
#: Heartbeat intervals without a byte after which the broker, or the way to it, is taken for dead. It sends one in each.
SILENT_INTERVALS = 2
#: Seconds between two looks at whether something was heard.
LOOK_INTERVAL = 1.0
#: While there is no room for what comes in, so many bytes are read each time that so many seconds are over: a
#: connection on which nothing moves is taken for dead at both its ends.
TRICKLE_BYTES = 256 * 1024
TRICKLE_INTERVAL = 1.0


def is_cancelled() -> bool:
    """Whether the task at hand was cancelled. The driver raises CancelledError for reasons of its own too: it is what
    a connection that is closed gives to whoever waits on it.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Valve(Protocol):
    """Tells whether there is room for what comes in."""

    @property
    def full(self) -> bool:
        """Whether there is none."""

    async def room(self) -> None:
        """Wait until there is."""


class _Stream(TransportFactory):
    """Makes a connection's TCP stream and keeps hold of it, to hear whether it is alive and to be able to cut it."""

    def __init__(self) -> None:
        self._writer: asyncio.StreamWriter | None = None
        #: Whether something came in. Whoever looks sets it back.
        self.heard = False
        self.valve: Valve | None = None
        self._trickle = 0

    async def create(self, url: URL, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        factory: TransportFactory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        reader, self._writer = await factory.create(url, **options)
        take = reader.feed_data

        def feed_data(data: Any) -> None:
            self.heard = True
            take(data)

        reader.feed_data = feed_data  # type: ignore[method-assign]
        read = reader.readexactly

        async def readexactly(n: int) -> bytes:
            if self.valve is not None and self.valve.full:
                await self._wait(self.valve, n)
            return await read(n)

        # Whatever is not read here waits in the broker: the stream stops reading when it has some, then so does the
        # kernel.
        reader.readexactly = readexactly  # type: ignore[method-assign]
        return reader, self._writer

    async def _wait(self, valve: Valve, size: int) -> None:
        if self._trickle <= 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(TRICKLE_INTERVAL):
                    await valve.room()
                return
            self._trickle = TRICKLE_BYTES
        self._trickle -= size

    def cut(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


class Line:
    """A connection, not a robust one: whoever has it makes a new one when it is lost.

    It makes up for two things in the driver. Silence is noticed there after more than three heartbeat intervals only.
    And while the broker has an alarm it reads nothing from those who publish: a connection that has something left to
    write then waits for ever to be closed, whatever the driver is told.
    """

    def __init__(self, url: URL, *, name: str, on_lost: Callable[[str], None]) -> None:
        """Make a line that is not connected yet.

        :param name: shown by the broker.
        :param on_lost: told the reason when the connection has ended or is of no use any more; maybe more than once.
        """
        properties: Any = {"connection_name": name}
        self.connection: AbstractConnection = aio_pika.Connection(url, client_properties=properties)
        self._url = url
        self._stream = _Stream()
        self.connection.kwargs["transport_factory"] = self._stream
        self._on_lost = on_lost
        self._closing: asyncio.Task[None] | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._silence = 0.0

    @property
    def has_alarm(self) -> bool:
        """Whether the broker has said that it takes no messages until further notice."""
        transport = self.connection.transport
        if transport is None:
            return False
        # The driver tells it only by whether there is something to wait for.
        waiting = transport.connection.ready()
        try:
            waiting.send(None)
        except StopIteration:
            return False
        finally:
            waiting.close()
        return True

    def read_through(self, valve: Valve | None) -> None:
        """From now on, read what comes in only as far as there is room for it; always, if that is None."""
        self._stream.valve = valve

    async def connect(self, timeout: float | None = None) -> None:
        """Connect.

        :raises Exception: whatever the driver says. Hang up then, too.
        """
        await self.connection.connect(timeout=timeout)
        self.connection.close_callbacks.add(lambda _, reason: self._on_lost(f"connection closed: {reason!r}"))
        heartbeat = parse_heartbeat(self._url.query.get("heartbeat", "60"))
        if heartbeat:
            self._look(SILENT_INTERVALS * heartbeat)

    def _look(self, patience: float) -> None:
        # Counted in looks, not by the clock: after a pause of the whole process, what has come in meanwhile is heard
        # first.
        self._silence = 0.0 if self._stream.heard else self._silence + LOOK_INTERVAL
        self._stream.heard = False
        if self._silence > patience:
            self._on_lost(f"nothing heard for {patience:g} s")
            self.cut()
        else:
            self._looking = asyncio.get_running_loop().call_later(LOOK_INTERVAL, self._look, patience)

    def cut(self) -> None:
        """End it at once, without a goodbye. Hang up nevertheless."""
        self._stream.cut()

    async def hang_up(self) -> None:
        """Close the connection, or cut the line when that takes too long. Repeating it waits for what is not over yet.

        Cancelled in the middle it leaves something that must not be left to the end of the loop: hang up again then.
        The driver passes over the first cancellation of its ``close``, and then may wait for ever for something that
        the end of the loop has cancelled: ``asyncio.run`` would never return.
        """
        if self._looking is not None:
            self._looking.cancel()
        # The broker's goodbye comes behind everything else.
        self.read_through(None)
        if self._closing is None:
            self._closing = asyncio.ensure_future(self.connection.close())
            self._closing.add_done_callback(lambda task: task.cancelled() or task.exception())
        for step in (None, self.cut, self._closing.cancel, self._closing.cancel):
            if step is not None:
                step()
            await asyncio.wait({self._closing}, timeout=GOODBYE_TIMEOUT)
            if self._closing.done():
                return
