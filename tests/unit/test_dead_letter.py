"""What a message of the dead letter queue tells, whoever has put it there and whatever stands in it."""

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dead import letter, message
from support.deliveries import delivery

from holdfast.dead import DeadLetter
from holdfast.dead.letter import Entry, plain
from holdfast.events.limits import MAX_MESSAGE_BYTES
from holdfast.worker.burial import burial_headers
from holdfast.worker.properties import UNREADABLE_HEADER

SECONDS = 1_768_471_200
DEATH = {
    "count": 1,
    "reason": "delivery_limit",
    "queue": "holdfast.commands.3",
    "exchange": "",
    "routing-keys": ["3"],
    "time": dt.datetime.fromtimestamp(SECONDS, tz=dt.UTC),
}
ID = "00ff" * 4


def by_broker(body: bytes = b"{}", headers: Any = (), death: Any = (), **properties: Any) -> DeadLetter:
    """A letter that RabbitMQ has put there."""
    return DeadLetter.of(message(body, headers={"x-death": [DEATH | dict(death)]} | dict(headers), **properties))


def test_a_workers_letter_tells_everything() -> None:
    """Given a message that a worker has buried, when its letter is read, then all that was known of it is there."""
    original = delivery(
        b'{"op": "save"}', message_id="m", author="ada", reply_to="amq.gen-1", queue="holdfast.commands.3", count=2
    )
    headers = burial_headers(original, reason="missing_field", detail="key: is required", now=SECONDS * 1000)
    # Its message id is the driver's, and its user is the worker.
    read = DeadLetter.of(
        message(original.body, headers=headers, message_id="w-1", correlation_id="c", user_id="worker")
    )
    assert read == DeadLetter(
        id=headers["x-holdfast-letter"],
        reason="missing_field",
        detail="key: is required",
        body=original.body,
        time=SECONDS * 1000,
        queue="holdfast.commands.3",
        deliveries=2,
        author="ada",
        message_id="m",
        correlation_id="c",
        reply_to="amq.gen-1",
        headers=headers,
    )


def test_the_brokers_letter_is_the_message_as_it_was() -> None:
    """Given a message that RabbitMQ has given up, when its letter is read, then its properties tell who sent it."""
    read = by_broker(b"x", message_id="m", correlation_id="c", reply_to="amq.gen-1", user_id="ada")
    assert (read.reason, read.queue, read.time) == ("delivery_limit", "holdfast.commands.3", SECONDS * 1000)
    assert read.detail == "delivered more often than the queue's limit allows"
    assert (read.author, read.message_id, read.correlation_id, read.reply_to) == ("ada", "m", "c", "amq.gen-1")
    assert read.readable


def test_a_sender_cannot_make_up_what_workers_note() -> None:
    """Given a message with headers like a worker's, when the broker has given it up, then they count for nothing."""
    forged = {
        "x-holdfast-author": "root",
        "x-holdfast-reason": "harmless",
        "x-holdfast-letter": ID,
        "x-holdfast-message-id": "other",
        "x-holdfast-time": 1,
    }
    read = by_broker(headers=forged, user_id="eve")
    assert (read.author, read.reason, read.message_id) == ("eve", "delivery_limit", None)
    assert read.time == SECONDS * 1000
    assert read.id != ID
    assert by_broker(headers=forged).author is None


def test_a_letter_keeps_its_id_however_often_it_is_looked_at() -> None:
    """Given a letter without an id of its own, when it has been delivered before, then it has the same id."""
    ids = {by_broker(headers={"x-delivery-count": count}, message_id="m").id for count in (0, 1, 30)}
    assert len(ids) == 1
    by_hand = {DeadLetter.of(message(headers={"x-holdfast-reason": "r", "x-delivery-count": n})).id for n in (1, 2)}
    assert len(by_hand) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"body": b"{} "},
        {"message_id": "n"},
        {"user_id": "bob"},
        {"correlation_id": "d"},
        {"reply_to": "amq.gen-2"},
        {"death": {"queue": "holdfast.commands.1"}},
        {"death": {"time": dt.datetime.fromtimestamp(SECONDS + 1, tz=dt.UTC)}},
    ],
    ids=str,
)
def test_letters_that_differ_have_different_ids(other: dict[str, Any]) -> None:
    """Given two letters of the broker, when anything tells them apart, then their ids do."""
    properties: dict[str, Any] = {"message_id": "m", "user_id": "ada", "correlation_id": "c", "reply_to": "amq.gen-1"}
    assert by_broker(**properties).id != by_broker(**properties | other).id


