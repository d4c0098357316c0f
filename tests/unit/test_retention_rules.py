"""What retention keeps, told in a few sentences and judged event by event: the two have to agree."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.commands import NOW

from holdfast.stores import RetentionConfig, Trace
from holdfast.worker.retention import CLOSED_FOR, DAY, LEAST_AGE, LEAST_AGE_CARRYING, MAX_DROPS, Chores, Judge, by_key

KINDS = ["saved", "saved", "saved", "deleted", "purged"]
#: Around everything that matters: a minute, and days in the configurations.
AGES = st.one_of(
    st.sampled_from([0, LEAST_AGE - 1, LEAST_AGE, DAY - 1, DAY, 2 * DAY, 2 * DAY + 1, 10 * DAY, 10 * DAY + 1]),
    st.integers(0, 40 * DAY),
)
CONFIGS = st.one_of(
    st.builds(RetentionConfig, versions=st.integers(1, 4), forget_days=st.sampled_from([7, 10])),
    st.builds(RetentionConfig, days=st.sampled_from([2, 20]), forget_days=st.sampled_from([7, 10])),
    st.builds(RetentionConfig, versions=st.integers(1, 4), days=st.sampled_from([2, 20]), forget_days=st.just(10)),
)


def judged(config: RetentionConfig, events: list[Trace], *, closing: bool = True) -> Chores:
    judge = Judge(config, now=NOW, closing=closing)
    for event in events:
        judge.see(event)
    judge.finish()
    return judge.take()


@st.composite
def keys(draw: Any) -> list[Trace]:
    """A key's events, the newest first."""
    ages = sorted(draw(st.lists(AGES, min_size=1, max_size=8)))
    first = draw(st.integers(1, 3))
    kinds = [draw(st.sampled_from(KINDS)) for _ in ages]
    stubs = [False, *(draw(st.booleans()) for _ in ages[1:])]
    carrying = [not stub and draw(st.booleans()) for stub in stubs]
    closed = NOW - draw(st.sampled_from([0, CLOSED_FOR, CLOSED_FOR + 1])) if draw(st.booleans()) else None
    return [
        Trace(
            "k",
            first + len(ages) - 1 - place,
            kind,
            NOW - age,
            stub,
            closed if place == 0 and kind != "saved" else None,
            carries,
        )
        for place, (age, kind, stub, carries) in enumerate(zip(ages, kinds, stubs, carrying, strict=True))
    ]


@given(CONFIGS, keys(), st.booleans())
def test_what_is_kept(config: RetentionConfig, events: list[Trace], closing: bool) -> None:
    """Any key, any configuration: exactly what the sentences say is stripped, dropped and closed."""
    newest, forget = events[0], config.forget_days * DAY
    forgotten = not newest.exists and NOW - newest.time > forget
    stripped: set[int] = set()
    dropped: set[int] = set()
    for place, event in enumerate(events[1:], start=1):
        replaced = NOW - events[place - 1].time
        # For a minute everything stays, whatever happened, and for a day what may have to be published again.
        if replaced < (LEAST_AGE_CARRYING if event.carries else LEAST_AGE):
            continue
        # What a purge has erased is not kept by anything. Else it is kept by its number, unless the key has been gone
        # for long, or by its age.
        if not any(later.type == "purged" for later in events[:place]):
            if config.versions is not None and place < config.versions and not forgotten:
                continue
            if config.days is not None and replaced <= config.days * DAY:
                continue
        if replaced > forget:
            dropped.add(event.version)
        elif not event.stripped:
            stripped.add(event.version)
    alone = closing and forgotten and len(events) == 1
    if alone and newest.closed is not None and NOW - newest.closed > CLOSED_FOR:
        dropped.add(newest.version)
    chores = judged(config, events, closing=closing)
    assert {n for _, first, last in chores.strip for n in range(first, last + 1)} == stripped
    assert [version for _, version in chores.drop] == sorted(dropped)
    assert chores.close == ([("k", newest.version)] if alone and newest.closed is None else [])
    assert chores.floor == (newest.version if chores.close else 0)
    # What is dropped is the oldest there is, so that no gap comes of it.
    assert sorted(dropped) == sorted(event.version for event in events)[: len(dropped)]


