"""A connection to RabbitMQ that puts any bytes on the wire, and many messages at a time.

Methods are the AMQP library's, contents are ours: whatever a publisher may send, this one can.
"""

import select
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from pamqp import commands, frame
from pamqp.base import Frame
from pamqp.header import ProtocolHeader

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_END = b"\xce"
_BASIC = 60
_RETURN, _DELIVER, _ACK, _NACK = 50, 60, 80, 120
_PUBLISH = 0x003C0028
#: Bytes that are read at a time.
_READ = 1 << 20

CHANNEL = 1


class LineClosedError(ConnectionError):
    """The broker has closed the connection or the channel."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that was consumed."""

    consumer: str
    #: See properties.decode.
    properties: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Confirm:
    """Messages up to this one, or this one alone, are safe in their queues; or they are not."""

    tag: int
    multiple: bool
    ok: bool


@dataclass(frozen=True, slots=True)
class Return:
    """A message found no queue."""

    body: bytes


Event = Delivery | Confirm | Return
Answer = TypeVar("Answer", bound=Frame)


def publication(exchange: str, routing_key: bytes, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """The frames of one message. The properties are as properties.encode makes them, or broken."""
    name = exchange.encode()
    method = struct.pack(">IHB", _PUBLISH, 0, len(name)) + name + bytes([len(routing_key)]) + routing_key + b"\0"
    parts = [_frame(_METHOD, method), _frame(_HEADER, struct.pack(">HHQ", _BASIC, 0, len(body)) + properties)]
    room = frame_max - 8
    parts += [_frame(_BODY, body[start : start + room]) for start in range(0, len(body), room)]
    return b"".join(parts)


def _frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, CHANNEL, len(payload)) + payload + _END


