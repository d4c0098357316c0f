"""Spans: which events of a key a history is about, page after page."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Self

from .entry import to_datetime, to_millis


@dataclass(frozen=True, slots=True)
class Span:
    """Conditions on events. All of them have to hold."""

    after_version: int = 0
    before_version: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    backward: bool = False

    def to_wire(self) -> dict[str, Any]:
        """The fields of a command, as far as they say anything.

        :raises ValueError: if a time has no time zone.
        """
        fields: dict[str, Any] = {}
        if self.after_version:
            fields["after_version"] = self.after_version
        if self.before_version is not None:
            fields["before_version"] = self.before_version
        if self.since is not None:
            begun = to_millis(self.since)
            # The first millisecond that is not before it.
            fields["from_time"] = begun if to_datetime(begun) == self.since else begun + 1
        if self.until is not None:
            fields["to_time"] = to_millis(self.until)
        if self.backward:
            fields["backward"] = True
        return fields

    def following(self, place: int) -> Self:
        """What is left behind a page that ends at this version."""
        if self.backward:
            return replace(self, before_version=place)
        return replace(self, after_version=place)
