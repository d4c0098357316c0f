"""The proxy does to connections exactly what it is told, to those of whom it is told."""

import asyncio
import os
import socket
import struct
import sys
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from chaos.proxy import TO_CLIENT, TO_SERVER, Proxy
from holdfast.local.ports import LOOPBACK, free_port

#: Another process: for each line it says it to the server, over one connection, and prints the echo or the error.
TALKER = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as talk:
    for line in sys.stdin.buffer:
        try:
            talk.sendall(line)
            print(talk.recv(1000), flush=True)
        except OSError as error:
            print(type(error).__name__, flush=True)
"""


class Echo:
    """A server that gives back what it gets, and remembers it."""

    def __init__(self) -> None:
        self.port = free_port()
        self.heard = bytearray()
        self.ended = 0
        self._news = asyncio.Condition()

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                async with self._news:
                    self.heard += data
                    self._news.notify_all()
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            async with self._news:
                self.ended += 1
                self._news.notify_all()
            writer.close()

    async def until_heard(self, data: bytes) -> None:
        async with self._news:
            await self._news.wait_for(lambda: data in self.heard)

    async def until_ended(self, count: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: self.ended == count)


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    echo = Echo()
    async with await asyncio.start_server(echo.serve, LOOPBACK, echo.port):
        yield echo


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    with Proxy(lambda: (LOOPBACK, echo.port)) as proxy:
        yield proxy


class Client:
    """One connection by way of the proxy, as a bare socket: streams of asyncio forget what came before a reset."""

    def __init__(self, talk: socket.socket) -> None:
        self._talk = talk
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._talk, data)

    async def receive(self, count: int) -> bytes:
        """So many bytes, or fewer at the end."""
        data = b""
        while len(data) < count and (piece := await self._loop.sock_recv(self._talk, count - len(data))):
            data += piece
        return data

    async def say(self, data: bytes) -> bytes:
        await self.send(data)
        return await self.receive(len(data))

    async def all_until_reset(self) -> bytes:
        """What comes before the connection is reset."""
        data = b""
        with suppress(ConnectionResetError):
            while piece := await self._loop.sock_recv(self._talk, 1):
                data += piece
            pytest.fail("it was closed, not reset")
        return data

    async def hears_nothing(self) -> bool:
        """Whether nothing has come by now. What is under way may still come, so that only a hole makes this sure."""
        try:
            async with asyncio.timeout(0.1):
                await self.receive(1)
        except TimeoutError:
            return True
        return False

    def end(self) -> None:
        self._talk.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._talk.close()

    def reset(self) -> None:
        self._talk.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._talk.close()


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Client]:
    with socket.socket() as talk:
        talk.setblocking(False)
        await asyncio.get_running_loop().sock_connect(talk, (LOOPBACK, proxy.port))
        yield Client(talk)


@asynccontextmanager
async def talker(proxy: Proxy) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", TALKER, str(proxy.port), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        await process.communicate(b"")


async def told(process: Process, line: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + b"\n")
    return (await process.stdout.readline()).strip()


async def test_bytes_pass_both_ways(proxy: Proxy, echo: Echo) -> None:
    """Without any rule whatever is said arrives, much of it too, and both ends see the end."""
    much = os.urandom(1 << 20) * 8
    async with connected(proxy) as one, connected(proxy) as other:
        assert await other.say(b"hello") == b"hello"

        async def write() -> None:
            await one.send(much)
            one.end()

        writing = asyncio.create_task(write())
        assert await one.receive(len(much) + 1) == much
        await writing
        assert proxy.connections() == 1
    await echo.until_ended(2)


async def test_a_slow_reader_holds_up_the_writer(proxy: Proxy, echo: Echo) -> None:
    """Nothing piles up in the proxy when the client does not read: the server has to wait."""
    async with connected(proxy) as client:
        written = 0
        piece = bytes(1 << 16)
        with suppress(TimeoutError):
            while written < 1 << 28:
                async with asyncio.timeout(1):
                    await client.send(piece)
                written += len(piece)
        assert written < 1 << 26


async def test_a_server_that_is_not_there(proxy: Proxy) -> None:
    """As long as the server refuses connections, so does the proxy, and then no longer."""
    port = free_port()
    with Proxy(lambda: (LOOPBACK, port)) as nowhere:
        with pytest.raises(ConnectionError):
            async with connected(nowhere) as client:
                await client.say(b"hello")
        echo = Echo()
        async with await asyncio.start_server(echo.serve, LOOPBACK, port), connected(nowhere) as client:
            assert await client.say(b"hello") == b"hello"


async def test_cut(proxy: Proxy, echo: Echo) -> None:
    """A cut resets what is connected and what connects; afterwards new connections are made."""
    async with connected(proxy) as client:
        await client.say(b"hello")
        rule = proxy.cut()
        await echo.until_ended(1)
        with pytest.raises(ConnectionResetError):
            await client.receive(1)
    with pytest.raises(ConnectionError):
        async with connected(proxy) as late:
            await late.say(b"late")
    rule.lift()
    rule.lift()
    async with connected(proxy) as again:
        assert await again.say(b"again") == b"again"
    assert b"late" not in echo.heard


async def test_a_black_hole(proxy: Proxy, echo: Echo) -> None:
    """Nothing passes and nothing is closed, for new connections too; then everything arrives, ends included."""
    async with connected(proxy) as client, connected(proxy) as closing:
        await client.say(b"hello")
        await closing.say(b"hello")
        rule = proxy.lose()
        await client.send(b"lost")
        await closing.send(b"and closed")
        closing.close()
        async with connected(proxy) as late:
            await late.send(b"late")
            assert await client.hears_nothing()
            assert await late.hears_nothing()
            assert (bytes(echo.heard), echo.ended) == (b"hellohello", 0)
            rule.lift()
            assert await client.receive(4) == b"lost"
            assert await late.receive(4) == b"late"
            assert await client.say(b"again") == b"again"
            await echo.until_heard(b"and closed")
            await echo.until_ended(1)


async def test_delays(proxy: Proxy, echo: Echo) -> None:
    """What is delayed comes later than it was sent by that much, in order, in the direction that was meant."""
    loop = asyncio.get_running_loop()
    async with connected(proxy) as client:
        await client.say(b"hello")
        slow = proxy.delay(to_client=0.3)
        started = loop.time()
        await client.send(b"1")
        await echo.until_heard(b"1")
        await client.send(b"2")
        await echo.until_heard(b"2")
        # What comes behind does not overtake.
        slow.lift()
        await client.send(b"3")
        assert await client.receive(3) == b"123"
        assert loop.time() - started >= 0.3

        proxy.delay(to_server=0.3)
        started = loop.time()
        await client.send(b"4")
        await echo.until_heard(b"4")
        assert loop.time() - started >= 0.3


@pytest.mark.parametrize("after", [0, 1, 5, 9])
async def test_cut_after_so_many_bytes(proxy: Proxy, echo: Echo, after: int) -> None:
    """Exactly so many bytes of the answer arrive, and then a reset; the request had arrived whole."""
    async with connected(proxy) as client:
        await client.say(b"hello")
        trap = proxy.trap(TO_CLIENT, after=after)
        await client.send(b"0123456789")
        await trap.wait()
        assert await client.all_until_reset() == b"0123456789"[:after]
        assert echo.heard == b"hello0123456789"
    async with connected(proxy) as again:
        assert await again.say(b"it strikes once") == b"it strikes once"


async def test_cut_before_the_server_has_it(proxy: Proxy, echo: Echo) -> None:
    """Of a request that is cut exactly so many bytes arrive."""
    async with connected(proxy) as client:
        await client.say(b"hello")
        proxy.trap(TO_SERVER, after=4)
        await client.send(b"0123456789")
        await echo.until_ended(1)
        assert echo.heard == b"hello0123"


async def test_cut_between_a_request_and_its_reply(proxy: Proxy, echo: Echo) -> None:
    """The request that was chosen arrives, its reply does not; requests on other connections are not touched."""
    async with connected(proxy) as client, connected(proxy) as other:
        trap = proxy.trap(TO_CLIENT, request=b"please")
        assert await other.say(b"anything") == b"anything"
        assert await client.say(b"no, ple") == b"no, ple"
        assert await client.say(b"a") == b"a"
        assert not trap.sprung
        await client.send(b"se")
        await trap.wait()
        with pytest.raises(ConnectionResetError):
            await client.receive(1)
        assert b"no, please" in echo.heard
        assert await other.say(b"please") == b"please"


async def test_a_trap_for_content(proxy: Proxy, echo: Echo) -> None:
    """The piece with the bytes that were chosen does not pass, whatever passed before."""
    async with connected(proxy) as client:
        proxy.trap(TO_SERVER, containing=b"poison")
        assert await client.say(b"bread") == b"bread"
        assert await client.say(b"poi") == b"poi"
        await client.send(b"son")
        await echo.until_ended(1)
        assert echo.heard == b"breadpoi"


async def test_a_request_that_is_held_arrives_late(proxy: Proxy, echo: Echo) -> None:
    """A trap that holds keeps one request in the network, beyond the end of who sent it, until it is released."""
    async with connected(proxy) as other:
        async with connected(proxy) as client:
            trap = proxy.trap(TO_SERVER, containing=b"zombie", holds=True)
            await client.send(b"zombie")
            await trap.wait()
        assert await other.say(b"zombie, too") == b"zombie, too"
        assert (bytes(echo.heard), echo.ended) == (b"zombie, too", 0)
        trap.release()
        trap.release()
        await echo.until_heard(b"zombie, toozombie")
        await echo.until_ended(1)


async def test_an_end_that_arrives_at_nobody(proxy: Proxy, echo: Echo) -> None:
    """A client that is gone, unnoticed, when the end of what the server says arrives is no fault of the proxy's."""
    proxy.delay(to_client=0.1)
    for number in range(3):
        async with connected(proxy) as client, connected(proxy) as other:
            client.end()
            await echo.until_ended(2 * number + 1)
            # What is said to another one now comes behind that end.
            await other.send(b"hello")
            await echo.until_heard(b"hello" * (number + 1))
            lost = proxy.lose()
            client.reset()
            assert await other.hears_nothing()
            lost.lift()
            assert await other.receive(5) == b"hello"
        await echo.until_ended(2 * number + 2)
    proxy.stop()  # it says what went wrong inside


