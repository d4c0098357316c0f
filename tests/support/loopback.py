"""Broker and worker in memory: what clients publish is applied by a real engine, except where a test says otherwise."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import orjson
import pamqp.commands
import pytest
from aio_pika.exceptions import ConnectionClosed, DeliveryError

import holdfast
from holdfast.client import caller as caller_module
from holdfast.client import clock as clock_module
from holdfast.events import (
    ChangesCommand,
    DescribeCommand,
    HistoryCommand,
    KeysCommand,
    PurgeCommand,
    QueryCommand,
    ReadCommand,
    Record,
    Reply,
    WatchCommand,
    decode_commands,
    decode_replies,
)
from holdfast.stores import KeyScope, MemoryStore
from holdfast.stores.scopes import EVERYTHING
from holdfast.worker import Batch, Engine
from holdfast.worker.histories import look_up
from holdfast.worker.search import Query, Search
from holdfast.worker.watching import changes_page, watch_page

from .commands import NOW, request
from .loops import settle


@dataclass(eq=False)
class Message:
    """One message of commands on its way. A test decides what becomes of it, or it is applied and answered."""

    link: "LoopbackLink"
    partition: int
    body: bytes
    confirm: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def commands(self) -> list[dict[str, Any]]:
        """What it holds."""
        commands: list[dict[str, Any]] = orjson.loads(self.body)
        return commands

    async def apply(self) -> list[Reply]:
        """Let a worker take it; gives back what it would answer."""
        return await self.link.service.apply(self)

    def confirmed(self) -> None:
        """The broker has it."""
        if not self.confirm.done():
            self.confirm.set_result(None)

    def refused(self) -> None:
        """The broker does not take it."""
        self.confirm.set_exception(DeliveryError(None, pamqp.commands.Basic.Nack(1)))


#: Stands in for the usual: the message is confirmed, applied and answered.
Fate = Callable[[Message], Any]


class LoopbackLink:
    """In the place of a client's link."""

    def __init__(
        self, service: "Loopback", on_up: Callable[[], None], on_replies: Callable[[list[Reply]], None]
    ) -> None:
        self.service = service
        self.up = False
        self.generation = 0
        self._on_up = on_up
        self.on_replies = on_replies
        self._open: set[Message] = set()

    async def open(self) -> None:
        self.up, self.generation = True, self.generation + 1

    async def close(self) -> None:
        self.lose()

    async def publish(self, partition: int, body: bytes) -> None:
        message = Message(self, partition, body)
        self._open.add(message)
        generation = self.generation
        self.service.take(message)
        try:
            await message.confirm
        finally:
            self._open.discard(message)
            assert generation <= self.generation

    def lose(self, error: Exception | None = None) -> None:
        """The connection breaks. What was not confirmed fails."""
        self.up = False
        for message in list(self._open):
            if not message.confirm.done():
                message.confirm.set_exception(error or ConnectionClosed(320, "scripted"))

    def restore(self) -> None:
        """There is a new one."""
        self.up, self.generation = True, self.generation + 1
        self._on_up()


