"""While dead letters are looked at, the driver reads all properties; afterwards as before, for whoever else uses it."""

from contextlib import ExitStack

from pamqp.commands import Basic
from pamqp.header import ContentHeader

from holdfast.dead.properties import all_properties
from holdfast.worker.properties import UNREADABLE_HEADER


def test_properties_that_cannot_be_read_are_replaced_by_the_reason() -> None:
    """Given a correlation id that is no UTF-8, when the header is read, then its size is known and the fault told."""
    sent = ContentHeader(body_size=3, properties=Basic.Properties(correlation_id="abc", reply_to="me")).marshal()
    header = ContentHeader()
    with all_properties():
        header.unmarshal(sent.replace(b"abc", b"\xff\xfe\xfd"))
    assert header.body_size == 3
    assert "UnicodeDecodeError" in str((header.properties.headers or {})[UNREADABLE_HEADER])


def test_readers_may_leave_in_any_order() -> None:
    """Given two at once, when the first one leaves first, then the other still reads all, and at the end nobody."""
    before = ContentHeader.unmarshal
    first, second = ExitStack(), ExitStack()
    first.enter_context(all_properties())
    during = ContentHeader.unmarshal
    second.enter_context(all_properties())
    first.close()
    assert ContentHeader.unmarshal is during is not before
    second.close()
    assert ContentHeader.unmarshal is before
