"""PersistentState: values of many types, as they come and go."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import BaseModel
from support.carts import Cart, cart_on
from support.loopback import Loopback
from support.loops import leaping

from holdfast import PersistentState
from holdfast.events import (
    InvalidError,
)


class Profile(BaseModel):
    name: str
    born: datetime | None = None
    tags: set[str] = set()


@pytest.mark.parametrize(
    ("kind", "value", "other"),
    [
        (Cart, Cart(["a"]), Cart([])),
        (Profile, Profile(name="Ada", born=datetime(1815, 12, 10, tzinfo=UTC), tags={"x"}), Profile(name="Bob")),
        (dict[str, Any], {"a": {"b": [1, None, True, 1.5]}}, {}),
        (dict[str, int], {"a": 1}, {"b": 2}),
        (int, 5, -(2**63)),
        (float, 1.5, 2.0),
        (str, "Ω", ""),
        (bool, True, False),
        (list[int], [1, 2], []),
        (list[Profile], [Profile(name="Ada")], []),
        (tuple[int, str], (1, "a"), (2, "b")),
    ],
)
def test_values_of_many_types_come_back_as_they_were(kind: Any, value: Any, other: Any) -> None:
    """Dataclasses, pydantic models and plain JSON types are written, read and updated without loss."""

    @leaping
    async def test() -> None:
        service = Loopback()
        async with service.connect() as client:
            writer, reader = client.state("k", kind), client.state("k", kind)
            writer.value = value
            await writer.write()
            await reader.read()
            assert reader.value == value
            assert type(reader.value) is type(value)

            assert await writer.update(lambda _: other) == other
            await reader.read()
            assert reader.value == other
            assert writer.value == other

    test()


@leaping
async def test_values_are_isolated() -> None:
    """Two handles never share a value, and neither do a handle and what was given to it or stored."""
    async with cart_on() as (_, client, _):
        mine = ["pear"]
        plain = client.state("plain", dict[str, Any])
        plain.value = {"items": mine}
        await plain.write()
        mine.append("later")
        twin = client.state("plain", dict[str, Any])
        await twin.read()
        twin.value["items"].append("twin's")
        await asyncio.gather(plain.write(), plain.read())

        plain.value["items"].append("after")
        await asyncio.gather(plain.read(), plain.read())

        assert plain.value == {"items": ["pear", "later"]}
        assert twin.value == {"items": ["pear", "twin's"]}


@leaping
async def test_a_value_that_does_not_fit_is_refused_at_the_call() -> None:
    """Writing what is no instance of the type, or cannot be kept, fails before anything is sent or queued."""
    async with cart_on() as (service, client, state):
        numbers = client.state("numbers", float, default=float)
        for value in ("a text", 5, Cart([1])):  # type: ignore[list-item]
            state.value = value  # type: ignore[assignment]
            with pytest.raises(TypeError, match="does not fit"):
                await state.write()
        numbers.value = float("nan")
        with pytest.raises(InvalidError):
            await numbers.write()

        assert service.commands == []
        with pytest.raises(TypeError):
            await state.update(lambda cart: cart.items.append(5))  # type: ignore[arg-type]


@leaping
async def test_an_optional_null_is_a_value() -> None:
    """A stored null is there, unlike an absent key."""
    service = Loopback()
    async with service.connect() as client:
        state: PersistentState[Any] = client.state("k", object)
        state.value = None
        await state.write()
        await state.read()

        assert (state.value, state.exists, state.version) == (None, True, 1)
