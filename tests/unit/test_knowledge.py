"""What a worker remembers of keys stays within its bounds, and says only what it was told."""

import tracemalloc
from collections.abc import Callable

import orjson
import pytest

from holdfast.events import Event
from holdfast.stores import Head
from holdfast.worker.knowledge import Knowledge, State, state_of

MIB = 1024 * 1024

#: Keys and ids by their number: of the usual size, of the largest, and where each character takes four bytes.
TEXTS: dict[str, Callable[[str, int, int], str]] = {
    "usual": lambda prefix, number, _: f"{prefix}/{number:020}",
    "longest": lambda prefix, number, limit: f"{prefix}/{number}".ljust(limit, "x"),
    "widest": lambda prefix, number, limit: f"{prefix}/{number}".ljust(limit - 4, "x") + "\N{PARTY POPPER}",
}


def head(version: int, command: str = "c") -> Head:
    return Head(version, exists=True, id=command, time=1_732_223_456_789 + version, expires=1_832_223_456_789 + version)


def state(version: int, value: bytes = b"1") -> State:
    return State(
        version,
        exists=True,
        etag=f"{version}-00000000",
        time=1_732_223_456_789 + version,
        value=value,
        expires=1_832_223_456_789 + version,
    )


def taken_by(fill: Callable[[], object]) -> int:
    """Bytes that are held after the call because of it."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = fill()
        after = tracemalloc.get_traced_memory()[0]
        assert kept is not None
        return after - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", TEXTS)
def test_heads_stay_within_their_bytes(kind: str) -> None:
    """Given more heads than fit, whatever their keys and ids are like, then they take no more memory than allowed."""
    text = TEXTS[kind]

    def fill() -> Knowledge:
        knowledge = Knowledge(head_bytes=MIB, state_bytes=0)
        for number in range(4000):
            knowledge.learn_head(text("key", number, 512), head(number + 300, text("id", number, 128)))
        return knowledge

    taken = taken_by(fill)
    assert taken <= MIB
    # … and the bound is made use of.
    assert taken >= MIB // 2


@pytest.mark.parametrize("size", [1, 1000, 100_000])
@pytest.mark.parametrize("kind", TEXTS)
def test_states_stay_within_their_bytes(kind: str, size: int) -> None:
    """Given more values than fit, whatever their size, then they take no more memory than allowed."""
    text = TEXTS[kind]

    def fill() -> Knowledge:
        knowledge = Knowledge(head_bytes=0, state_bytes=MIB)
        for number in range(min(4000, 2 * MIB // size)):
            knowledge.learn_state(text("key", number, 512), state(number + 300, bytes(size)))
        return knowledge

    taken = taken_by(fill)
    assert taken <= MIB
    assert taken >= MIB // 2


def test_states_that_grow_in_place_stay_within_their_bytes() -> None:
    """Given few keys whose values grow, when each is learned again and again, then the bound holds throughout."""

    def fill() -> Knowledge:
        knowledge = Knowledge(head_bytes=0, state_bytes=MIB)
        for version in range(1, 60):
            for key in range(50):
                knowledge.learn_state(f"key/{key}", state(version, bytes(version * 1000)))
        return knowledge

    assert taken_by(fill) <= MIB


def test_heads_that_are_learned_again_take_no_more() -> None:
    """Given one key, when its head is learned over and over, then no other key has to go for it."""
    knowledge = Knowledge(head_bytes=4000, state_bytes=0)
    knowledge.learn_head("other", head(1))
    for version in range(1, 1000):
        knowledge.learn_head("k", head(version))
    assert knowledge.head("other") == head(1)
    assert knowledge.head("k") == head(999)


def test_forgotten_heads_make_room() -> None:
    """Given heads that are learned and forgotten many times, then the others are not crowded out."""
    knowledge = Knowledge(head_bytes=4000, state_bytes=0)
    knowledge.learn_head("other", head(1))
    for number in range(1000):
        knowledge.learn_head(f"k{number}", head(1))
        knowledge.forget([f"k{number}", "never heard of"])
    assert knowledge.head("other") == head(1)


def test_cleared_heads_make_room() -> None:
    """Given a cleared memory, when it is filled again, then as much fits as at first."""
    knowledge = Knowledge(head_bytes=4000, state_bytes=0)
    for number in range(100):
        knowledge.learn_head(f"k{number}", head(1))
    fitting = sum(knowledge.head(f"k{number}") is not None for number in range(100))
    knowledge.clear()
    assert all(knowledge.head(f"k{number}") is None for number in range(100))
    for number in range(100):
        knowledge.learn_head(f"k{number}", head(1))
    assert sum(knowledge.head(f"k{number}") is not None for number in range(100)) == fitting > 1


def test_what_was_used_last_stays() -> None:
    """Given a full memory, when something new is learned, then what was not used for longest goes."""
    knowledge = Knowledge(head_bytes=1600, state_bytes=3000)
    for key in ("a", "b"):
        knowledge.learn_head(key, head(1))
        knowledge.learn_state(key, state(1, bytes(500)))
    for number in range(20):
        assert knowledge.head("a") is not None
        assert knowledge.state("a", 1) is not None
        knowledge.learn_head(f"new{number}", head(1))
        knowledge.learn_state(f"new{number}", state(1, bytes(500)))
    assert knowledge.head("b") is None
    assert knowledge.state("b", 1) is None


def test_a_value_larger_than_all_room_drives_out_no_other() -> None:
    """Given remembered values, when one comes that does not fit at all, then it alone is not remembered."""
    knowledge = Knowledge(head_bytes=0, state_bytes=5000)
    knowledge.learn_state("small", state(1))
    knowledge.learn_state("large", state(1, bytes(10_000)))
    assert knowledge.state("large", 1) is None
    assert knowledge.state("small", 1) == state(1)


def test_no_memory_at_all() -> None:
    """Given no memory to use, when heads and values are learned, then nothing breaks and no value is kept."""
    knowledge = Knowledge(head_bytes=0, state_bytes=0)
    for number in range(10):
        knowledge.learn_head(f"k{number}", head(1))
        knowledge.learn_state(f"k{number}", state(1))
    assert all(knowledge.state(f"k{number}", 1) is None for number in range(10))


def test_a_value_counts_for_its_version_only() -> None:
    """Given a remembered value, when another version is asked for, then nothing is known of it."""
    knowledge = Knowledge(head_bytes=1000, state_bytes=10_000)
    knowledge.learn_state("k", state(2))
    assert [knowledge.state("k", version) for version in (1, 2, 3)] == [None, state(2), None]


def test_an_older_value_does_not_replace_a_newer_one() -> None:
    """Given a remembered value, when an older one is read back, then the newer one stays."""
    knowledge = Knowledge(head_bytes=1000, state_bytes=10_000)
    knowledge.learn_state("k", state(2))
    knowledge.learn_state("k", state(1))
    assert knowledge.state("k", 2) == state(2)


def test_forgetting_leaves_values() -> None:
    """Given a key that something went wrong with, when it is forgotten, then its value is still right."""
    knowledge = Knowledge(head_bytes=1000, state_bytes=10_000)
    knowledge.learn_head("k", head(1))
    knowledge.learn_state("k", state(1))
    knowledge.forget(["k"])
    assert knowledge.head("k") is None
    assert knowledge.state("k", 1) == state(1)


@pytest.mark.parametrize("value", [None, 0, "text", {"a": [1, 2.5, None]}])
def test_the_state_of_an_event(value: object) -> None:
    """Given an event, when its state is made, then the value is ready to be sent, and a deleted key has none."""
    saved = Event(id="x", key="k", version=3, type="saved", time=7, digest=b"", value=value)
    assert state_of(saved) == State(3, True, saved.etag, 7, orjson.dumps(value))
    deleted = Event(id="x", key="k", version=4, type="deleted", time=8, digest=b"")
    assert state_of(deleted) == State(4, False, None, 8, b"null")
