"""The change feed on the wire: routing keys, events as CloudEvents, and which messages they are in."""

import json
import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.commands import NOW
from support.deliveries import delivery

from holdfast.events import Event, HistoryEntry, InvalidError, OutboxMessage, Receipt
from holdfast.events.feed import (
    MAX_LEVEL_LENGTH,
    FeedMode,
    binding_keys,
    cloud_event,
    decode_feed,
    level_of,
    notice_key,
    routing_key,
    routing_word,
)
from holdfast.events.limits import REPLY_MESSAGE_BYTES
from holdfast.worker.feed import (
    FEEDS,
    FeedConfig,
    FeedsConfig,
    OutboxConfig,
    feed_publications,
    notice,
    outbox_publications,
)
from holdfast.worker.publication import Letter, Publication

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)


def event(key: str = "user/42", version: int = 1, **fields: object) -> Event:
    given = {"type": "saved", "value": {"n": version}, "id": f"c{version}", "time": NOW, "digest": b"12345678"} | fields
    return Event.model_validate({"key": key, "version": version, **given})


@pytest.mark.parametrize(
    ("store", "key", "expected"),
    [
        ("default", "user/42", "default.user"),
        ("default", "user/42/cart", "default.user"),
        ("default", "user", "default.-"),
        ("default", "/user", "default."),
        ("default", "-/x", "default.%2D"),
        ("a.b", "user.x/1", "a%2Eb.user%2Ex"),
        ("a-b_c", "us er/1", "a-b_c.us%20er"),
        ("default", "#/1", "default.%23"),
        ("default", "*/1", "default.%2A"),
        ("default", "ß/1", "default.%C3%9F"),
        ("default", "x" * 61 + "/1", "default." + "x" * 60),
    ],
)
def test_routing_keys(store: str, key: str, expected: str) -> None:
    """Given a store and a key, when its events are published, then to two words without anything special in them."""
    assert routing_key(store, level_of(key)) == expected


@given(texts)
def test_a_word_is_one_word(text: str) -> None:
    """Given any text, when it becomes a word, then topic exchanges see one word, and AMQP's length is kept."""
    assert re.fullmatch(r"[A-Za-z0-9_~%-]+", routing_word(text))
    assert len(routing_key("s" * 64, text)) <= 64 + 1 + MAX_LEVEL_LENGTH


@given(texts, st.integers(0, 60), st.sampled_from(["levels", "store"]))
def test_whoever_binds_by_a_prefix_gets_all_of_it(key: str, length: int, mode: FeedMode) -> None:
    """Given any prefix of a key, when a queue is bound for it, then the key's events are routed there."""
    events, told = binding_keys("default", mode, key[:length])
    place = routing_key("default", level_of(key) if mode == "levels" else None)
    assert events == place or (events == "default.*" and place.count(".") == 1)
    assert told == notice_key("default") == "default"


def test_an_event_as_it_is_published() -> None:
    """Given an event, when it is published, then as CloudEvents 1.0 has it, with all that a history tells."""
    made = cloud_event("carts", event(author="shop", metadata={"why": "x"}))
    assert json.loads(orjson.dumps(made)) == {
        "specversion": "1.0",
        "id": "user/42@1",
        "source": "/holdfast/carts",
        "type": "holdfast.saved",
        "subject": "user/42",
        "time": "2024-11-21T21:10:56.789Z",
        "datacontenttype": "application/json",
        "data": {
            "key": "user/42",
            "version": 1,
            "type": "saved",
            "etag": event().etag,
            "id": "c1",
            "time": NOW,
            "value": {"n": 1},
            "author": "shop",
            "metadata": {"why": "x"},
        },
    }


def test_null_is_a_value_and_no_value_is_none() -> None:
    """Given a saved null and a delete, when they are published, then one has a value and the other has none."""
    saved, deleted = (cloud_event("s", each)["data"] for each in (event(value=None), event(type="deleted", value=None)))
    assert "value" in saved
    assert "value" not in deleted


def test_what_an_event_carries_is_not_published_in_the_feed() -> None:
    """Given an event with messages, when it is in the feed, then they are not: they are for others."""
    carried = event(messages=[{"exchange": "orders", "body": "secret"}])
    assert b"secret" not in orjson.dumps(cloud_event("s", carried))


def test_there_and_back() -> None:
    """Given a message of the feed, when it is read, then the events are as in a history, in order."""
    events = [event("a", 1), event("a", 2, type="deleted", value=None), event("b/c", 7, author="x")]
    (message,) = feed_publications([("s", events)], {"s": "store"})
    told = decode_feed(message.body)
    assert [(each.key, each.version, each.type, each.value) for each in told] == [
        ("a", 1, "saved", {"n": 1}),
        ("a", 2, "deleted", None),
        ("b/c", 7, "saved", {"n": 7}),
    ]
    assert all(isinstance(each, HistoryEntry) for each in told)
    assert decode_feed(notice("s").body) == []


@pytest.mark.parametrize("body", [b"", b"{}x", b"1", b'"a"', b'{"data":1}', b"[1]", b"[{}]", b'[{"data":{}}]', b"\xff"])
def test_what_is_no_message_of_the_feed(body: bytes) -> None:
    """Given anything else, when it is read, then that is said, and nothing else happens."""
    with pytest.raises(InvalidError, match="not a message of the feed"):
        decode_feed(body)


