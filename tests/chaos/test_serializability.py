"""The checker of transactions: what happened in one order passes, and each way to have none is found."""

from random import Random

import pytest
from store_records import saved

from chaos.serializability import Happened, check
from holdfast.events import Event


def one(
    id_: str,
    invoked: int,
    returned: int | None,
    *,
    saw: dict[str, int] | None = None,
    made: dict[str, int] | None = None,
) -> Happened:
    return Happened(id_, invoked, returned, frozenset((saw or {}).items()), frozenset((made or {}).items()))


def log(*made: tuple[str, int, str]) -> list[Event]:
    return [saved(key, version, command=id_) for key, version, id_ in made]


def test_one_after_the_other() -> None:
    events = log(("a", 1, "t1"), ("b", 1, "t1"), ("a", 2, "t2"))
    happened = [
        one("t1", 0, 10, made={"a": 1, "b": 1}),
        one("r1", 11, 12, saw={"a": 1, "b": 1}),
        one("t2", 13, 20, made={"a": 2}, saw={"b": 1}),
        one("r2", 21, 22, saw={"a": 2}),
    ]
    assert list(check(happened, events)) == []


@pytest.mark.parametrize(
    ("happened", "events", "what"),
    [
        pytest.param(
            [one("t1", 0, 10, saw={"b": 0}, made={"a": 1}), one("t2", 0, 10, saw={"a": 0}, made={"b": 1})],
            log(("a", 1, "t1"), ("b", 1, "t2")),
            "no order",
            id="write skew",
        ),
        pytest.param(
            [one("t1", 0, 10, made={"a": 1, "b": 1}), one("r", 5, 15, saw={"a": 1, "b": 0})],
            log(("a", 1, "t1"), ("b", 1, "t1")),
            "no order",
            id="half of a transaction was seen",
        ),
        pytest.param(
            [one("t1", 0, 10, made={"a": 1}), one("r", 11, 15, saw={"a": 0})],
            log(("a", 1, "t1")),
            "no order",
            id="a stale read",
        ),
        pytest.param(
            [one("t1", 0, 10, made={"a": 1}), one("t2", 11, 15, made={"b": 1}), one("r", 0, 30, saw={"a": 0, "b": 1})],
            log(("a", 1, "t1"), ("b", 1, "t2")),
            "no order",
            id="time between two that share no key",
        ),
        pytest.param(
            [one("t2", 20, 30, made={"a": 1}), one("t1", 0, 10, made={"a": 2})],
            log(("a", 1, "t2"), ("a", 2, "t1")),
            "no order",
            id="a later one is first in the log",
        ),
        pytest.param([one("t1", 0, 10, made={"a": 1})], [], "not in the log", id="lost"),
        pytest.param(
            [one("t1", 0, 10, made={"a": 1, "b": 1})], log(("a", 1, "t1")), "not in the log", id="lost in part"
        ),
        pytest.param(
            [one("t1", 0, 10, made={"a": 1})], log(("a", 1, "t1"), ("b", 1, "t1")), "other versions", id="untold"
        ),
        pytest.param([one("r", 0, 10, saw={"a": 3})], log(("a", 1, "t1")), "not in the log", id="never was"),
    ],
)
def test_what_has_no_order(happened: list[Happened], events: list[Event], what: str) -> None:
    assert any(what in finding for finding in check(happened, events))


def test_what_nobody_knows() -> None:
    """Of two without an answer, one is in the log, and has no end; the other one has not happened."""
    events = log(("a", 1, "t1"), ("a", 2, "t3"))
    happened = [
        one("t1", 0, None),
        one("t2", 0, None),
        one("r1", 5, 6, saw={"a": 0}),
        one("r2", 50, 60, saw={"a": 1}),
        one("t3", 61, 62, made={"a": 2}),
    ]
    assert list(check(happened, events)) == []
    # But it can't have been before it was asked for.
    late = [one("t1", 55, None), one("r", 0, 50, saw={"a": 1})]
    assert any("no order" in finding for finding in check(late, log(("a", 1, "t1"))))


def test_random_histories() -> None:
    """What was made one after the other passes; with one answer from another moment some do not."""
    found = 0
    for seed in range(200):
        random = Random(seed)  # noqa: S311
        state: dict[str, int] = dict.fromkeys("abcd", 0)
        happened: list[Happened] = []
        events: list[Event] = []
        states = [dict(state)]
        for number in range(30):
            seen = random.sample("abcd", 2)
            saw = {key: state[key] for key in seen}
            made = {}
            if random.random() < 0.6:
                for key in random.sample("abcd", random.randrange(1, 3)):
                    saw.pop(key, None)
                    state[key] += 1
                    made[key] = state[key]
                    events.append(saved(key, state[key], command=f"t{number}"))
            states.append(dict(state))
            moment = number * 10
            happened.append(
                one(f"t{number}", moment - random.randrange(30), moment + random.randrange(30), saw=saw, made=made)
            )
        assert list(check(happened, events)) == []
        place = random.randrange(30)
        told, other = happened[place], random.choice(states)
        if told.saw:
            wrong = frozenset((key, other[key]) for key, _ in told.saw)
            happened[place] = Happened(told.id, told.invoked, told.returned, wrong, told.made)
            found += bool(list(check(happened, events)))
    assert found > 60
