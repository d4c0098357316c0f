"""A TCP proxy on loopback that does to connections what networks do to them: cut, lose in silence, delay, tear.

A proxy stands in front of one server. It can tell the processes that connect to it from one another, so that a server
can be cut off from some of them and stay within reach of the others.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Self, TypeVar

from holdfast.local.ports import LOOPBACK, free_port

from .peers import Look, Peers
from .wire import TO_CLIENT, TO_SERVER, Connection, Direction

__all__ = ["TO_CLIENT", "TO_SERVER", "Direction", "Peers", "Proxy", "Rule", "Trap"]

_T = TypeVar("_T")


@dataclass(eq=False, kw_only=True)
class Rule:
    """Something that holds for the connections of some processes, or of all, until it is lifted."""

    peers: Peers | None
    cuts: bool = False
    holds: bool = False
    #: Seconds of delay, by direction.
    delays: dict[Direction, float]
    _lift: "Callable[[Rule], None]"

    def lift(self) -> None:
        """End it. What was held back goes on its way. Repeating it is harmless."""
        self._lift(self)


class Trap:
    """Strikes once, at a byte that was chosen beforehand."""

    def __init__(
        self,
        direction: Direction,
        *,
        request: bytes,
        containing: bytes,
        after: int,
        holds: bool,
        release: "Callable[[Trap], None]",
    ) -> None:
        self._direction = direction
        self._request = request
        self._containing = containing
        self._after = after
        self._release = release
        self._sprung = threading.Event()
        self.holds = holds
        #: The connection that it holds.
        self.caught: Connection | None = None
        #: Of each connection the last bytes that passed, and how many have passed since they count.
        self._tails: dict[tuple[Connection, Direction], bytes] = {}
        self._passed: dict[Connection, int] = {}

    @property
    def sprung(self) -> bool:
        """Whether it has struck."""
        return self._sprung.is_set()

    async def wait(self, timeout: float = 30.0) -> None:
        """Wait until it has struck.

        :raises TimeoutError: if it has not after ``timeout`` seconds.
        """
        if not await asyncio.to_thread(self._sprung.wait, timeout):
            raise TimeoutError(f"nothing went into the trap for {timeout:g} s")

    def release(self) -> None:
        """Let what it holds go on its way. If it has not struck yet, it never will. Repeating it is harmless."""
        self._release(self)

    # For the proxy.

    def look(self, connection: Connection, direction: Direction, data: bytes) -> int | None:
        """How many of these bytes pass before it strikes; None if it does not strike here."""
        if direction is not self._direction:
            if self._request and self._seen(connection, direction, data, self._request):
                self._passed.setdefault(connection, 0)
            return None
        if self._request and connection not in self._passed:
            return None
        if self._containing:
            return 0 if self._seen(connection, direction, data, self._containing) else None
        passed = self._passed.get(connection, 0)
        self._passed[connection] = passed + len(data)
        return self._after - passed if passed + len(data) > self._after else None

    def spring(self, connection: Connection) -> None:
        """Strike this connection."""
        self.caught = connection if self.holds else None
        self._tails.clear()
        self._passed.clear()
        self._sprung.set()

    def _seen(self, connection: Connection, direction: Direction, data: bytes, wanted: bytes) -> bool:
        # What is looked for may come in two pieces.
        together = self._tails.get((connection, direction), b"") + data
        self._tails[connection, direction] = together[1 - len(wanted) :] if len(wanted) > 1 else b""
        return wanted in together


class Proxy:
    """Listens on a port of its own and passes on what comes, in both directions, unless it is told otherwise.

    It runs in a thread. Its methods may be called from any thread, and what they say holds when they return.

    :param server: host and port of the server, asked for at each connection.
    :param port: where to listen; without it any free port.
    """

    def __init__(self, server: Callable[[], tuple[str, int]], *, port: int | None = None) -> None:
        self._server = server
        self.port = free_port(port)
        self._rules: list[Rule] = []
        self._traps: list[Trap] = []
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._faults: list[BaseException] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """host:port, for clients."""
        return f"{LOOPBACK}:{self.port}"

    def start(self) -> None:
        """Listen. Connections are reset as long as the server refuses them. No error if it listens already.

        :raises OSError: if the port is taken.
        """
        if self._thread is not None:
            return
        up: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(up,), name=f"proxy-{self.port}", daemon=True)
        self._thread.start()
        try:
            up.result()
        except OSError:
            self._thread = None
            raise

    def stop(self) -> None:
        """Reset all connections and listen no more. No error if it does not listen.

        :raises BaseExceptionGroup: with whatever went wrong inside.
        """
        thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        self._thread = self._loop = None
        if self._faults:
            faults, self._faults = self._faults, []
            raise BaseExceptionGroup(f"the proxy at {self.address} failed", faults)

    def cut(self, peers: Peers | None = None) -> Rule:
        """Reset connections, and each new one as soon as it is made.

        :param peers: only those of these processes.
        """
        return self._add(peers, cuts=True)

    def lose(self, peers: Peers | None = None) -> Rule:
        """A black hole: nothing passes and nothing is closed, in neither direction.

        As with lost packets, what was sent meanwhile arrives when it is over, the end of a connection too.

        :param peers: only on the connections of these processes.
        """
        return self._add(peers, holds=True)

    def delay(self, *, to_server: float = 0.0, to_client: float = 0.0, peers: Peers | None = None) -> Rule:
        """Let bytes take so many seconds longer. They stay in order.

        :param peers: only on the connections of these processes.
        """
        return self._add(peers, delays={TO_SERVER: to_server, TO_CLIENT: to_client})

    def restore(self) -> None:
        """Lift all rules, take away all traps, and let what they held go on its way."""
        self._call(self._restore)

    def trap(
        self,
        direction: Direction,
        *,
        request: bytes = b"",
        containing: bytes = b"",
        after: int = 0,
        holds: bool = False,
    ) -> Trap:
        """Strike the first connection on which certain bytes are about to pass: reset it.

        :param request: only on a connection on which these bytes have passed the other way before, from now on.
        :param containing: when these bytes come. The piece with the last of them does not pass.
        :param after: without ``containing``: when exactly so many bytes have passed, from now on, or from the
            request on.
        :param holds: do not reset it, but lose all on that connection in silence, from there on, until the trap is
            released.
        """
        trap = Trap(direction, request=request, containing=containing, after=after, holds=holds, release=self._release)
        self._call(lambda: self._traps.append(trap))
        return trap

    def connections(self, peers: Peers | None = None) -> int:
        """How many connections there are at the moment.

        :param peers: only those of these processes.
        """

        def count() -> int:
            look = Look()
            return sum(self._made_by(peers, connection, look) for connection in self._connections)

        return self._call(count)

    # What connections need of it, in its thread.

    def opened(self, connection: Connection) -> None:
        """Put a new connection under the rules."""
        self._connections.add(connection)
        self._apply_to(connection, Look())

    def connect(self, connection: Connection) -> None:
        """Make the connection to the server."""
        task = connection.loop.create_task(self._connect(connection))
        self._tasks.add(task)
        task.add_done_callback(self._connected)

    def pass_on(self, connection: Connection, direction: Direction, data: bytes) -> bytes:
        """Ask the traps."""
        for trap in self._traps:
            if trap.sprung or (passing := trap.look(connection, direction, data)) is None:
                continue
            trap.spring(connection)
            pipe = connection.pipes[direction]
            pipe.write(data[:passing])
            if trap.holds:
                pipe.put_back(data[passing:])
                connection.hold(True)
            else:
                connection.reset()
            return b""
        return data

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)

    # The thread.

    def _run(self, up: "Future[None]") -> None:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            loop.set_exception_handler(self._on_fault)
            listen = loop.create_server(lambda: Connection(self, loop).client, LOOPBACK, self.port)
            try:
                server = loop.run_until_complete(listen)
            except OSError as error:
                up.set_exception(error)
                return
            self._loop = loop
            up.set_result(None)
            loop.run_forever()
            server.close()
            runner.run(self._end())

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in list(self._connections):
            connection.reset()
        await asyncio.sleep(0)  # sockets are closed in the next turn

    def _on_fault(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        fault = context.get("exception")
        self._faults.append(fault if isinstance(fault, BaseException) else RuntimeError(str(context.get("message"))))

    def _call(self, action: Callable[[], _T]) -> _T:
        if self._loop is None:
            raise RuntimeError("the proxy does not run: start() it first")
        result: Future[_T] = Future()

        def run() -> None:
            try:
                result.set_result(action())
            except BaseException as error:  # noqa: BLE001 - it belongs to the caller
                result.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        return result.result(30)

    async def _connect(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: connection.server, *self._server())
        except OSError:
            connection.reset()

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            self._faults.append(fault)

    def _add(
        self,
        peers: Peers | None,
        *,
        cuts: bool = False,
        holds: bool = False,
        delays: dict[Direction, float] | None = None,
    ) -> Rule:
        rule = Rule(peers=peers, cuts=cuts, holds=holds, delays=delays or {}, _lift=self._lift)

        def add() -> None:
            self._rules.append(rule)
            self._apply()

        self._call(add)
        return rule

    def _lift(self, rule: Rule) -> None:
        def lift() -> None:
            if rule in self._rules:
                self._rules.remove(rule)
                self._apply()

        self._call(lift)

    def _release(self, trap: Trap) -> None:
        def release() -> None:
            trap.caught = None
            if trap in self._traps:
                self._traps.remove(trap)
            self._apply()

        self._call(release)

    def _restore(self) -> None:
        self._rules.clear()
        self._traps.clear()
        self._apply()

    def _apply(self) -> None:
        look = Look()
        for connection in list(self._connections):
            self._apply_to(connection, look)

    def _apply_to(self, connection: Connection, look: Look) -> None:
        rules = [rule for rule in self._rules if self._made_by(rule.peers, connection, look)]
        if any(rule.cuts for rule in rules):
            connection.reset()
            return
        for direction, pipe in connection.pipes.items():
            pipe.delay = max((rule.delays.get(direction, 0.0) for rule in rules), default=0.0)
        caught = any(trap.caught is connection for trap in self._traps)
        connection.hold(caught or any(rule.holds for rule in rules))

    def _made_by(self, peers: Peers | None, connection: Connection, look: Look) -> bool:
        return look.connects(peers, client_port=connection.client_port, server_port=self.port)
