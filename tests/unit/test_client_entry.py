"""What the client gives back."""

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta

import pytest

from holdfast.client import Entry, Save
from holdfast.client.entry import to_datetime


def test_an_entry_tells_its_time_in_utc_and_to_the_millisecond() -> None:
    """Milliseconds of service time become an aware datetime without loss, also far from now."""
    entry = Entry("k", 1, "1-abc", 1, 1_732_223_456_789)

    assert entry.updated_at == datetime(2024, 11, 21, 21, 10, 56, 789_000, tzinfo=UTC)
    assert to_datetime(253_402_300_799_999) == datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    assert to_datetime(1) - to_datetime(0) == timedelta(milliseconds=1)


def test_entries_are_plain_values() -> None:
    """Entries and items of save_many compare by content and cannot be changed."""
    entry, item = Entry("k", [1], "e", 1, 0), Save("k", [1])

    assert entry == Entry("k", [1], "e", 1, 0, "default")
    assert (item.etag, item.first_write) == (None, False)
    with pytest.raises(FrozenInstanceError):
        entry.version = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        item.key = "other"  # type: ignore[misc]
