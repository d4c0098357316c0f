"""Connections to the broker for looking after dead letters, and what can go wrong with them in words."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import (
    AuthenticationError,
    ChannelNotFoundEntity,
    ProbableAuthenticationError,
)
from aiormq.exceptions import ChannelAccessRefused

from ..amqp import Line
from ..events import DeniedError, HoldfastError, InvalidError, Unavailable
from ..events.urls import amqp_urls, mask_url
from ..reasons import reason_of

#: Seconds for connecting to one node.
CONNECT_TIMEOUT = 10.0
#: Seconds. A reader that is frozen keeps letters from everybody else for two of these.
HEARTBEAT = 10


class LostError(Unavailable):
    """The connection is gone. What was being sent over it may have arrived."""


@asynccontextmanager
async def connected(url: str, purpose: str) -> AsyncIterator[AbstractConnection]:
    """A connection, closed afterwards.

    :param url: one or several, of nodes of one cluster.
    :raises InvalidError: if a URL cannot be used.
    :raises Unavailable: if no node can be reached, or the login is refused.
    """
    try:
        urls = list(amqp_urls(url))
    except ValueError as fault:
        raise InvalidError(str(fault), field="url") from None
    random.shuffle(urls)
    for number, each in enumerate(urls, start=1):
        # Whoever uses the connection meets its loss anyway.
        line = Line(
            each.update_query({"heartbeat": str(HEARTBEAT), **each.query}),
            name=f"holdfast {purpose}",
            on_lost=lambda _: None,
        )
        try:
            await line.connect(CONNECT_TIMEOUT)
            break
        except (AuthenticationError, ProbableAuthenticationError) as refused:
            await line.hang_up()
            raise Unavailable(f"{mask_url(str(each))} refused the login: {type(refused).__name__}") from None
        except Exception as fault:  # noqa: BLE001 - whatever the driver says, it is not connected
            await line.hang_up()
            if number == len(urls):
                reason = reason_of(fault) or type(fault).__name__
                raise Unavailable(f"cannot connect to {mask_url(url)}: {reason}") from None
    try:
        yield line.connection
    finally:
        await line.hang_up()


@contextmanager
def translated(needed: str) -> Iterator[None]:
    """Turn what the driver raises into errors of ours.

    :param needed: the permission without which the broker refuses, for the words.
    :raises DeniedError: if the user has not the permission.
    :raises LostError: if the connection is lost. The driver's choice is wide then: errors of its own, RuntimeError,
        a bare Exception, and CancelledError for what waits on a connection that it finds dead.
    """
    try:
        yield
    except HoldfastError:
        raise
    except ChannelAccessRefused:
        raise DeniedError(f"the broker does not let this user do that: it needs to {needed}") from None
    except ChannelNotFoundEntity as missing:
        raise Unavailable(f"no worker has ever run here: {missing}") from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise LostError("the connection to the broker was lost; no dead letter is lost by that") from None
    except Exception as fault:
        raise LostError(
            f"the connection to the broker was lost ({type(fault).__name__}); no dead letter is lost by that"
        ) from fault