async def test_processes_are_told_apart(proxy: Proxy) -> None:
    """Rules for some processes leave the others alone, on connections that are there and on new ones."""
    async with talker(proxy) as other, connected(proxy) as own:
        assert await told(other, b"hello") == rb"b'hello\n'"
        assert await own.say(b"hello") == b"hello"
        assert (proxy.connections(), proxy.connections(lambda: [other.pid])) == (2, 1)

        cut = proxy.cut(lambda: [other.pid])
        assert await told(other, b"hello") == b"ConnectionResetError"
        assert await own.say(b"still here") == b"still here"
        async with connected(proxy) as late:
            assert await late.say(b"here too") == b"here too"
        cut.lift()

        cut = proxy.cut(lambda: [os.getpid()])
        async with talker(proxy) as third:
            assert await told(third, b"hello") == rb"b'hello\n'"
            with pytest.raises(ConnectionResetError):
                await own.say(b"hello")
            with pytest.raises(ConnectionError):
                async with connected(proxy) as late:
                    await late.say(b"late")


async def test_who_is_meant_may_change(proxy: Proxy) -> None:
    """Processes are asked for at each connection: one that is started later can be meant."""
    meant: set[int] = set()
    lost = proxy.lose(lambda: meant)
    async with connected(proxy) as before:
        assert await before.say(b"hello") == b"hello"
        meant.add(os.getpid())
        async with connected(proxy) as late:
            await late.send(b"late")
            assert await late.hears_nothing()
            lost.lift()
            assert await late.receive(4) == b"late"


