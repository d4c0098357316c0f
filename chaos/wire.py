"""Connections that pass through a proxy: two sockets, and the bytes that are under way between them."""

import asyncio
import socket
import struct
from collections import deque
from enum import Enum
from typing import Protocol

#: Bytes under way in one direction of a connection, beyond which the proxy stops to read more.
_WINDOW = 1 << 20
#: SO_LINGER of no time: what a close then sends is a reset.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Direction(Enum):
    """Which way bytes go."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT


class Keeper(Protocol):
    """What a connection needs of the proxy that it passes through."""

    def opened(self, connection: "Connection") -> None:
        """A client has connected."""

    def connect(self, connection: "Connection") -> None:
        """The server has to be connected to."""

    def pass_on(self, connection: "Connection", direction: Direction, data: bytes) -> bytes:
        """What may pass of these bytes; the rest is dealt with."""

    def closed(self, connection: "Connection") -> None:
        """It is over. May be said again."""


class Connection:
    """A client's connection, and the one to the server that belongs to it."""

    def __init__(self, keeper: Keeper, loop: asyncio.AbstractEventLoop) -> None:
        self.keeper = keeper
        self.loop = loop
        self.client, self.server = _Socket(self), _Socket(self)
        self.pipes = {
            TO_SERVER: _Pipe(self, TO_SERVER, self.client, self.server),
            TO_CLIENT: _Pipe(self, TO_CLIENT, self.server, self.client),
        }
        self.client.outgoing = self.server.incoming = self.pipes[TO_SERVER]
        self.server.outgoing = self.client.incoming = self.pipes[TO_CLIENT]
        self.client_port = 0
        #: Nothing passes, in neither direction, and no news of an end.
        self.held = False
        self._connecting = False
        self._broken = False
        self._over = False

    def made(self, end: "_Socket", transport: asyncio.Transport) -> None:
        """One of the two sockets is connected."""
        end.transport = transport
        if self._over:
            self._close(reset=True)
        elif end is self.client:
            self.client_port = transport.get_extra_info("peername")[1]
            self.keeper.opened(self)
        else:
            self._pump()

    def hold(self, held: bool) -> None:
        """Let nothing pass, or let it all go on."""
        self.held = held
        if self._over:
            return
        if not held and not self._connecting:
            self._connecting = True
            self.keeper.connect(self)
        self._pump()
        if not held and self._broken:
            self.reset()

    def ended(self) -> None:
        """One direction has come to its end."""
        if all(pipe.ended for pipe in self.pipes.values()) and not self._over:
            self._over = True
            self._close(reset=False)

    def broken(self) -> None:
        """One of the two sockets is gone."""
        self._broken = True
        if not self.held:
            self.reset()

    def reset(self) -> None:
        """End it at once, with a reset to both ends. What has been passed on arrives before it."""
        if not self._over:
            self._over = True
            self._close(reset=True)

    def _pump(self) -> None:
        for pipe in self.pipes.values():
            pipe.pump()

    def _close(self, *, reset: bool) -> None:
        for pipe in self.pipes.values():
            pipe.drop()
        for end in (self.client, self.server):
            if end.transport is None or end.transport.is_closing():
                continue
            if reset:
                opened = end.transport.get_extra_info("socket")
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                end.transport.abort()
            else:
                end.transport.close()
        self.keeper.closed(self)


class _Socket(asyncio.Protocol):
    """One end of a connection."""

    incoming: "_Pipe"
    outgoing: "_Pipe"

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not isinstance(transport, asyncio.Transport):
            raise TypeError(f"not a stream: {transport!r}")
        self._connection.made(self, transport)

    def data_received(self, data: bytes) -> None:
        self.outgoing.put(data)

    def eof_received(self) -> bool:
        self.outgoing.put(b"")
        return True  # the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._connection.broken()

    def pause_writing(self) -> None:
        self.incoming.blocked = True

    def resume_writing(self) -> None:
        self.incoming.blocked = False
        self.incoming.pump()


class _Pipe:
    """One direction of a connection."""

    def __init__(self, connection: Connection, direction: Direction, source: _Socket, sink: _Socket) -> None:
        self._connection = connection
        self._direction = direction
        self._source = source
        self._sink = sink
        #: Seconds for which bytes are under way.
        self.delay = 0.0
        #: The sink takes no more for the moment.
        self.blocked = False
        #: The end of what the source had to say has been passed on.
        self.ended = False
        self._heard_all = False
        #: What is under way, and when it arrives; nothing is the end.
        self._queue: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None

    def put(self, data: bytes) -> None:
        """Take what has come from the source; nothing is the end."""
        self._heard_all = not data
        due = self._connection.loop.time() + self.delay
        if self._queue:
            due = max(due, self._queue[-1][0])
        self._queue.append((due, data))
        self._size += len(data)
        self.pump()

    def put_back(self, data: bytes) -> None:
        """Take what may not pass yet."""
        self._queue.appendleft((0.0, data))
        self._size += len(data)

    def pump(self) -> None:
        """Pass on what has been under way for long enough."""
        loop = self._connection.loop
        while self._queue and not self._stuck:
            due, data = self._queue[0]
            if due > loop.time():
                if self._timer is None:
                    self._timer = loop.call_at(due, self._on_time)
                break
            self._queue.popleft()
            self._size -= len(data)
            if data:
                self.write(self._connection.keeper.pass_on(self._connection, self._direction, data))
            else:
                self._end()
        self._adjust()

    def write(self, data: bytes) -> None:
        """Let bytes pass."""
        if data and self._sink.transport is not None and not self._sink.transport.is_closing():
            self._sink.transport.write(data)

    def drop(self) -> None:
        """Let nothing arrive any more of what is under way."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def _stuck(self) -> bool:
        return self._connection.held or self.blocked or self._sink.transport is None

    def _on_time(self) -> None:
        self._timer = None
        self.pump()

    def _end(self) -> None:
        self.ended = True
        if self._sink.transport is not None and not self._sink.transport.is_closing():
            try:
                self._sink.transport.write_eof()
            except OSError:
                # It was reset while nobody read from it.
                self._connection.broken()
                return
        self._connection.ended()

    def _adjust(self) -> None:
        """Read on from the source, or not."""
        source = self._source.transport
        if source is None or source.is_closing() or self._heard_all:
            return
        if self._stuck or self._size > _WINDOW:
            source.pause_reading()
        else:
            source.resume_reading()
