"""Asking the running service something from the command line."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..client import Client, connect
from ..settings import load_settings

T = TypeVar("T")


def ask_service(call: Callable[[Client], Awaitable[T]], amqp_url: str | None, timeout: float | None) -> T:
    """Connect, do one call and give back what it gives.

    :raises HoldfastError: if that does not work within the timeout.
    """
    settings = load_settings(amqp_url=amqp_url, timeout=timeout)
    # What goes wrong on the way is mended, or said by the error at the end.
    logging.disable()

    async def ask() -> T:
        async with connect(settings.amqp_url.get_secret_value(), timeout=settings.timeout, name="cli") as client:
            return await call(client)

    return asyncio.run(ask())
