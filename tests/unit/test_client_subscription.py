"""Subscriptions to the change feed whose driver gives up in ways of its own."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from support.loops import leaping, settle
from yarl import URL

from holdfast.client import subscription as subscription_module
from holdfast.client.subscription import Subscriber, Subscription, SubscriptionLostError

NODE = URL("amqp://guest:guest@127.0.0.1:1/")


class ScriptedLine:
    """In the place of a connection: raises or waits where it is told to."""

    hung_up = 0

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect = connect
        self.connection: Any = None

    async def connect(self) -> None:
        """As the driver."""
        await self._connect()

    async def hang_up(self) -> None:
        """Count."""
        ScriptedLine.hung_up += 1


@pytest.fixture
def connecting(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Subscriber]:
    ScriptedLine.hung_up = 0

    def make(connect: Callable[[], Any]) -> Subscriber:
        monkeypatch.setattr(subscription_module, "Line", lambda *_, **__: ScriptedLine(connect))
        return Subscriber([NODE], name="test", timeout=30)

    return make


async def given_up() -> None:
    """What waits on a connection when the driver closes it gets this, and nobody has cancelled anything."""
    raise asyncio.CancelledError


@leaping
async def test_a_driver_that_gives_up_is_a_lost_subscription(connecting: Any) -> None:
    """Given CancelledError out of the driver, when subscribing, then it is lost, and can be tried again."""
    with pytest.raises(SubscriptionLostError, match="the driver gave up"):
        await connecting(given_up).subscribe(["a"])
    assert ScriptedLine.hung_up == 1


@leaping
async def test_who_is_cancelled_stays_cancelled(connecting: Any) -> None:
    """Given a caller that is cancelled while it subscribes, then that is what it gets, and the line is let go."""
    reached = asyncio.Event()

    async def wait() -> None:
        reached.set()
        await asyncio.Event().wait()

    subscribing = asyncio.create_task(connecting(wait).subscribe(["a"]))
    await reached.wait()
    subscribing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await subscribing
    assert ScriptedLine.hung_up == 1


class ScriptedChannel:
    """Answers each look at a queue by giving up."""

    async def declare_queue(self, *_: Any, **__: Any) -> Any:
        """As the driver."""
        await given_up()


@leaping
async def test_a_look_that_the_driver_gives_up_loses_the_subscription(connecting: Any) -> None:
    """Given CancelledError in the place of the queue's length, then nothing is known of it any more: it is lost."""
    connecting(given_up)
    subscription = Subscription(NODE, "test")
    subscription._channel = ScriptedChannel()  # type: ignore[assignment]
    subscription._looking = asyncio.create_task(subscription._look())
    with pytest.raises(SubscriptionLostError, match="the driver gave up"):
        async with asyncio.timeout(60):
            await subscription.next()
    await settle()
    await subscription.close()
