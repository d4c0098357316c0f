"""A cart as a handle's value, and what tests of handles ask about it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from holdfast import Client, PersistentState

from .loopback import Loopback


@dataclass
class Cart:
    items: list[str] = field(default_factory=list)


@asynccontextmanager
async def cart_on(
    *, absent: bool = False, **options: Any
) -> AsyncIterator[tuple[Loopback, Client, PersistentState[Cart]]]:
    """A service, a client and a handle on a cart that has one apple and was read, or on an absent one."""
    service = Loopback()
    async with service.connect(**options) as client:
        state = client.state("cart", Cart, default=Cart)
        if not absent:
            await client.save("cart", {"items": ["apple"]})
        await state.read()
        service.messages.clear()
        yield service, client, state


async def stored(client: Client) -> Any:
    entry = await client.read("cart", timeout=60)
    return None if entry is None else entry.value["items"]


def ops(service: Loopback) -> list[str]:
    return [command["op"] for command in service.commands]