def test_a_replayed_message_that_the_broker_gives_up_is_the_letter_that_it_came_from() -> None:
    """Given a replay that ends in the queue again, when it is read, then it has the id of its letter."""
    assert by_broker(headers={"x-holdfast-replay": ID}).id == ID
    assert by_broker(headers={"x-holdfast-replay": ID.upper()}).id != ID.upper()


def test_nobody_knows_who_sent_what_cannot_be_read() -> None:
    """Given properties that the driver could not read, when the letter is read, then that is what it tells."""
    read = DeadLetter.of(message(b"{}", headers={UNREADABLE_HEADER: "UnicodeDecodeError: bad"}))
    assert not read.readable
    assert "UnicodeDecodeError" in read.detail
    assert read.author is None
    headers = burial_headers(delivery(), reason="bad_properties", detail="", now=SECONDS)
    assert not DeadLetter.of(message(b"{}", headers=headers)).readable


def test_a_message_that_somebody_has_put_there() -> None:
    """Given a message with nothing at all, when it is read, then it is a letter like others, of unknown reason."""
    read = DeadLetter.of(message(b"\xff"))
    assert (read.reason, read.time, read.entries, read.text) == ("unknown", None, [], None)
    assert len(read.id) == 16


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "x-death",
            "x-holdfast-reason",
            "x-holdfast-letter",
            "x-holdfast-replay",
            "x-holdfast-time",
            "x-holdfast-author",
            "x-holdfast-deliveries",
            "other",
        ]
    ),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.text()
        | st.binary()
        | st.floats()
        | st.datetimes(timezones=st.just(dt.UTC))
        | st.just(Decimal("1.5")),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
)


@given(HEADERS, st.binary() | st.from_regex(rb'\[?\{"(id|op|key)": .*\}\]?', fullmatch=True))
def test_whatever_stands_in_a_letter_it_can_be_read_and_shown(headers: dict[str, Any], body: bytes) -> None:
    """Given any headers and any body, when the letter is read, then nothing is raised, and all of it fits JSON."""
    read = DeadLetter.of(message(body, headers=headers))
    assert orjson.loads(orjson.dumps(read.summary()))["letter"] == read.id
    record = orjson.loads(orjson.dumps(read.record()))
    assert (record.get("body") is None) == (read.text is None)


def test_the_commands_in_a_letter_are_made_out_without_being_judged() -> None:
    """Given commands with faults, when a letter is read, then what can be made out of them is there."""
    read = letter({"op": "sav", "key": "k", "id": 7}, {"op": "read", "store": "s", "key": "r", "id": "c2"}, 1)
    assert read.entries == [Entry(None, "sav", "default", "k"), Entry("c2", "read", "s", "r")]
    assert letter({"op": "save", "key": "k"}, message_id="m").entries == [Entry("m", "save", "default", "k")]
    assert letter({"op": "save", "key": "k", "id": "c"}, message_id="m").entries[0].id == "c"
    assert letter([{"key": "k"}], message_id="m").entries == [Entry(None, None, "default", "k")]
    assert letter({"op": "describe"}).entries == [Entry(None, "describe", None, None)]
    assert letter("text").entries == []


def test_a_body_that_is_too_large_is_not_looked_at() -> None:
    """Given a body over the limit of a message, when a letter is read, then nobody parses it."""
    assert letter(body=b'{"op": "read"}' + b" " * MAX_MESSAGE_BYTES).entries == []


def test_a_summary_counts_commands_and_shows_the_first() -> None:
    """Given a letter of two commands, when it is summed up, then the first is shown and both are counted."""
    summary = letter({"op": "save", "key": "a", "id": "1"}, {"op": "read", "key": "b", "id": "2"}).summary()
    assert (summary["commands"], summary["op"], summary["key"], summary["id"]) == (2, "save", "a", "1")
    assert letter(body=b"no").summary()["op"] is None


def test_a_record_has_any_body() -> None:
    """Given text and bytes, when they are recorded, then text is text and bytes are in base64."""
    assert letter(body="ü".encode()).record()["body"] == "ü"
    record = letter(body=b"\xff\x00").record()
    assert "body" not in record
    assert record["body_base64"] == "/wA="


def test_headers_in_terms_of_json() -> None:
    """Given a header of each kind, when it is shown, then JSON can hold it."""
    made = plain({"time": DEATH["time"], "bytes": b"\xff", "list": [Decimal("1.5"), (1,)], 1: None})
    assert json.loads(json.dumps(made)) == {
        "time": "2026-01-15T10:00:00+00:00",
        "bytes": "\\xff",
        "list": ["1.5", [1]],
        "1": None,
    }