def summary(messages: list[Publication]) -> list[tuple[str, list[str]]]:
    return [(each.routing_key, [one["id"] for one in json.loads(each.body)]) for each in messages]


def test_a_message_for_each_store_and_level() -> None:
    """Given a batch, when it is published, then the events of each store and level are in one message, in order."""
    events = [event("a/1", 1), event("b/1", 1), event("a/2", 1), event("a/1", 2), event("flat", 1)]
    changes = [("s", events[:3]), ("t", [event("a/1", 1)]), ("s", events[3:])]
    assert summary(list(feed_publications(changes, {"s": "levels", "t": "levels"}))) == [
        ("s.a", ["a/1@1", "a/2@1", "a/1@2"]),
        ("s.b", ["b/1@1"]),
        ("t.a", ["a/1@1"]),
        ("s.-", ["flat@1"]),
    ]


def test_a_store_says_how_its_events_are_published() -> None:
    """Given stores of other modes, when a batch is published, then as one message, or not at all."""
    events = [event("a/1", 1), event("b/1", 1)]
    changes = [("whole", events), ("off", events)]
    made = summary(list(feed_publications(changes, {"whole": "store", "off": "off"})))
    assert made == [("whole.-", ["a/1@1", "b/1@1"])]


def test_messages_are_of_a_bounded_size() -> None:
    """Given more than a MiB of events, when they are published, then in several messages, a giant in its own."""
    values = ["x" * 400_000, "x" * 400_000, "x" * 400_000, "x" * 2_000_000, 1]
    events = [event("a/1", number, value=value) for number, value in enumerate(values, 1)]
    made = list(feed_publications([("s", events)], {"s": "levels"}))
    assert [one for _, ids in summary(made) for one in ids] == [f"a/1@{n}" for n in range(1, 6)]
    assert all(len(each.body) <= REPLY_MESSAGE_BYTES or len(json.loads(each.body)) == 1 for each in made)
    assert len(made) >= 3


def test_feeds_of_stores() -> None:
    """Given a configuration, when a store is looked for, then it has its own feed, or that of all."""
    config = FeedsConfig(mode="store", stores={"quiet": FeedConfig(mode="off")})
    assert (config.of("any").mode, config.of("quiet").mode) == ("store", "off")
    assert (FEEDS.of("any").mode, FEEDS.of("any").stream) == ("levels", True)


@pytest.mark.parametrize(
    "wrong", [{"mode": "on"}, {"stream_max_age": "7"}, {"stream_max_age": "0D"}, {"stream_max_bytes": 5}, {"max": 1}]
)
def test_wrong_feeds(wrong: dict[str, object]) -> None:
    """Given a setting that says nothing, when it is read, then it is refused."""
    with pytest.raises(ValidationError):
        FeedConfig.model_validate(wrong)


def test_the_patience_of_the_feed() -> None:
    """Given seconds for which commands wait for silent queues, when they are none, then they are refused."""
    assert FeedsConfig.model_validate({"patience": 2}).patience == 2
    for wrong in (0, -1, 3601, float("nan")):
        with pytest.raises(ValidationError):
            FeedsConfig.model_validate({"patience": wrong})


@pytest.mark.parametrize(
    ("exchange", "routing_key", "allowed"),
    [
        ("orders", "x", True),
        ("mail", "x", False),
        ("", "my.queue", True),
        ("", "holdfast.commands.0", False),
        ("", "holdfast.dead", False),
        ("holdfast.commands", "0", False),
        ("holdfast.events", "default.user", False),
    ],
)
def test_where_messages_may_go(exchange: str, routing_key: str, allowed: bool) -> None:
    """Given exchanges that are allowed, when a message names one, then never one of Holdfast's, nor its queues."""
    config = OutboxConfig(exchanges=["orders", "", "holdfast.commands", "holdfast.events"])
    objection = config.objection(OutboxMessage(exchange=exchange, routing_key=routing_key))
    assert (objection is None) is allowed
    assert OutboxConfig().objection(OutboxMessage(exchange=exchange, routing_key=routing_key)) is not None


def test_messages_of_a_transaction() -> None:
    """Given a receipt, when its messages are made, then in the line of its key, with the last version it has."""
    results = [{"key": "a", "version": 3}, {"key": "b", "version": 9}, {"key": "a", "version": 4}]
    carried = tuple(OutboxMessage(exchange="orders", routing_key="x", body=n, headers={"who": "me"}) for n in (1, 2))
    answer = {"status": "ok", "results": results}
    receipt = Receipt(id="t", key="a", time=NOW, digest=b"12345678", answer=answer, events=3, messages=carried)
    letter = Letter(delivery(), b"t")
    made = list(outbox_publications("s", receipt, letter))
    assert [(each.body, each.message_id, each.line, each.letter) for each in made] == [
        (b"1", "t/0", ("s", "a"), letter),
        (b"2", "t/1", ("s", "a"), letter),
    ]
    assert made[0].headers == {
        "who": "me",
        "x-holdfast-store": "s",
        "x-holdfast-key": "a",
        "x-holdfast-version": 4,
    }