class Line:
    """One connection with one channel. Blocking while it is set up, never after that."""

    def __init__(self, amqp_url: str, *, confirms: bool = False) -> None:
        parts = urlsplit(amqp_url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 5672), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._in = bytearray()
        self._out = bytearray()
        #: What has been read of a content: its method, then its properties and size, then parts of its body.
        self._method = b""
        self._properties = b""
        self._missing = 0
        self._body: list[bytes] = []
        self._closed = ""
        self._open(unquote(parts.username or ""), unquote(parts.password or ""), unquote(parts.path[1:]))
        if confirms:
            self.call(commands.Confirm.Select(), commands.Confirm.SelectOk)

    def _open(self, user: str, password: str, vhost: str) -> None:
        self._socket.sendall(ProtocolHeader().marshal())
        self._expect(commands.Connection.Start)
        response = f"\0{user}\0{password}"
        properties: dict[str, Any] = {
            "connection_name": "fuzz",
            "capabilities": {"basic.nack": True, "consumer_cancel_notify": True},
        }
        self._say(commands.Connection.StartOk(properties, "PLAIN", response, "en_US"), channel=0)
        tune = self._expect(commands.Connection.Tune)
        self.frame_max = tune.frame_max or 131072
        self._say(commands.Connection.TuneOk(tune.channel_max or 0, self.frame_max, 0), channel=0)
        self._say(commands.Connection.Open(vhost), channel=0)
        self._expect(commands.Connection.OpenOk)
        self.call(commands.Channel.Open(), commands.Channel.OpenOk)

    def call(self, method: Frame, answer: type[Answer]) -> Answer:
        """Say something that is answered. Only before anything is published or consumed."""
        self._say(method, channel=CHANNEL)
        return self._expect(answer)

    def consume(self, queue: str) -> str:
        """Take everything from a queue, without acknowledgements. Gives back the name of the consumer.

        Its confirmation is passed over: deliveries may come before it.
        """
        tag = f"from {queue}"
        self._say(commands.Basic.Consume(queue=queue, consumer_tag=tag, no_ack=True, nowait=True), channel=CHANNEL)
        return tag

    def declare(self, queue: str = "") -> str:
        """Declare a queue of this connection's own, gone with it. Gives back its name."""
        return self.call(commands.Queue.Declare(queue=queue, exclusive=True), commands.Queue.DeclareOk).queue or ""

    def _say(self, method: Frame, *, channel: int) -> None:
        self._socket.settimeout(30)
        self._socket.sendall(frame.marshal(method, channel))

    def _expect(self, kind: type[Answer]) -> Answer:
        self._socket.settimeout(30)
        while True:
            for frame_kind, channel, payload in self._frames():
                if frame_kind != _METHOD:
                    continue
                _, _, method = frame.unmarshal(struct.pack(">BHI", _METHOD, channel, len(payload)) + payload + _END)
                if isinstance(method, kind):
                    return method
                if isinstance(method, commands.Connection.Close | commands.Channel.Close):
                    raise LineClosedError(f"{method.reply_code} {method.reply_text}")
            data = self._socket.recv(_READ)
            if not data:
                raise LineClosedError(f"hung up while {kind.name} was expected")
            self._in += data

    def write(self, data: bytes) -> None:
        """Put bytes into the buffer; :meth:`pump` sends them."""
        self._out += data

    @property
    def unsent(self) -> int:
        """Bytes that the broker has not taken yet."""
        return len(self._out)

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def pump(self) -> list[Event]:
        """Send what can be sent and give back what has come, without waiting for either.

        :raises LineClosedError: when the broker has closed it, after what came before has been given out.
        """
        if self._closed:
            raise LineClosedError(self._closed)
        self._socket.setblocking(False)
        try:
            while self._out:
                del self._out[: self._socket.send(memoryview(self._out)[:_READ])]
        except BlockingIOError:
            pass
        except OSError as lost:
            self._closed = f"not sent: {lost}"
        try:
            while True:
                data = self._socket.recv(_READ)
                if not data:
                    self._closed = self._closed or "hung up"
                    break
                self._in += data
                if len(data) < _READ:
                    break
        except BlockingIOError:
            pass
        except OSError as lost:
            self._closed = self._closed or f"not received: {lost}"
        events = list(self._events())
        if not events and self._closed:
            raise LineClosedError(self._closed)
        return events

    def _frames(self) -> Iterator[tuple[int, int, bytes]]:
        data, offset = self._in, 0
        try:
            while len(data) - offset >= 8:
                kind, channel, size = struct.unpack_from(">BHI", data, offset)
                if len(data) - offset < size + 8:
                    break
                payload = bytes(data[offset + 7 : offset + 7 + size])
                offset += size + 8
                yield kind, channel, payload
        finally:
            del data[:offset]

    def _events(self) -> Iterator[Event]:
        for kind, _, payload in self._frames():
            if kind == _METHOD:
                class_id, method_id = struct.unpack_from(">HH", payload)
                if class_id == _BASIC and method_id in (_ACK, _NACK):
                    tag, bits = struct.unpack_from(">QB", payload, 4)
                    yield Confirm(tag, multiple=bool(bits & 1), ok=method_id == _ACK)
                elif class_id == _BASIC and method_id in (_DELIVER, _RETURN):
                    self._method = payload
                else:
                    self._other(payload)
            elif kind == _HEADER:
                (self._missing,) = struct.unpack_from(">Q", payload, 4)
                self._properties, self._body = payload[12:], []
                if not self._missing:
                    yield self._content()
            elif kind == _BODY:
                self._body.append(payload)
                self._missing -= len(payload)
                if not self._missing:
                    yield self._content()

    def _content(self) -> Event:
        body = b"".join(self._body)
        if struct.unpack_from(">H", self._method, 2)[0] == _RETURN:
            return Return(body)
        return Delivery(self._method[5 : 5 + self._method[4]].decode(), self._properties, body)

    def _other(self, payload: bytes) -> None:
        _, _, method = frame.unmarshal(struct.pack(">BHI", _METHOD, CHANNEL, len(payload)) + payload + _END)
        if isinstance(method, commands.Connection.Close | commands.Channel.Close):
            self._closed = f"{method.reply_code} {method.reply_text}"
        elif isinstance(method, commands.Basic.Cancel):
            self._closed = "a consumer was cancelled"

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


def wait(lines: Sequence[Line], timeout: float) -> None:
    """Wait until one of them has something to read, or takes what it has to send."""
    select.select(lines, [line for line in lines if line.unsent], [], timeout)