class Loopback:
    """A service in memory."""

    def __init__(self, *, partitions: int = 4) -> None:
        self.partitions = partitions
        self.epoch = 1
        self.store = MemoryStore()
        self.messages: list[Message] = []
        self.links: list[LoopbackLink] = []
        self._fates: deque[Fate] = deque()
        self._usual: Fate = answered
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._engine = Engine(self.store, service_time=self.service_time)

    def service_time(self) -> int:
        """Goes with the loop's clock."""
        return NOW + round(self._loop.time() * 1000)

    def script(self, *fates: Fate) -> None:
        """What becomes of the next messages, one by one; those that only ask for a description have none."""
        self._fates.extend(fates)

    @contextmanager
    def usually(self, fate: Fate) -> Iterator[None]:
        """What becomes of all messages in the meantime."""
        self._usual = fate
        yield
        self._usual = answered

    @property
    def link(self) -> LoopbackLink:
        """The last client's."""
        return self.links[-1]

    @property
    def commands(self) -> list[dict[str, Any]]:
        """All that was sent, but for questions for a description."""
        return [command for message in self.messages for command in message.commands]

    async def log(self) -> list[Record]:
        """What was applied."""
        return [record async for record in self.store.scan()]

    def take(self, message: Message) -> None:
        """A message has come."""
        if all(command["op"] == "describe" for command in message.commands):
            fate: Fate = answered
        else:
            self.messages.append(message)
            fate = self._fates.popleft() if self._fates else self._usual
        task = asyncio.ensure_future(self._meet(fate, message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _meet(self, fate: Fate, message: Message) -> None:
        result = fate(message)
        if asyncio.iscoroutine(result):
            await result

    async def apply(self, message: Message) -> list[Reply]:
        """As a worker does."""
        async with self._lock:
            return await self._apply(message)

    async def _apply(self, message: Message) -> list[Reply]:
        answers: list[tuple[str, Any]] = []
        requests = []
        for command in decode_commands(message.body).commands:
            assert not hasattr(command, "error"), f"the client sent what no worker takes: {command}"
            match command:
                case DescribeCommand():
                    answers.append((command.id, self._describe()))
                case QueryCommand():
                    answers.append((command.id, await self._query(command)))
                case WatchCommand():
                    page, _ = await watch_page(self.store, command, self.service_time())
                    answers.append((command.id, page))
                case ChangesCommand():
                    page, _ = await changes_page(self.store, command)
                    answers.append((command.id, page))
                case HistoryCommand():
                    answers.append((command.id, await look_up(self._engine, command)))
                case KeysCommand():
                    answers.append(
                        (command.id, await look_up(self._engine, command, KeyScope.of(prefixes=[command.prefix])))
                    )
                case ReadCommand() if command.at_version is not None or command.at_time is not None:
                    answers.append((command.id, await look_up(self._engine, command)))
                case _:
                    made = request(command)
                    made.author = "tester"
                    requests.append(made)
        single = [made for made in requests if not made.keys]
        if single:
            await self._engine.apply(Batch.of(single))
        for made in requests:
            if made.keys:
                await self._engine.apply(Batch([made]))
            if isinstance(made.command, PurgeCommand) and made.answer and made.answer.get("changed"):
                await self.store.strip([(made.command.key, 1, made.answer["version"] - 1)])
                self._engine.purges.finish(made.command.key, made.answer["version"])
        answers += [(made.command.id, made.answer) for made in requests]
        stamp = {"epoch": self.epoch, "time": self.service_time()}
        return decode_replies(orjson.dumps([{"id": id_, **answer, **stamp} for id_, answer in answers]))

    async def _query(self, command: QueryCommand) -> dict[str, Any]:
        search = Search(self.store, Query.of(command, EVERYTHING), service_time=self.service_time, seconds=5)
        plan = await search.plan()
        told = {"status": "ok", "scan": plan.scan, "as_of": plan.as_of}
        if command.explain:
            return told
        page = await search.run(plan)
        return {**told, "entries": [orjson.Fragment(entry) for entry in page.entries], "token": page.token}

    def _describe(self) -> dict[str, Any]:
        return {
            "status": "ok",
            "partitions": self.partitions,
            "protocol": {"min": 1, "max": 1},
            "stores": ["default"],
            "limits": {"value_bytes": 2**20, "message_bytes": 2**22, "message_commands": 10_000},
        }

    @asynccontextmanager
    async def connect(self, **options: Any) -> AsyncIterator[holdfast.Client]:
        """A client of this service."""

        def link(*_: Any, on_up: Any, on_replies: Any, **__: Any) -> LoopbackLink:
            self.links.append(LoopbackLink(self, on_up, on_replies))
            return self.links[-1]

        await self.store.open()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(caller_module, "Link", link)
            patch.setattr(clock_module, "time", SimpleNamespace(monotonic=self._loop.time))
            async with holdfast.connect("amqp://loopback/", **options) as client:
                yield client
        await settle()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def answered(message: Message) -> None:
    """The usual."""
    message.confirmed()
    replies = await message.apply()
    if message.link.up:
        message.link.on_replies(replies)


async def answer_lost(message: Message) -> None:
    """It is applied, but the answer never arrives."""
    message.confirmed()
    await message.apply()


def vanished(message: Message) -> None:
    """It is confirmed, and then no worker ever sees it."""
    message.confirmed()


def refused(message: Message) -> None:
    """The broker does not take it."""
    message.refused()


def held(message: Message) -> None:
    """Neither confirmed nor anything else, until the test does it."""


class Gate:
    """A fate: the message is confirmed and applied, and its answer waits for the test."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    async def __call__(self, message: Message) -> None:
        message.confirmed()
        replies = await message.apply()
        self.reached.set()
        await self._open.wait()
        if message.link.up:
            message.link.on_replies(replies)

    def open(self) -> None:
        """Let it through."""
        self._open.set()
