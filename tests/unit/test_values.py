"""Which values are kept, and what is said of the others."""

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.events import InvalidError, check_value
from holdfast.events.limits import MAX_DEPTH, MAX_INT, MIN_INT

scalars = (
    st.none()
    | st.booleans()
    | st.integers(MIN_INT, MAX_INT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
names = st.text(st.characters(exclude_characters="\0"))
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=20)
bad_leaves = st.sampled_from(
    [math.nan, math.inf, -math.inf, MAX_INT + 1, MIN_INT - 1, b"", {1, 2}, object(), 1j, {1: 2}, {None: 1}, {"\0": 1}]
)


def nested(depth: int, leaf: Any = 1) -> Any:
    for level in range(depth):
        leaf = [leaf] if level % 2 else {"a": leaf}
    return leaf


@given(values)
def test_json_values_are_given_back_as_they_are(value: Any) -> None:
    """A good value is the very object that was given."""
    assert check_value(value) is value


@given(
    st.recursive(
        bad_leaves,
        lambda inner: st.lists(inner, min_size=1, max_size=3) | st.dictionaries(names, inner, min_size=1, max_size=3),
    )
)
def test_what_is_no_json_is_refused_wherever_it_stands(value: Any) -> None:
    """A bad part spoils the whole, and the place is named."""
    with pytest.raises(InvalidError) as caught:
        check_value(value)
    assert caught.value.code == "bad_value"
    assert (caught.value.field or "").startswith("value")


@pytest.mark.parametrize(
    "value", [MAX_INT, MIN_INT, 2**53 + 1, 5e-324, -0.0, "\0", "", [], {}, {"": ""}, (1, 2)], ids=repr
)
def test_edges_that_are_kept(value: Any) -> None:
    """The last good values before the limits; NUL is a character like others, but for names."""
    assert check_value(value) is value
    assert check_value([value]) == [value]
    assert check_value({"a": {"b": value}}) == {"a": {"b": value}}


@pytest.mark.parametrize(
    ("value", "field", "message"),
    [
        (MAX_INT + 1, "value", "64 bits"),
        ([0, MIN_INT - 1], "value[1]", "64 bits"),
        ({"items": [1, {"price": math.nan}]}, "value.items[1].price", "NaN"),
        ({"a": math.inf}, "value.a", "infinity"),
        ({"a": {"b\0": 1}}, "value.a", "NUL"),
        ({"a": {1: 2}}, "value.a", "int"),
        ({"a": [b"x"]}, "value.a[0]", "bytes"),
        ({"a": {1, 2}}, "value.a", "set"),
        (object, "value", "type"),
    ],
    ids=repr,
)
def test_the_place_is_named(value: Any, field: str, message: str) -> None:
    """The error says where in the value the trouble is, and of what kind."""
    with pytest.raises(InvalidError, match=message) as caught:
        check_value(value)
    assert caught.value.field == field


@pytest.mark.parametrize("leaf", [1, "text", None, 1.5, True, [], {}], ids=repr)
def test_a_hundred_levels(leaf: Any) -> None:
    """A hundred arrays and objects within one another are kept, one more is not."""
    levels = MAX_DEPTH - 1 if isinstance(leaf, list | dict) else MAX_DEPTH
    check_value(nested(levels, leaf))
    with pytest.raises(InvalidError, match="100 levels"):
        check_value(nested(levels + 1, leaf))


def test_bottomless_values() -> None:
    """A value that holds itself is refused like any that is too deep, and its place is not told at full length."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidError, match="100 levels") as caught:
        check_value({"a": value})
    assert len(caught.value.field or "") < 300


def test_subclasses_count_as_what_they_derive_from() -> None:
    """An ordered dict or a tuple of the caller's is JSON too, and is looked into."""

    class Text(str):
        __slots__ = ()

    good = OrderedDict([(Text("a"), (1, Text("b"), OrderedDict(c=2.5)))])
    assert check_value(good) is good
    with pytest.raises(InvalidError) as caught:
        check_value(OrderedDict(a=(1, OrderedDict(c=math.nan))))
    assert caught.value.field == "value.a[1].c"


def test_a_fault_is_found_in_one_pass() -> None:
    """A fault below a hundred levels takes no longer than one at the top: each level is gone through once.

    A message of 4 MiB whose fault stood behind two million numbers and below ninety levels took thirteen seconds.
    """

    class Counted(list[Any]):
        passes = 0

        def __iter__(self) -> Iterator[Any]:
            type(self).passes += 1
            return super().__iter__()

    value: Any = 2**64
    for _ in range(90):
        value = Counted([1, value])
    with pytest.raises(InvalidError, match="64 bits") as caught:
        check_value(value)
    assert (caught.value.field or "").startswith("value[1][1]")
    assert Counted.passes == 90


@pytest.mark.parametrize("length", [10, 190, 200, 10_000])
def test_long_names_are_cut(length: int) -> None:
    """The place in an error has a bounded size, whatever the names on the way are."""
    name = "n" * length
    for value in ({name: 2**64}, {"a": {name: [{name: 2**64}]}}, {"a": [{name: {"b\0": 1}}]}):
        with pytest.raises(InvalidError) as caught:
            check_value(value)
        place = caught.value.field or ""
        assert place.startswith("value.")
        assert len(place) <= 201
        assert (len(place) == 201) == place.endswith("…")


def test_equal_members_are_told_apart() -> None:
    """Of members that look alike, the one that is wrong is named: the place is found by identity."""
    with pytest.raises(InvalidError) as caught:
        check_value([1.0, True, 1, [], [2**64], 2**64])
    assert caught.value.field == "value[4][0]"
