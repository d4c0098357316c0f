"""Closing a link: it ends in bounded time, whatever the driver does with a cancellation."""

import asyncio
from typing import Any

from support.loops import leaping, settle

from holdfast.client.calls import Call
from holdfast.client.dispatcher import Dispatcher
from holdfast.client.link import Link


class StubbornLine:
    """A connection whose making takes a cancellation for a failure, as the driver does, or passes over it."""

    def __init__(self, *, deaf: bool) -> None:
        self.deaf = deaf
        self.attempts = 0
        self.cut = asyncio.Event()
        self.begun = asyncio.Event()

    async def connect(self) -> None:
        self.attempts += 1
        self.begun.set()
        try:
            await self.cut.wait()
        except asyncio.CancelledError:
            if self.deaf:
                await self.cut.wait()
            raise ConnectionError("scripted: the driver's own word for it") from None

    async def hang_up(self) -> None:
        self.cut.set()


async def closing(deaf: bool) -> None:
    ups: list[int] = []
    link = Link("amqp://nowhere/", name="n", on_up=lambda: ups.append(1), on_replies=lambda _: None)
    line = StubbornLine(deaf=deaf)
    made: Any = link
    made._line = line
    made._connect = line.connect
    made._lost = asyncio.get_running_loop().create_future()
    made._keeper = asyncio.create_task(made._keep())
    # Lost, and being made again.
    made._lost.set_result("scripted")
    await settle()
    line.cut.clear()
    await line.begun.wait()
    await asyncio.wait_for(link.close(), 60)
    assert made._keeper.done()
    assert line.attempts == 1
    assert ups == []


@leaping
async def test_a_cancellation_that_the_driver_calls_by_another_name_ends_the_link() -> None:
    """Given a link that is being made again, when it is closed and the driver raises something else, then it ends."""
    await closing(deaf=False)


@leaping
async def test_a_driver_that_passes_over_a_cancellation_does_not_keep_the_link() -> None:
    """Given a link that is being made again, when it is closed and the driver goes on waiting, then it is cut off."""
    await closing(deaf=True)


@leaping
async def test_a_message_that_the_driver_does_not_give_back_does_not_keep_the_client() -> None:
    """Given a publish that passes over its cancellation, when the dispatcher is closed, then it waits a moment only."""
    end = asyncio.Event()

    class DeafLink:
        up = True
        generation = 1

        async def publish(self, partition: int, body: bytes) -> None:  # noqa: ARG002
            while not end.is_set():
                try:
                    await end.wait()
                except asyncio.CancelledError:
                    continue

    dispatcher = Dispatcher(DeafLink(), on_epoch=lambda _: None)
    call = Call("c", "default", "k", b"{}", True, asyncio.get_running_loop().create_future())
    dispatcher.submit(call, 15)
    await settle()
    await asyncio.wait_for(dispatcher.close(), 60)
    assert call.reply.exception() is not None
    end.set()
    await settle()
