"""Properties that the driver cannot decode belong to their message alone."""

from collections.abc import Iterator

import pytest
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from holdfast.worker.properties import UNREADABLE_HEADER, read_what_is_readable


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
