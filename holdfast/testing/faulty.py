"""A link on which things go wrong as a plan of faults says."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import orjson

from ..client import Client, Encryption
from ..client.link import Carrier, LinkMaker
from ..client.subscription import Subscribing
from ..events import ConflictError, ErrorInfo, HoldfastError, Reply, Status
from .faults import READING, SAME, FaultKind, Faults

Wire = dict[str, Any]


def faulty(
    faults: Faults,
    maker: LinkMaker,
    *,
    rival: Callable[[], Client],
    encryption: Encryption | None = None,
    prefix: str = "",
) -> LinkMaker:
    """A maker of links that go through the faults.

    :param rival: makes the client that provokes conflicts, whose own link does not.
    :param encryption: of the client, and of its rival.
    :param prefix: of the client's key space: faults name keys as the client does.
    """

    def make(
        url: str,
        *,
        name: str,
        on_up: Callable[[], None],
        on_replies: Callable[[list[Reply]], None],
        connect_timeout: float,
    ) -> Carrier:
        return FaultyLink(
            faults,
            rival,
            lambda replied: maker(url, name=name, on_up=on_up, on_replies=replied, connect_timeout=connect_timeout),
            encryption=encryption,
            prefix=prefix,
            on_up=on_up,
            on_replies=on_replies,
        )

    return make


class FaultyLink:
    """Goes between a client and its link."""

    def __init__(
        self,
        faults: Faults,
        rival: Callable[[], Client],
        make: Callable[[Callable[[list[Reply]], None]], Carrier],
        *,
        encryption: Encryption | None,
        prefix: str,
        on_up: Callable[[], None],
        on_replies: Callable[[list[Reply]], None],
    ) -> None:
        """Make a link.

        :param make: makes the link that carries what gets through, given where its replies go.
        """
        self._faults = faults
        self._encryption = encryption
        self._prefix = prefix
        self._on_up = on_up
        self._on_replies = on_replies
        self._inner = make(self._replied)
        self._make_rival = rival
        self._rival: Client | None = None
        self._rivalry = asyncio.Lock()
        #: Connections that were lost here, and not by the inner link.
        self._lost = 0
        self._down = False
        #: Commands whose answers do not get through as they are, and their operations.
        self._marked: dict[str, tuple[FaultKind, str]] = {}
        #: What a rival has to take away again when a command has its answer: store, key and etag.
        self._left_behind: dict[str, tuple[str, str, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def up(self) -> bool:
        """Whether messages can be published now."""
        return self._inner.up and not self._down

    @property
    def generation(self) -> int:
        """Counts connections."""
        return self._inner.generation + self._lost

    def subscriber(self) -> Subscribing:
        """As the link below: nothing goes wrong with the change feed here."""
        return self._inner.subscriber()

    async def open(self) -> None:
        """Connect."""
        await self._inner.open()

    async def close(self) -> None:
        """Disconnect, and the rival too."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._rival is not None:
            await self._rival.close()
        await self._inner.close()

    async def publish(self, partition: int, body: bytes) -> None:
        """Publish what meets no fault; let the rest meet its own."""
        if not self._faults.armed:
            await self._inner.publish(partition, body)
            return
        commands: list[Wire] = orjson.loads(body)
        passing: list[Wire] = []
        for command in commands:
            # A repeat has met its fault already.
            met = None if command["id"] in self._marked else self._faults.meet(command, self._prefix)
            if met is None:
                passing.append(command)
                continue
            kind, value = met
            if kind in ("unavailable", "timeout_not_applied"):
                self._soon(_answer(command["id"], command["op"], kind))
                continue
            if kind != "conflict":
                self._marked[command["id"]] = kind, command["op"]
            elif not await self._let_rival_write(command, value):
                continue
            passing.append(command)
        if len(passing) == len(commands):
            await self._inner.publish(partition, body)
        elif passing:
            await self._inner.publish(partition, orjson.dumps(passing))

    def _soon(self, reply: Reply) -> None:
        asyncio.get_running_loop().call_soon(self._on_replies, [reply])

    def _replied(self, replies: list[Reply]) -> None:
        passing: list[Reply] = []
        for reply in replies:
            kind, op = self._marked.pop(reply.id or "", (None, ""))
            if kind == "lost_reply":
                self._lose()
            elif kind is not None:
                passing.append(_answer(reply.id, op, kind, time=reply.time, epoch=reply.epoch))
            elif reply.id in self._left_behind:
                self._beside(self._clear_up(reply))
            else:
                passing.append(reply)
        if passing:
            self._on_replies(passing)

    def _lose(self) -> None:
        """The connection is gone, and there is a new one in the next turn of the loop."""
        if self._down:
            return
        self._down = True
        asyncio.get_running_loop().call_soon(self._restore)

    def _restore(self) -> None:
        self._lost += 1
        self._down = False
        self._on_up()

    # -- the rival

    async def _let_rival_write(self, command: Wire, value: Any) -> bool:
        """Let somebody else write first. Says whether he could; if not, the command is told, and goes no further."""
        store, key = command.get("store", "default"), command["key"]
        try:
            rival = await self._present_rival()
            if value is not SAME:
                await rival.save(key, value, store=store)
                return True
            found = await rival.read(key, store=store)
            if found is not None:
                # On condition: what somebody else writes meanwhile is as good, and not to be undone.
                await rival.save(key, found.value, etag=found.etag, store=store)
            elif command.get("etag") is None:
                value = command["value"]
                if self._encryption is not None:
                    value = self._encryption.open(store, key, value, command_id=command["id"])
                saved = await rival.save(key, value, first_write=True, store=store)
                self._left_behind[command["id"]] = (store, key, saved.etag)
        except ConflictError:
            return True  # somebody was quicker
        except HoldfastError as fault:
            told = ErrorInfo(code="fault", message=f"the rival of a test could not write {key!r}: {fault}")
            self._soon(Reply(id=command["id"], status=Status.INTERNAL, error=told))
            return False
        return True

    async def _present_rival(self) -> Client:
        async with self._rivalry:
            if self._rival is None:
                rival = self._make_rival()
                await rival.open()
                self._rival = rival
            return self._rival

    async def _clear_up(self, reply: Reply) -> None:
        """Take away what the rival put where nothing was, and only then tell of the conflict."""
        store, key, etag = self._left_behind.pop(reply.id or "")
        rival = await self._present_rival()
        try:
            await rival.delete(key, etag=etag, store=store)
        except ConflictError:
            pass  # somebody else has written since, which is as good
        finally:
            self._on_replies([reply])

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _answer(command_id: str | None, op: str, kind: FaultKind, **stamp: Any) -> Reply:
    """What the client is told in the place of an answer."""
    if kind == "unavailable":
        status, message = Status.UNAVAILABLE, "not applied (a fault of the test)"
    elif op in READING:
        status, message = Status.EXPIRED, "no answer (a fault of the test)"
    else:
        status, message = Status.UNKNOWN, "no answer: the command may have been applied (a fault of the test)"
    return Reply(id=command_id, status=status, error=ErrorInfo(code="fault", message=message), **stamp)
