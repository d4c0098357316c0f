"""Entities: several named states, loaded before they are used."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from pydantic import BaseModel
from support.loopback import Gate, Loopback
from support.loops import settle

import holdfast
from holdfast import Entity, PersistentState, persistent
from holdfast.testing import MemoryService


class Profile(BaseModel):
    name: str = ""


@dataclass
class Cart:
    items: list[str] = field(default_factory=list)


class User(Entity):
    """As Orleans' UserGrain."""

    profile: PersistentState[Profile] = persistent("profile", store="profiles", default=Profile)
    cart: PersistentState[Cart] = persistent("cart", store="carts", default=Cart)
    greeting = ""

    async def on_activate(self) -> None:
        self.greeting = f"Hello {self.profile.value.name}"


@pytest.fixture
def service() -> Iterator[MemoryService]:
    with MemoryService(stores=["default", "profiles", "carts"]) as service:
        yield service


async def test_states_are_loaded_before_they_are_used(service: MemoryService) -> None:
    """Given stored states, when the entity is activated, then they are there, each out of its store, for the hook."""
    async with service.connect() as client:
        await client.save("user-42/profile", {"name": "Ada"}, store="profiles")
        await client.save("user-42/cart", {"items": ["apple"]}, store="carts")
        async with client.activate(User, "user-42") as user:
            assert (user.id, user.greeting) == ("user-42", "Hello Ada")
            assert (user.profile.value, user.cart.value) == (Profile(name="Ada"), Cart(["apple"]))
            assert (user.profile.version, user.cart.exists) == (1, True)


async def test_absent_states_have_their_defaults(service: MemoryService) -> None:
    """Given nothing stored, when the entity is activated, then its states have their defaults, and exist nowhere."""
    async with service.connect() as client:
        async with client.activate(User, "user-43") as user:
            assert user.cart.value == Cart()
            assert not user.cart.exists
        assert await client.read("user-43/cart", store="carts") is None


async def test_all_states_are_asked_for_at_once() -> None:
    """Given an entity of four states, when it is activated, then no read waits for another one's answer."""

    class Four(Entity):
        a: PersistentState[int] = persistent(default=int)
        b: PersistentState[int] = persistent(default=int)
        c: PersistentState[int] = persistent(default=int)
        d: PersistentState[int] = persistent(default=int)

    service = Loopback(partitions=8)
    async with service.connect() as client:
        gates = [Gate() for _ in range(4)]
        service.script(*gates)
        activating = asyncio.ensure_future(client.activate(Four, "x").__aenter__())
        await settle()
        assert [command["op"] for command in service.commands] == ["read"] * 4
        for gate in gates:
            gate.open()
        assert (await activating).d.value == 0


async def test_a_failed_load_names_the_state(service: MemoryService) -> None:
    """Given a state that cannot be read, when the entity is activated, then it fails, and the error names the state."""
    async with service.connect() as client:
        await client.save("user-42/cart", {"items": "no list"}, store="carts")
        with pytest.raises(holdfast.ActivationError, match="User 'user-42': the state 'cart' cannot be") as failed:
            async with client.activate(User, "user-42"):
                raise AssertionError("it was activated")
        assert failed.value.state == "cart"
        assert isinstance(failed.value.__cause__, ValueError)
        service.faults.unavailable("user-42/profile")
        with pytest.raises(holdfast.ActivationError) as failed:
            await client.activate(User, "user-42").__aenter__()
        assert failed.value.state == "profile"
        assert isinstance(failed.value.__cause__, holdfast.Unavailable)


async def test_a_hook_that_fails_ends_the_activation(service: MemoryService) -> None:
    """Given a hook that raises, when the entity is activated, then nobody gets it."""

    class Banned(User):
        async def on_activate(self) -> None:
            raise PermissionError("banned")

    async with service.connect() as client:
        with pytest.raises(PermissionError, match="banned"):
            await client.activate(Banned, "user-42").__aenter__()


async def test_declarations_are_inherited(service: MemoryService) -> None:
    """Given a class that derives from an entity, when it declares more, then it has both, under keys of its choice."""

    class Customer(User):
        orders: PersistentState[list[int]] = persistent(default=list)

        def key_of(self, name: str) -> str:
            return f"customer/{self.id}/{name}"

    async with service.connect() as client, client.activate(Customer, "7") as customer:
        customer.orders.value.append(1)
        await customer.orders.write()
        assert customer.profile.key == "customer/7/profile"
        found = await client.read("customer/7/orders")
        assert found is not None
        assert found.value == [1]


async def test_a_state_without_its_type_is_a_mistake(service: MemoryService) -> None:
    """Given a declaration without an annotation, when it is activated, then that is said."""

    class Untyped(Entity):
        state = persistent()

    async with service.connect() as client:
        with pytest.raises(TypeError, match=r"Untyped\.state needs an annotation"):
            await client.activate(Untyped, "x").__aenter__()
