"""Serializers: what a program's values are in the store, and that they come back."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

import holdfast
from holdfast.client.serializers import Serializer, serializer_for

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Neither NUL in names, nor lone surrogates anywhere.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), inner, max_size=4)
    ),
    max_leaves=12,
)


class Profile(BaseModel):
    name: str
    born: datetime | None = None
    balance: Decimal = Decimal(0)


@dataclass
class Cart:
    items: list[str] = field(default_factory=list)


class Struct(msgspec.Struct):
    name: str
    born: datetime | None = None
    photo: bytes = b""


class Other(msgspec.Struct):
    number: int


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    inside: T


@pytest.mark.parametrize(
    ("type_", "value", "stored"),
    [
        (
            Profile,
            Profile(name="Ada", born=datetime(1815, 12, 10, tzinfo=UTC), balance=Decimal("1.10")),
            {"name": "Ada", "born": "1815-12-10T00:00:00Z", "balance": "1.10"},
        ),
        (Cart, Cart(["apple"]), {"items": ["apple"]}),
        (list[Cart], [Cart(["a"]), Cart()], [{"items": ["a"]}, {"items": []}]),
        (dict[int, Decimal], {1: Decimal("0.5")}, {"1": "0.5"}),
        (int | None, None, None),
        (Struct, Struct("Ada", photo=b"\xff"), {"name": "Ada", "born": None, "photo": "/w=="}),
        (list[Struct], [Struct("Ada")], [{"name": "Ada", "born": None, "photo": ""}]),
        (Struct | None, None, None),
        (bytes, b"\x00\xff", "AP8="),
        (Any, {"a": [1, 2.5, None, True, "x"]}, {"a": [1, 2.5, None, True, "x"]}),
    ],
)
def test_values_are_kept_as_json_and_come_back(type_: Any, value: Any, stored: Any) -> None:
    """Given a value of a type, when it is dumped and loaded, then it is plain JSON in between, and the same again."""
    serializer = serializer_for(type_)
    assert serializer.dump(value) == stored
    assert serializer.load(stored) == value
    assert serializer.check(value) == value


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Profile, 5),
        (Cart, Profile(name="Ada")),
        (Struct, Other(1)),
        (Struct, Struct(name=5)),  # type: ignore[arg-type]
        (bytes, "text"),
        (Any, {1: 2}),
        (Any, object()),
        (Any, 2**70),
        (Any, float("nan")),
        (Any, "\ud800"),
    ],
)
def test_what_is_no_value_of_the_type_is_not_stored(type_: Any, value: Any) -> None:
    """Given something else, when it is checked, then that is a TypeError, whichever library finds it."""
    with pytest.raises(TypeError):
        serializer_for(type_).check(value)


@pytest.mark.parametrize(
    ("type_", "stored"),
    [(Profile, {}), (Cart, {"items": 1}), (Struct, {}), (Struct, {"name": 1}), (bytes, 1), (bytes, "?"), (bytes, "Ã")],
)
def test_what_does_not_fit_is_not_loaded(type_: Any, stored: Any) -> None:
    """Given stored data of another shape, when it is loaded, then that is a ValueError, whichever library finds it."""
    with pytest.raises(ValueError):  # noqa: PT011 - each library has its own words
        serializer_for(type_).load(stored)


@given(JSON)
def test_plain_json_is_a_copy(value: Any) -> None:
    """Given any JSON data, when it is dumped, then it is equal, and shares nothing that can change."""
    serializer = serializer_for(Any)
    dumped = serializer.dump(value)
    assert dumped == value
    loaded = serializer.load(dumped)
    assert loaded == value
    assert not isinstance(value, list | dict) or len({id(value), id(dumped), id(loaded)}) == 3


@given(st.binary())
def test_all_bytes_come_back(value: bytes) -> None:
    """Given any bytes, when they are dumped and loaded, then they are the same."""
    serializer = serializer_for(bytes)
    assert serializer.load(serializer.dump(value)) == value


class Initials(Serializer[tuple[str, str]]):
    """Of somebody's own."""

    def dump(self, value: tuple[str, str]) -> str:
        if len(value) != 2:
            raise TypeError("two of them")
        return "".join(value)

    def load(self, data: Any) -> tuple[str, str]:
        first, last = data
        return first, last


@pytest.mark.parametrize(
    ("type_", "first", "second"),
    [
        (Profile, Profile(name="Ada"), Profile(name="Eve")),
        (Cart, Cart(["a"]), Cart(["b"])),
        (Struct, Struct("Ada"), Struct("Eve")),
        (bytes, b"\xff\x00", b""),
        (Any, {"$": [1]}, [None]),
        (Box[list[int]], Box[list[int]](inside=[1]), Box[list[int]](inside=[])),
    ],
)
async def test_handles_keep_values_of_any_type(
    holdfast_client: holdfast.Client, type_: Any, first: Any, second: Any
) -> None:
    """Given handles of one type, when one writes and updates, then the other reads the same values."""
    one, two = (holdfast_client.state("a", type_) for _ in range(2))
    one.value = first
    await one.write()
    await two.read()
    assert two.value == first
    assert await two.update(lambda _: second) == second
    await one.read()
    assert one.value == second


async def test_a_serializer_of_ones_own(holdfast_client: holdfast.Client) -> None:
    """Given a handle with a serializer, when it writes, then that decides what is stored."""
    state = holdfast_client.state("a", tuple[str, str], serializer=Initials())
    state.value = ("A", "L")
    await state.write()
    entry = await holdfast_client.read("a")
    assert entry is not None
    assert entry.value == "AL"
    with pytest.raises(TypeError, match="returned tuple"):
        await state.update(lambda _: ("A", "B", "C"))  # type: ignore[arg-type, return-value]
    assert state.value == ("A", "L")