@given(CONFIGS, keys())
def test_what_is_spared_a_look_stays(config: RetentionConfig, events: list[Trace]) -> None:
    """A key that is there, was never purged, and has so few versions that all are kept: nothing would be done to it."""
    judge = Judge(config, now=NOW, closing=True)
    if judge.keeps_all(len(events)) and not judge.is_forgotten(events[0]):
        kept = [event for event in events if event.type != "purged"]
        assert not judged(config, kept or events[:1])


def test_the_newest_event_always_stays() -> None:
    """However old it is, and whatever it is, unless its key is closed and was so for days."""
    for kind in ("saved", "deleted", "purged"):
        chores = judged(RetentionConfig(versions=1), [Trace("k", 1, kind, 0, False, None)])
        assert not chores.strip
        assert not chores.drop


@pytest.mark.parametrize("kind", ["deleted", "purged"])
def test_a_key_is_closed_and_two_days_later_dropped(kind: str) -> None:
    """Long absent and with nothing left but its last event: closed first, dropped when every worker knows of that."""
    config = RetentionConfig(versions=3, forget_days=10)
    last = Trace("k", 7, kind, NOW - 10 * DAY - 1, False, None)
    assert judged(config, [last]) == Chores(close=[("k", 7)], floor=7)
    assert judged(config, [last], closing=False) == Chores()
    assert judged(config, [last._replace(time=NOW - 10 * DAY)]) == Chores()
    assert judged(config, [last._replace(closed=NOW - CLOSED_FOR)]) == Chores()
    assert judged(config, [last._replace(closed=NOW - CLOSED_FOR - 1)]) == Chores(drop=[("k", 7)])
    assert judged(config, [last, Trace("k", 6, "saved", NOW - 11 * DAY, True, None)]).drop == [("k", 6)]


def test_of_a_long_key_the_oldest_go_first() -> None:
    """More than one sweep drops: those that remain are the newer ones, and in the next sweep it is their turn."""
    events = [Trace("k", version, "saved", 0, True, None) for version in range(3 * MAX_DROPS, 0, -1)]
    chores = judged(RetentionConfig(versions=1), events)
    assert chores.drop == [("k", version) for version in range(1, MAX_DROPS + 1)]


def test_keys_do_not_touch_each_other() -> None:
    """One key after another: nothing of the first is remembered for the second."""
    judge = Judge(RetentionConfig(versions=2), now=NOW, closing=True)
    for key in ("a", "b"):
        for version, kind in ((3, "purged"), (2, "saved"), (1, "saved")):
            judge.see(Trace(key, version, "saved" if key == "b" else kind, NOW - DAY, False, None))
        judge.finish()
    assert judge.take().strip == [("a", 1, 2), ("b", 1, 1)]
    assert not judge.take()


def test_runs_of_keys() -> None:
    """Places of one key come together."""
    places = [("a", 2), ("a", 1), ("b", 1), ("c", 3)]
    assert list(by_key(places)) == [places[:2], places[2:3], places[3:]]
    assert list(by_key([])) == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "how many `versions` are kept, or for how many `days`"),
        ({"forget_days": 30}, "how many `versions`"),
        ({"versions": 0}, "greater than or equal to 1"),
        ({"days": 0}, "greater than 0"),
        ({"days": float("inf")}, "finite"),
        ({"versions": 1, "forget_days": 6.9}, "greater than or equal to 7"),
        ({"versions": 1, "interval_seconds": 0}, "greater than 0"),
        ({"versions": 1, "max_age": 3}, "Extra inputs"),
    ],
)
def test_what_cannot_be_set(fields: dict[str, Any], said: str) -> None:
    """A retention that keeps nothing, or forgets what repeats are recognised by too soon, is refused."""
    with pytest.raises(ValidationError, match=said):
        RetentionConfig(**fields)
