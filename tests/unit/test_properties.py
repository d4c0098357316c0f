"""Properties that the driver cannot decode belong to their message alone, and no message's take long."""

import datetime as dt
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import decode
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from holdfast.events.topology import HOP_HEADER
from holdfast.worker.properties import (
    DELIVERY_COUNT_HEADER,
    MAX_LEFT_TO_DRIVER,
    UNREADABLE_HEADER,
    read_what_is_looked_at,
    read_what_is_readable,
)


@pytest.fixture(autouse=True)
def forgiving(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The driver as the worker has it, for this test only."""
    with monkeypatch.context() as patch:
        patch.setattr(ContentHeader, "unmarshal", ContentHeader.unmarshal)
        patch.setattr(Basic.Deliver, "unmarshal", Basic.Deliver.unmarshal)
        read_what_is_readable()
        read_what_is_readable()
        yield


def test_unreadable_properties_are_replaced_by_the_reason() -> None:
    """Given a correlation id that is no UTF-8, when the header is read, then its size is known and the fault told."""
    sent = ContentHeader(body_size=3, properties=Basic.Properties(correlation_id="abc", reply_to="me")).marshal()

    header = ContentHeader()
    header.unmarshal(sent.replace(b"abc", b"\xff\xfe\xfd"))

    assert header.body_size == 3
    assert header.properties.reply_to is None
    assert "UnicodeDecodeError" in str((header.properties.headers or {})[UNREADABLE_HEADER])


def test_a_routing_key_that_is_no_text_harms_nothing() -> None:
    """Given a routing key of any bytes, when a delivery is read, then everything before it is there."""
    sent = Basic.Deliver("tag", 7, True, "holdfast.commands", "key").marshal()

    delivery = Basic.Deliver("", 0)
    delivery.unmarshal(sent.replace(b"key", b"\xff\xfe\xfd"))

    assert (delivery.consumer_tag, delivery.delivery_tag, delivery.redelivered) == ("tag", 7, True)
    assert (delivery.exchange, delivery.routing_key) == ("holdfast.commands", "")


def test_what_is_readable_is_read() -> None:
    """Given sound properties, when the header is read, then they are as they were sent."""
    sent = ContentHeader(body_size=3, properties=Basic.Properties(correlation_id="Ω", headers={"a": 1})).marshal()

    header = ContentHeader()
    header.unmarshal(sent)

    assert (header.properties.correlation_id, header.properties.headers) == ("Ω", {"a": 1})


def header(**properties: Any) -> bytes:
    return ContentHeader(body_size=3, properties=Basic.Properties(**properties)).marshal()


def table(entries: bytes) -> bytes:
    return struct.pack(">I", len(entries)) + entries


def with_headers(entries: bytes) -> bytes:
    """A content header whose headers are these bytes, with a reply address behind them."""
    return struct.pack(">HHQH", 60, 0, 3, 0x2200) + table(entries) + b"\x02me"


@pytest.mark.parametrize(
    "properties", [{"timestamp": 2**63}, {"content_type": b"\xff"}, {"headers": b"\x01aT" + b"\xff" * 8}], ids=str
)
def test_what_nobody_looks_at_may_be_anything(properties: dict[str, Any]) -> None:
    """Given a timestamp beyond all years, or a content type of any bytes, then what is looked at is read."""
    sent = struct.pack(">HHQH", 60, 0, 3, 0)
    if "headers" in properties:
        sent = with_headers(properties["headers"])
    elif "timestamp" in properties:
        sent = struct.pack(">HHQH", 60, 0, 3, 0x0240) + b"\x02me" + struct.pack(">Q", properties["timestamp"])
    else:
        sent = struct.pack(">HHQH", 60, 0, 3, 0x8200) + b"\x01\xff" + b"\x02me"

    header = ContentHeader()
    header.unmarshal(sent)

    assert (header.body_size, header.properties.reply_to) == (3, "me")
    assert UNREADABLE_HEADER not in (header.properties.headers or {})


@pytest.mark.parametrize(
    "entries",
    [
        b"\x01aA" + table(b"V" * 100_000),
        b"\x01aV" * 30_000,
        b"\x01aF" + table(b"\x01aF" + table(b"\x01aF" + table(b"\x01ax" + table(b"\xff" * MAX_LEFT_TO_DRIVER)))),
        b"".join(b"\x01aT" + b"\xff" * 8 for _ in range(10_000)),
    ],
    ids=["array", "table", "nested", "timestamps"],
)
def test_large_headers_are_passed_over(entries: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given 100 KiB of headers, when they are read, then not by the driver, which takes long; but what counts is."""
    monkeypatch.setitem(decode.METHODS, "table", None)
    count = bytes([len(DELIVERY_COUNT_HEADER)]) + DELIVERY_COUNT_HEADER.encode() + b"l" + struct.pack(">q", 7)
    hop = bytes([len(HOP_HEADER)]) + HOP_HEADER.encode() + b"S" + table(b"once")

    header = ContentHeader()
    header.unmarshal(with_headers(entries + count + hop))

    assert header.properties.reply_to == "me"
    assert header.properties.headers == {DELIVERY_COUNT_HEADER: 7, HOP_HEADER: None}


def test_tables_without_a_bottom() -> None:
    """Given headers nested deeper than the driver can follow, when they are small, then the rest is read."""
    entries = b""
    for _ in range(MAX_LEFT_TO_DRIVER // 8):
        entries = b"\x01aF" + table(entries)
    header = ContentHeader()
    header.unmarshal(with_headers(entries))
    assert header.properties.reply_to == "me"


def test_nobody_else_calls_a_message_unreadable() -> None:
    """Given a publisher's own header of the name that stands for unreadable properties, then it is dropped."""
    header_ = ContentHeader()
    header_.unmarshal(header(headers={UNREADABLE_HEADER: "no", "a": 1}))
    assert header_.properties.headers == {"a": 1}


texts = st.text(max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(width=32, allow_nan=False) | texts
nested = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)
looked_at = {
    "correlation_id": texts,
    "reply_to": texts,
    "message_id": texts,
    "user_id": texts,
    "headers": st.dictionaries(texts, nested, max_size=4)
    | st.builds(
        lambda others, count: {**others, DELIVERY_COUNT_HEADER: count},
        st.dictionaries(texts, nested, max_size=2),
        st.integers(-(2**63), 2**63 - 1),
    ),
}
passed_over = {
    "content_type": texts,
    "content_encoding": texts,
    "delivery_mode": st.sampled_from([1, 2]),
    "priority": st.integers(0, 255),
    "expiration": texts,
    "timestamp": st.just(dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
    "message_type": texts,
    "app_id": texts,
}


@given(st.fixed_dictionaries({}, optional=looked_at | passed_over))
def test_both_readings_are_the_same(properties: dict[str, Any]) -> None:
    """Given sound properties, when they are read in one pass, then what counts is as the driver reads it."""
    sent = header(**properties)
    driver = ContentHeader()
    ContentHeader.unmarshal.__wrapped__(driver, sent)  # type: ignore[attr-defined]
    ours = read_what_is_looked_at(sent)
    for name in looked_at.keys() - {"headers"}:
        assert getattr(ours, name) == getattr(driver.properties, name)
    headers = driver.properties.headers or {}
    assert (ours.headers or {}) == {name: headers[name] for name in headers if name == DELIVERY_COUNT_HEADER}


@given(st.binary(max_size=80))
def test_no_bytes_break_the_reading(data: bytes) -> None:
    """Given any bytes at all behind the size, then a message comes of them, readable or not."""
    header = ContentHeader()
    header.unmarshal(struct.pack(">HHQ", 60, 0, 3) + b"\x00\x00" + data)
    for flags in (b"\xff\xfe", b"\xff\xff", b"\x20\x00", b"\x22\x00", data[:2].ljust(2, b"\0")):
        header.unmarshal(struct.pack(">HHQ", 60, 0, 3) + flags + data)
        assert header.body_size == 3