async def test_restoring(proxy: Proxy, echo: Echo) -> None:
    """All rules and traps at once are gone, and what they held arrives."""
    async with connected(proxy) as client:
        proxy.trap(TO_SERVER, containing=b"held", holds=True)
        proxy.trap(TO_SERVER, containing=b"never")
        await client.send(b"held")
        proxy.delay(to_client=60)
        proxy.lose()
        proxy.restore()
        assert await client.receive(4) == b"held"
        assert await client.say(b"never") == b"never"


async def test_stopping(echo: Echo) -> None:
    """A proxy that is stopped resets its connections and gives its port back; it can be started again."""
    proxy = Proxy(lambda: (LOOPBACK, echo.port))
    with pytest.raises(RuntimeError, match="start"):
        proxy.cut()
    proxy.stop()
    proxy.start()
    proxy.start()
    async with connected(proxy) as client:
        await client.say(b"hello")
        proxy.stop()
        with pytest.raises(ConnectionResetError):
            await client.receive(1)
    with pytest.raises(ConnectionRefusedError):
        async with connected(proxy):
            pass
    with Proxy(lambda: (LOOPBACK, echo.port), port=proxy.port) as same:
        assert same.port == proxy.port
        async with connected(same) as client:
            assert await client.say(b"hello") == b"hello"
        with pytest.raises(OSError, match="in use"):
            proxy.start()
