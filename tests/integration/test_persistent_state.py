"""PersistentState against a real service: several handles and clients on the same keys."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum

import pytest
from pydantic import BaseModel
from support.service import Service, running_worker

import holdfast
from holdfast import AbsentError, Client, ConflictError, NotReadError
from holdfast.local import MongoReplicaSet, RabbitServer


@dataclass
class Cart:
    items: list[str] = field(default_factory=list)


class Kind(StrEnum):
    SMALL = "small"
    LARGE = "large"


class Order(BaseModel):
    number: int
    kind: Kind
    total: Decimal
    due: date
    placed: datetime
    cart: Cart
    notes: dict[str, str | None] = {}


@pytest.fixture(scope="module")
def shared(rabbit: RabbitServer, mongo: MongoReplicaSet) -> Iterator[Service]:
    """One service for the tests of this file; each has keys of its own."""
    rabbit.create_vhosts(["state"])
    with running_worker(rabbit.url("state"), mongo.url("state")) as service:
        yield service
    rabbit.delete_vhosts(["state"], wait=False)


@pytest.fixture
async def client(shared: Service) -> AsyncIterator[Client]:
    async with holdfast.connect(shared.amqp_url) as client:
        yield client


async def test_a_cart_from_its_first_apple_to_its_end(client: Client) -> None:
    """A handle reads, writes, updates and clears one key, and knows at each step what is stored."""
    cart = client.state("user/1/cart", Cart, default=Cart)
    with pytest.raises(NotReadError):
        _ = cart.exists
    await cart.read()
    assert (cart.exists, cart.value) == (False, Cart())

    cart.value.items.append("apple")
    await cart.write()
    assert await cart.update(lambda value: value.items.append("pear")) == Cart(["apple", "pear"])
    assert (cart.version, cart.exists) == (2, True)

    await cart.clear()
    assert (cart.exists, cart.value) == (False, Cart())
    assert await client.read("user/1/cart") is None
    assert [event.type for event in await client.history("user/1/cart")] == ["saved", "saved", "deleted"]


async def test_two_clients_on_one_key_never_overwrite_each_other(client: Client, shared: Service) -> None:
    """Whoever writes second on old knowledge gets a conflict, keeps his value, and goes on after a read."""
    async with holdfast.connect(shared.amqp_url) as another:
        mine, theirs = client.state("shared", Cart, default=Cart), another.state("shared", Cart, default=Cart)
        await mine.read()
        await theirs.read()
        mine.value.items.append("mine")
        theirs.value.items.append("theirs")
        await mine.write()

        with pytest.raises(ConflictError):
            await theirs.write()
        assert theirs.value == Cart(["theirs"])
        await theirs.clear()  # nothing is there as far as it knows, so it deletes nothing
        await theirs.read()
        theirs.value.items.append("theirs")
        await theirs.write()

        with pytest.raises(ConflictError):
            await mine.clear()
        await mine.read()
        assert mine.value == Cart(["mine", "theirs"])


async def test_models_keep_their_types(client: Client) -> None:
    """Decimals, dates, enumerations and nested models come back as what they are."""
    order = Order(
        number=1,
        kind=Kind.LARGE,
        total=Decimal("19.90"),
        due=date(2025, 2, 28),
        placed=datetime(2025, 2, 1, 12, 30, tzinfo=UTC),
        cart=Cart(["apple"]),
        notes={"": None, "ü.$": "Ω"},
    )
    writer, reader = client.state("order/1", Order), client.state("order/1", Order)
    writer.value = order
    await writer.write()
    await reader.read()

    assert reader.value == order
    assert type(reader.value.total) is Decimal
    assert reader.value.kind is Kind.LARGE


async def test_an_absent_key_without_a_default_is_an_error_to_use_and_not_to_read(client: Client) -> None:
    """Reading what is not there is fine; its value, and an update of it, are AbsentError."""
    state = client.state("nowhere", Cart)
    await state.read()

    with pytest.raises(AbsentError):
        _ = state.value
    with pytest.raises(AbsentError):
        await state.update(lambda value: value.items.append("x"))
    assert await client.history("nowhere") == []


async def test_writes_of_one_handle_are_applied_in_order_while_others_read(client: Client) -> None:
    """A reader that polls sees a handle's writes in their order, and never a step back."""
    key = "steps"
    writer = client.state(key, int)
    done = asyncio.Event()
    seen: list[int] = []

    async def poll() -> None:
        while not done.is_set():
            entry = await client.read(key)
            seen.append(-1 if entry is None else entry.value)

    polling = asyncio.create_task(poll())
    for number in range(100):
        writer.value = number
        await writer.write()
    done.set()
    await polling

    assert seen == sorted(seen)
    assert (writer.version, writer.value) == (100, 99)
