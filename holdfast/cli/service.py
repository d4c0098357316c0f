"""Asking the running service something from the command line."""

import asyncio
import logging
import warnings
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ..client import Client, connect
from ..plaintext import PlaintextWarning, told
from ..settings import Settings, load_settings
from .terminal import err

T = TypeVar("T")


def ask_service(
    call: Callable[[Client], Awaitable[T]], amqp_url: str | None, timeout: float | None, *, sealed: bool = False
) -> T:
    """Connect, do one call and give back what it gives.

    :param sealed: leave encrypted values as they are, though there are keys.
    :raises HoldfastError: if that does not work within the timeout.
    """
    settings = load_settings(amqp_url=amqp_url, timeout=timeout)
    warn_of_plaintext(settings)
    # What goes wrong on the way is mended, or said by the error at the end.
    logging.disable()

    async def ask() -> T:
        url, encryption = settings.amqp_url.get_secret_value(), None if sealed else settings.encryption()
        async with connect(url, timeout=settings.timeout, name="cli", encryption=encryption) as client:
            return await call(client)

    return asyncio.run(ask())


def warn_of_plaintext(settings: Settings, *, stores: bool = False) -> None:
    """Say in a line if the password of the broker, or of a store, goes to another machine in plain text."""
    for host in settings.exposed_hosts(stores=stores):
        err.print(f"holdfast: warning: {told(host)}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    # That was it; what the client says of the same is meant for programs.
    warnings.simplefilter("ignore", PlaintextWarning)
