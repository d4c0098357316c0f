"""Publishing to exchanges that others read: that of the change feed, and those that messages of writes go to.

The broker confirms a message when all queues that it went to have it. They are others', and one of them may neither
take nor refuse anything for hours, as a quorum queue without its majority. A channel with a message for it may then
stand still in the broker, for a minute and more: with its first message for that queue, it waits until the queue knows
it; with some dozens, it takes no more, and soon nothing is read from the whole connection. So each exchange has a
channel of its own, and one on which there was no answer is left for a new one.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelClosed, ChannelInvalidStateError, ChannelNotFoundEntity, DeliveryError
from aiormq.exceptions import ChannelAccessRefused

from ..events.topology import EVENTS
from .publication import Publication, RefusedError, SilentError

T = TypeVar("T")

#: A message, and where it goes.
Outgoing = tuple[Publication, aio_pika.Message]
#: Waits for what the broker always answers, and ends the session if it does not.
Certain = Callable[[Awaitable[Any]], Awaitable[Any]]


async def answer_to(work: asyncio.Future[T], patience: float, has_alarm: Callable[[], bool]) -> T:
    """Wait for the broker's answer to something that is published, for as long as an alarm lasts.

    :raises SilentError: if there is none for so many seconds, and no alarm that explains it.
    """
    try:
        while not work.done():
            await asyncio.wait({work}, timeout=patience)
            if not work.done() and not has_alarm():
                raise SilentError(f"no answer for {patience:g} s")
        return work.result()
    finally:
        work.add_done_callback(lambda task: task.cancelled() or task.exception())
        work.cancel()


class _Outlet:
    """A channel that is opened when it is needed, and another one when it is of no use any more."""

    def __init__(
        self,
        connection: AbstractConnection,
        certain: Certain,
        has_alarm: Callable[[], bool],
        leaving: set[asyncio.Task[None]],
    ) -> None:
        self._connection = connection
        self._certain = certain
        self._has_alarm = has_alarm
        #: Those that are being closed.
        self._leaving = leaving
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self._silent = False

    async def channel(self) -> AbstractChannel:
        # Those who wait for it get it in the order in which they came.
        async with self._opening:
            if self._silent:
                # By now all that was published side by side is over.
                self.leave()
            if self._channel is None or self._channel.is_closed:
                self._channel = await self._certain(self._connection.channel(publisher_confirms=True))
            return self._channel

    async def tell(self, outgoing: Outgoing, patience: float) -> None:
        publication, message = outgoing
        channel = await self.channel()
        exchange = await channel.get_exchange(publication.exchange, ensure=False)
        # To nobody, if nobody has bound a queue: that is what exchanges are for.
        publishing = exchange.publish(message, publication.routing_key, mandatory=False)
        try:
            await answer_to(asyncio.ensure_future(publishing), patience, self._has_alarm)
        except DeliveryError as refused:
            raise RefusedError(f"a queue does not take it: {refused!r}") from None
        except SilentError:
            self._silent = True
            raise

    def leave(self) -> None:
        """Close the channel, and do not wait for it: one that is held up is closed when that is over."""
        channel, self._channel, self._silent = self._channel, None, False
        if channel is not None and not channel.is_closed:
            closing = asyncio.ensure_future(channel.close())
            self._leaving.add(closing)
            closing.add_done_callback(self._leaving.discard)
            closing.add_done_callback(lambda task: task.cancelled() or task.exception())


class Outlets:
    """The channels of one session by which others are told."""

    def __init__(
        self,
        connection: AbstractConnection,
        *,
        certain: Certain,
        has_alarm: Callable[[], bool],
        leaving: set[asyncio.Task[None]],
    ) -> None:
        """Make them; none is opened.

        :param leaving: gets what is still being closed. To be cancelled when the connection is over.
        """
        self._outlet = partial(_Outlet, connection, certain, has_alarm, leaving)
        #: By exchange.
        self._outlets: dict[str, _Outlet] = {}

    async def tell(self, outgoing: Outgoing, patience: float) -> None:
        """Publish, and wait for the confirm.

        :raises RefusedError: if the broker does not take it.
        :raises SilentError: if it neither takes nor refuses it for so many seconds.
        """
        exchange = outgoing[0].exchange
        outlet = self._outlets.get(exchange)
        if outlet is None:
            outlet = self._outlets[exchange] = self._outlet()
        try:
            await outlet.tell(outgoing, patience)
        except (ChannelClosed, ChannelInvalidStateError):
            # The exchange is missing, or one of those on this channel may not go there. Each by itself now.
            await self.ask(outgoing, patience)

    async def ask(self, outgoing: Outgoing, patience: float) -> None:
        """As ``tell``, on a channel that nothing else depends on."""
        outlet = self._outlet()
        try:
            await outlet.tell(outgoing, patience)
        except (ChannelNotFoundEntity, ChannelAccessRefused) as refused:
            if outgoing[0].exchange == EVENTS:
                # It is ours, and made anew by the next session.
                raise
            raise RefusedError(str(refused)) from None
        finally:
            outlet.leave()
