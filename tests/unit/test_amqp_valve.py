"""A line that reads only as far as there is room: what waits, waits at the other end, and the line stays alive."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from yarl import URL

from holdfast import amqp
from holdfast.amqp import TRICKLE_BYTES, _Stream
from holdfast.worker.budget import Budget

PART = 64 * 1024
TOTAL = 64 * 1024 * 1024


class Peer:
    """Sends more than fits into all buffers on the way, and knows how much of it has left."""

    def __init__(self) -> None:
        self.sent = 0
        self.done = asyncio.Event()

    async def serve(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self.sent < TOTAL:
            writer.write(b"x" * PART)
            await writer.drain()
            self.sent += PART
        self.done.set()
        writer.close()


@asynccontextmanager
async def connected(budget: Budget | None) -> AsyncIterator[tuple[Peer, _Stream, asyncio.StreamReader]]:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    stream = _Stream()
    port = server.sockets[0].getsockname()[1]
    reader, writer = await stream.create(URL(f"amqp://127.0.0.1:{port}/"))
    stream.valve = budget
    try:
        yield peer, stream, reader
    finally:
        writer.transport.abort()
        server.close()
        await server.wait_closed()


class Taker:
    """Reads in parts, and counts."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.taken = 0
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self.taken < TOTAL:
            self.taken += len(await self._reader.readexactly(PART))


async def test_without_a_valve_everything_comes() -> None:
    """Given no valve, when the peer sends, then all of it is read."""
    async with connected(None) as (peer, _, reader):
        await asyncio.wait_for(Taker(reader).task, 30)
        await asyncio.wait_for(peer.done.wait(), 30)


async def test_while_there_is_no_room_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a full budget, when the peer sends, then it gets rid of what buffers hold, and goes on when there is room.

    One part is read at most: the one that was asked for already.
    """
    monkeypatch.setattr(amqp, "TRICKLE_INTERVAL", 1000.0)
    budget = Budget(100)
    budget.take(100)
    async with connected(budget) as (peer, _, reader):
        taker = Taker(reader)
        before = -1
        while peer.sent != before:
            before = peer.sent
            await asyncio.sleep(0.2)
        assert taker.taken == 0
        assert peer.sent < TOTAL

        budget.give(1)
        await asyncio.wait_for(taker.task, 30)
        await asyncio.wait_for(peer.done.wait(), 30)


async def test_a_little_gets_through_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given no room for a long time, when the peer sends, then a bounded part of it is read now and then, and heard."""
    monkeypatch.setattr(amqp, "TRICKLE_INTERVAL", 0.01)
    budget = Budget(100)
    budget.take(100)
    async with connected(budget) as (_, stream, reader):
        taker = Taker(reader)
        seen: list[int] = []
        stream.heard = False
        while taker.taken < 20 * TRICKLE_BYTES:
            await asyncio.sleep(0)
            if not seen or taker.taken != seen[-1]:
                seen.append(taker.taken)
        assert stream.heard
        # At each turn no more than the trickle, and what was asked for at its end.
        steps = [later - earlier for earlier, later in itertools.pairwise(seen)]
        assert max(steps) <= TRICKLE_BYTES + PART
        taker.task.cancel()
        await asyncio.gather(taker.task, return_exceptions=True)


async def test_who_leaves_reads_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given no room, when the valve is taken away, then everything is read, the peer's goodbye too."""
    monkeypatch.setattr(amqp, "TRICKLE_INTERVAL", 0.05)
    budget = Budget(100)
    budget.take(100)
    async with connected(budget) as (peer, stream, reader):
        taker = Taker(reader)
        await asyncio.sleep(0)
        stream.valve = None
        await asyncio.wait_for(taker.task, 30)
        await asyncio.wait_for(peer.done.wait(), 30)
