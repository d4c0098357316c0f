"""Values come back exactly as they were given: same types, same order, same bits."""

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from holdfast.contract.records import new_id, refused, saved
from holdfast.events import Event, OutboxMessage
from holdfast.stores import EventStore, Head

# Characters outside Unicode cannot be in JSON, and NUL cannot be in an object's keys.
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8) | st.sampled_from(
    ["", "$", "$ref", "$id", "$db", "$oid", "a.b", ".", "_id", "__proto__", "$where", "0", "é"]
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(names, inner, max_size=5), max_leaves=25
)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same to the last bit and in the order of their keys."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


async def _round_trip(store: EventStore, value: Any) -> None:
    key = new_id()
    event, refusal = saved(key, 1, value=value), refused(key, status="ok", value=value)
    await store.append([event, refusal])
    found = await store.find([event.id, refusal.id])
    kept = found[refusal.id]
    assert kept.type == "refused"
    for read in (
        found[event.id],
        (await store.events([(key, 1)]))[key, 1],
        (await store.history(key))[0],
    ):
        assert read.type == "saved"
        assert same(read.value, value)
    assert same(kept.answer, {"status": "ok", "value": value})


def _nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@pytest.mark.parametrize(
    "value",
    [
        None, True, False, 0, 1, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**53 + 1, 2**63 - 1, -(2**63),
        1.0, -0.0, 0.0, 5e-324, 1.7976931348623157e308, 0.1, 1e22, 2.0**63,
        "", "\0", "a\0b", "\ud7ff\ue000\uffff\U0010ffff", "e\u0301é", "\u2028\u2029\x7f", "x" * 1_000_000,
        [], {}, [[]], [{}], {"": {}}, {"": ""}, [None, [None]], [0] * 10_000, [1, 1.0, True],
        {"b": 1, "a": 2, "_id": 3, "c": 4}, {"2": 0, "10": 0, "1": 0}, {"a.b": {"$set": {"c": 1}}}, {"$": 1, "$a": 2},
        {"$ref": "c", "$id": 1}, {"$id": 1, "x": 0, "$ref": "c", "$db": "d"}, {"$ref": 1, "$id": 2},
        {"a": [{"b": {"$ref": "c", "$id": 2**40, "z": [2**40, 1.0]}}]}, {"$oid": "0" * 24}, {"$date": 0},
        {"$numberLong": "1"}, {"$code": "x", "$scope": {}}, {"$undefined": True}, {"__proto__": 1, "é": "ß"},
        _nested(100),
        {str(number): number for number in range(5000)},
    ],
    ids=lambda value: repr(value)[:40].encode("ascii", "backslashreplace").decode(),
)  # fmt: skip
async def test_edges_round_trip(store: EventStore, value: Any) -> None:
    """What databases and drivers like to change comes back unchanged, in events and in refusals' answers."""
    await _round_trip(store, value)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(value=values)
@example(value={"$ref": "", "$id": {"$ref": "", "$id": None}})
async def test_any_value_round_trips(store: EventStore, value: Any) -> None:
    """Whatever JSON allows within the limits comes back exactly."""
    await _round_trip(store, value)


async def test_messages_round_trip(store: EventStore) -> None:
    """What an event carries comes back exactly, in its order, also where values are left out."""
    messages = (
        OutboxMessage(exchange="", routing_key="a.b", body={"$ref": "x", "$id": 2**63 - 1, "f": 1.0, "n": None}),
        OutboxMessage(exchange="orders", body=None, headers={"a": "ü", "b": -(2**63), "c": True}),
    )
    event = saved(new_id(), 1, value={"v": 1}, messages=messages)
    await store.append([event])
    assert (await store.find([event.id]))[event.id] == event
    assert (await store.events([(event.key, 1)]))[event.key, 1] == event
    without = (await store.find([event.id], with_values=False))[event.id]
    assert isinstance(without, Event)
    assert without.messages == messages


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    key=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=100),
    command=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30),
    author=st.none() | text,
    metadata=st.none() | st.dictionaries(names, text, max_size=3),
    digest=st.binary(min_size=8, max_size=8),
    moment=st.integers(0, 2**53 - 1),
    expires=st.none() | st.integers(0, 2**53 - 1),
    patch=st.none() | st.text("0123456789abcdef", min_size=32, max_size=32),
)
async def test_everything_else_round_trips(
    store: EventStore,
    key: str,
    command: str,
    author: str | None,
    metadata: dict[str, str] | None,
    digest: bytes,
    moment: int,
    expires: int | None,
    patch: str | None,
) -> None:
    """Keys, ids, authors, metadata, digests, times and marks come back exactly."""
    # Each gets a name of its own in front, since the examples share one log.
    key, command = f"{new_id()}/{key}", f"{new_id()}/{command}"
    event = saved(key, 1, command=command, author=author, metadata=metadata, digest=digest, time=moment)
    event = event.model_copy(update={"expires": expires, "patch": patch})
    await store.append([event])
    assert await store.find([command]) == {command: event}
    assert (await store.heads([key]))[key] == Head(1, True, command, moment, expires)
    assert await store.history(key) == [event]
    assert (await store.keys(key, limit=1)).keys == [key]
